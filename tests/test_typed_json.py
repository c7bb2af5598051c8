from dataclasses import dataclass
from typing import Any, Literal

import pytest

from dcgan_dist.typed_json import from_json


@dataclass(frozen=True)
class Inner:
    kind: Literal["a", "b"]


@dataclass(frozen=True)
class Outer:
    count: int
    inner: tuple[Inner, ...]
    options: dict[str, int | str]
    later: str = "before"


GOOD: dict[str, Any] = {"count": 1, "inner": [{"kind": "a"}], "options": {"x": 2}, "unknown": None}


def test_builds_nested_dataclasses_and_ignores_the_rest() -> None:
    assert from_json(Outer, GOOD, "f") == Outer(1, (Inner("a"),), {"x": 2})
    assert from_json(Outer, GOOD | {"later": "now", "options": {"y": "z"}}, "f").later == "now"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "1"}, "f: count: must be of type int, got '1'"),
        ({"count": 1.0}, "f: count: must be of type int"),
        ({"count": True}, "f: count: must be of type int"),
        ({"count": -1}, "f: count: must be zero or more, got -1"),
        ({"inner": {}}, "f: inner: must be of type list"),
        ({"inner": [{"kind": "c"}]}, r"f: inner\[0\]: kind: must be one of a, b, got 'c'"),
        ({"inner": [{}]}, r"f: inner\[0\]: the field 'kind' is missing"),
        ({"options": {"x": [2]}}, "f: options.x: must be of type int"),
        ({"options": {"x": -2}}, "f: options.x: must be zero or more"),
        ({"later": 3}, "f: later: must be of type str"),
    ],
)
def test_names_the_field_and_the_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(Outer, GOOD | change, "f")
