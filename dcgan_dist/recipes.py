"""The recipes and sweeps that come with the package: the repository's configs/, which a wheel has beside this file."""

import difflib
from pathlib import Path

_INSTALLED = Path(__file__).with_name("configs")
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "configs"
"""Directory of the recipes, NAME.yaml each."""
SWEEPS = CONFIGS / "sweeps"


def recipe_file(given: str) -> Path:
    """The file that ``--config`` means: the one at this path, else the recipe that NAME or configs/NAME.yaml names."""
    return _file(given, CONFIGS, prefix="configs/")


def sweep_file(given: str) -> Path:
    """The file of a sweep: the one at this path, else the sweep that NAME or configs/sweeps/NAME.yaml names."""
    return _file(given, SWEEPS, prefix="configs/sweeps/")


def names(directory: Path) -> list[str]:
    """What ``directory``, CONFIGS or SWEEPS, has, in the order of the alphabet."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def instead_of(given: str, directory: Path) -> str:
    """What to write instead of a name or path that is none: the most similar name, and all there are."""
    known = names(directory)
    close = difflib.get_close_matches(Path(given).stem, known, n=1)
    return (f"did you mean {close[0]}? " if close else "") + f"there are {', '.join(known)}"


def _file(given: str, directory: Path, *, prefix: str) -> Path:
    own = Path(given)
    name = str(own).removeprefix(prefix).removesuffix(".yaml")
    return directory / f"{name}.yaml" if name in names(directory) and not own.is_file() else own
