"""Frozen dataclasses from JSON that somebody else may have written: every field is there and has its type."""

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def from_json(kind: type[T], value: Any, where: str) -> T:
    """``value``, as ``json.loads`` gives it, as the dataclass ``kind``; fields that ``kind`` has not are ignored.

    A field with a default may be missing: an older version did not write it. Fields may be dataclasses, ``str``,
    ``int`` (zero or more), ``int | str``, ``Literal``, ``tuple[X, ...]`` and ``dict[str, X]``.

    Args:
        kind: The dataclass.
        value: What was read.
        where: Where from; begins each message.

    Raises:
        ValueError: If a field is missing or of another type.
    """
    return typing.cast(T, _typed(kind, value, where))


def _typed(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, _plain(dict, value, where), where)
    if origin is tuple:
        items = _plain(list, value, where)
        return tuple(_typed(arguments[0], item, f"{where}[{place}]") for place, item in enumerate(items))
    if origin is dict:
        items = _plain(dict, value, where)
        return {name: _typed(arguments[1], item, f"{where}.{name}") for name, item in items.items()}
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where}: must be one of {', '.join(arguments)}, got {value!r:.80}")
        return value
    if origin is types.UnionType:
        return _plain(next((each for each in arguments if isinstance(value, each)), arguments[0]), value, where)
    return _plain(kind, value, where)


def _dataclass(kind: Any, fields: dict[str, Any], where: str) -> Any:
    values = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in fields:
            values[field.name] = _typed(hints[field.name], fields[field.name], f"{where}: {field.name}")
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"{where}: the field {field.name!r} is missing")
    return kind(**values)


def _plain(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):  # a bool is an int to Python
        raise ValueError(f"{where}: must be of type {kind.__name__}, got {value!r:.80}")
    if isinstance(value, int) and value < 0:
        raise ValueError(f"{where}: must be zero or more, got {value}")
    return value
