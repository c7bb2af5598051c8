"""What pip installs: ``requirements.py EXTRAS`` makes requirements.txt and build-requirements.txt of pyproject.toml.

As files of their own, because what else changes in pyproject.toml leaves the image's layers as they are.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path


def expanded(names: Iterable[str], extras: dict[str, list[str]]) -> Iterator[str]:
    """Requirements of these extras, and of the extras they name."""
    for name in names:
        if name not in extras:
            sys.exit(f"error: EXTRAS must be of {', '.join(extras)}, with commas between, got {name!r}")
        for requirement in extras[name]:
            own = re.fullmatch(r"dcgan_dist\[(.*)\]", requirement)
            yield from expanded(own[1].split(","), extras) if own else [requirement]


def main() -> None:
    """Write both files beside pyproject.toml, in the working directory."""
    table = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    project = table["project"]
    chosen = [name for name in sys.argv[1].split(",") if name]
    lines = [*project["dependencies"], *expanded(chosen, project["optional-dependencies"])]
    Path("requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path("build-requirements.txt").write_text("\n".join(table["build-system"]["requires"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
