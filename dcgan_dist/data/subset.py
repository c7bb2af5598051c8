"""Parts of a set that a user asks for by class names, a comma between them."""

import csv
import difflib
import re
from collections.abc import Sequence

_SHOWN = 12


def names_in(text: str) -> tuple[str, ...]:
    """The names of a comma-separated list; one with a comma of its own stands in double quotes.

    >>> names_in('rose, "lily, white"')
    ('rose', 'lily, white')
    """
    line = re.sub(r"\s", " ", text).strip()
    return tuple(name.strip() for row in csv.reader([line], skipinitialspace=True) for name in row)


def labels_of(wanted: Sequence[str], classes: Sequence[str], *, what: str) -> list[int]:
    """The numbers, rising, of the classes with these names.

    Args:
        wanted: Names, in any order.
        classes: The names of all classes, by number.
        what: The setting that has the names; begins each message.

    Raises:
        ValueError: If a name is no class or is there twice.
    """
    for place, name in enumerate(wanted):
        if name in wanted[:place]:
            raise ValueError(f"{what}: {name!r} is there twice")
        if name not in classes:
            close = difflib.get_close_matches(name, classes, n=1)
            known = ", ".join(classes[:_SHOWN]) + (f" and {len(classes) - _SHOWN} more" if classes[_SHOWN:] else "")
            hint = f"did you mean {close[0]!r}?" if close else f"there are {known}"
            raise ValueError(f"{what}: must be names of classes, got {name!r}; {hint}")
    return sorted(list(classes).index(name) for name in wanted)
