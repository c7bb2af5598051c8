"""Keys of images in shards, from the names they have in their source."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath


def unique_keys(names: Sequence[str]) -> list[str]:
    """A key for each member name: the name without its suffix, made fit for a WebDataset and told apart where need be.

    Two names that differ in nothing but the suffix keep it (``a.jpg``, ``a.png``: ``a-jpg``, ``a-png``); what is
    still the same is numbered, in the order given.
    """
    plain = [_key(name) for name in names]
    repeated = {key for key, count in Counter(plain).items() if count > 1}
    if not repeated:
        return plain
    taken = set(plain) - repeated
    numbers: Counter[str] = Counter()
    keys = []
    for name, key in zip(names, plain, strict=True):
        if key not in repeated:
            keys.append(key)
            continue
        base = unused = f"{key}-{PurePosixPath(name).suffix[1:].lower()}"
        while unused in taken:
            numbers[base] += 1
            unused = f"{base}-{numbers[base] + 1}"
        taken.add(unused)
        keys.append(unused)
    return keys


def _key(name: str) -> str:
    """The name without its suffix.

    Other dots would end a WebDataset's key, a first folder ``__x__`` would hide it, and control characters are for
    nobody.
    """
    path = PurePosixPath("".join(c if c.isprintable() else "_" for c in name))
    key = str(path.with_name(path.stem.replace(".", "_")))
    if re.match(r"__[^/]*__/", key):
        first, _, rest = key.partition("/")
        key = f"{first.lstrip('_') or 'x'}/{rest}"
    return key
