"""Words for people. Standard library only."""

import difflib
import hashlib
from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """The number with its noun: 1 process, 2,000 processes."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def shortened(name: str, limit: int) -> str:
    """The name, or its beginning and a digest of all of it that keeps it apart, in at most ``limit`` characters."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 13]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A question that ends a message: the known name most like ``given``; empty when none is like it."""
    close = difflib.get_close_matches(given, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
