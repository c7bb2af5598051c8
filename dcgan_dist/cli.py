"""From a YAML file and flags to one checked config, and back. The only module that knows tyro."""

import contextlib
import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from dcgan_dist.config import LENGTHS, RunConfig, TrainConfig, changed, leaves
from dcgan_dist.manual import PROGRAM, page, recipe_names
from dcgan_dist.recipes import CONFIGS, instead_of, recipe_file
from dcgan_dist.terminal import fail, first_process_alone_speaks, is_first_process, takes_colours
from dcgan_dist.words import did_you_mean

_COMMANDS_OWN = ("config", "summary", "dry_run")
"""Settings that say what else than training the command does, or where its settings are."""

QUICK_START = """Which recipe on which data? For example, with no download:

    dcgan-shard synthetic --out shards/synthetic-32 --size 32 --count 4000
    accelerate launch -m dcgan_dist.train --config synthetic-arch1 --data shards/synthetic-32

Recipes:

{recipes}

--help has the most used settings and more examples.
"""


def parse(argv: Sequence[str] | None = None) -> TrainConfig:
    """The config of ``argv``: defaults, then the YAML of ``--config``, then flags. Errors are told once and exit 2.

    ``--help`` is printed, with the values of ``--config`` for defaults, and exits 0.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        if is_first_process():
            print(QUICK_START.format(recipes=recipe_names()), file=sys.stderr)
        raise SystemExit(2)
    try:
        arguments = normalised(arguments)
        base = TrainConfig()
        if path := _config_file(arguments):
            lengthy = any(_names(argument) & set(LENGTHS) for argument in arguments)
            base = _of_file(path, without=LENGTHS if lengthy else ())
        if (topic := _help_topic(arguments)) is not None:
            text = page(base, topic)
            if is_first_process():
                print(text, end="")
            raise SystemExit(0)
    except ValueError as error:
        fail(str(error))
    # tyro itself colours what goes to standard error by what standard output is, and knows no NO_COLOR
    tyro._experimental_options["ansi_codes"] = takes_colours(sys.stderr)
    with first_process_alone_speaks():
        return tyro.cli(
            TrainConfig,
            args=arguments,
            default=base,
            prog=PROGRAM,
            config=(tyro.conf.OmitArgPrefixes,),
            use_underscores=True,
            console_outputs=is_first_process(),
        )


def read_config(path: str | PathLike[str], changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """The config of a YAML file with some settings changed: what ``--config`` and flags give.

    A length among the changes takes the place of the file's.

    Args:
        path: A recipe, or the name of one of the package, or the config.yaml of a run.
        changes: Values by the names of settings, wherever in the config they are; ``run_dir`` and ``resume`` too.

    Raises:
        ValueError: A file or value is wrong; names file and line or setting, the rule and the value.
    """
    values = {name: _checked(name, value) for name, value in (changes or {}).items()}
    return changed(_of_file(str(path), without=LENGTHS if set(LENGTHS) & set(values) else ()), values)


def _of_file(given: str, *, without: Sequence[str]) -> TrainConfig:
    """The config of the file that ``--config`` means, but for some of its settings, which are as their defaults."""
    values = {name: value for name, value in read_recipe(given).items() if name not in without}
    try:
        return changed(TrainConfig(), values)
    except ValueError as error:
        raise ValueError(f"config {given}: {error}") from None


def _checked(name: str, value: Any) -> Any:
    """The value of a setting that a program gives, as its field has it."""
    types_by_name = leaf_types(TrainConfig)
    if name not in types_by_name:
        raise ValueError(_unknown(name, types_by_name))
    if name in _COMMANDS_OWN:
        raise ValueError(f"{name} belongs on the command line")
    kind = types_by_name[name]
    if kind is str and not isinstance(value, str | PathLike):
        raise ValueError(f"{name} must be text, got {value!r}")
    try:
        return _converted([str(item) for item in value] if isinstance(value, list | tuple) else str(value), kind)
    except ValueError as error:
        raise ValueError(f"{name} must be {error}, got {value!r}") from None


def normalised(arguments: Sequence[str]) -> list[str]:
    """Flags as tyro reads them, from the forms that sweep agents send too.

    ``--flip=True`` becomes ``--flip``, ``--flip=false`` becomes ``--no_flip``, a list ``1,2`` or ``[1, 2]`` becomes
    ``1 2``, and ``--set "lr=1e-4 seed=1"`` becomes ``--lr=1e-4 --seed=1``.
    """
    arguments = _without_set(arguments)
    types_by_name = leaf_types(TrainConfig)
    result: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        kind = types_by_name.get(name) if argument.startswith("--") else None
        if kind is bool:
            if not equals and position < len(arguments) and arguments[position].lower() in ("true", "false"):
                value, position = arguments[position], position + 1
            if value.lower() not in ("", "true", "false"):
                raise ValueError(f"{name} must be true or false, got {value!r}")
            result.append(f"--no_{name}" if value.lower() == "false" else f"--{name}")
        elif typing.get_origin(kind) is tuple:
            items = [value] if equals else []
            while not equals and position < len(arguments) and not arguments[position].startswith("--"):
                items.append(arguments[position])
                position += 1
            result += [f"--{name}", *" ".join(items).strip("[]()").replace(",", " ").split()]
        elif equals and kind in (int, int | None):
            try:
                result.append(f"--{name}={_converted(value, kind)}")
            except ValueError as error:
                raise ValueError(f"{name} must be {error}, got {value!r}") from None
        else:
            result.append(argument)
    return result


def _without_set(arguments: Sequence[str]) -> list[str]:
    """The arguments with the settings of each ``--set`` as flags of their own."""
    result: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if _names(argument) != {"set"}:
            result.append(argument)
            continue
        _, equals, value = argument.partition("=")
        for pair in (value if equals else next(rest, "")).split():
            name, equals, _ = pair.partition("=")
            if not equals or not name.isidentifier():
                raise ValueError(f"set must be settings as 'lr=1e-4 seed=1', got {pair!r}")
            result.append(f"--{pair}")
    return result


def settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Values by name of the settings that flags give, each converted by its field's type; ``parse`` without its time.

    Raises:
        ValueError: naming field and value; an unknown field gets a suggestion.
    """
    types_by_name = leaf_types(TrainConfig)
    given: dict[str, list[str]] = {}
    for argument in normalised(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            items = given[name] = [value] if equals else []
        elif not given:
            raise ValueError(f"{argument!r} must come after the --name of a setting")
        else:
            items.append(argument)
    values: dict[str, Any] = {}
    for name, items in given.items():
        positive = name.removeprefix("no_")
        if types_by_name.get(positive) is bool and not items:
            values[positive] = name == positive
            continue
        if name not in types_by_name:
            raise ValueError(_unknown(name, types_by_name))
        kind = types_by_name[name]
        if typing.get_origin(kind) is not tuple and len(items) != 1:
            raise ValueError(f"{name} must be one value, got {' '.join(items)!r}")
        try:
            values[name] = _converted(items if typing.get_origin(kind) is tuple else items[0], kind)
        except ValueError as error:
            raise ValueError(f"{name} must be {error}, got {' '.join(items)!r}") from None
    return values


def _unknown(name: str, known: Iterable[str]) -> str:
    return f"unknown setting {name!r}{did_you_mean(name, known)}"


def read_recipe(given: str) -> dict[str, Any]:
    """Settings by name from the file that ``--config`` means: a path, or the name of a recipe of the package.

    Raises:
        ValueError: as ``read_yaml``, also when there is neither.
    """
    path = recipe_file(given)
    with contextlib.suppress(OSError):  # of a name that no file can have: read_yaml tells
        if not path.exists():
            raise ValueError(f"config {given}: no such file, nor a recipe of the package; {instead_of(given, CONFIGS)}")
    return read_yaml(path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Settings by name from a flat YAML file, each converted by its field's type.

    Raises:
        ValueError: naming file, line, field and value; an unknown field gets a suggestion.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except FileNotFoundError:
        raise ValueError(f"config {path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"config {path}: cannot be read: {' '.join(str(error).split())}") from None
    if node is None:
        raise ValueError(f"config {path}: is empty")
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"config {path}: must be lines of 'name: value'")
    types_by_name = leaf_types(TrainConfig)
    for name in leaf_types(RunConfig):
        del types_by_name[name]
    values: dict[str, Any] = {}
    for key, value in node.value:
        place = f"config {path}, line {key.start_mark.line + 1}"
        name = str(key.value).replace("-", "_")
        if name not in types_by_name:
            if name in leaf_types(RunConfig):
                raise ValueError(f"{place}: {name} belongs on the command line, not in a file")
            raise ValueError(f"{place}: {_unknown(name, types_by_name)}")
        if name in values:
            raise ValueError(f"{place}: {name} is given twice")
        if isinstance(value, yaml.MappingNode):
            raise ValueError(f"{place}: {name} must be one value; settings are not nested")
        items = [item.value for item in value.value] if isinstance(value, yaml.SequenceNode) else value.value
        try:
            values[name] = _converted(items, types_by_name[name])
        except ValueError as error:
            raise ValueError(f"{place}: {name} must be {error}, got {items!r}") from None
    return values


def _converted(value: Any, kind: Any) -> Any:
    """A YAML scalar (text) or list as ``kind``; the ValueError says only what it must be."""
    if isinstance(kind, types.UnionType):
        (inner,) = [option for option in typing.get_args(kind) if option is not type(None)]
        return None if value in ("null", "None", "~", "") else _converted(value, inner)
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if not isinstance(value, list) or len(value) != len(inner):
            raise ValueError(f"a list of {len(inner)} numbers")
        return tuple(_converted(item, each) for item, each in zip(value, inner, strict=True))
    if isinstance(value, list):
        raise ValueError("one value, not a list")
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise ValueError(" or ".join(typing.get_args(kind)))
        return value
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return value.lower() == "true"
    if kind is str:
        return value
    try:
        number = float(value)
        if kind is float:
            return number
        return int(value) if value.lstrip("+-").isdigit() else _whole(number)
    except (ValueError, OverflowError):
        raise ValueError("a number" if kind is float else "a whole number") from None


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError
    return int(number)


def to_yaml(config: TrainConfig) -> str:
    """The whole config but its ``run`` part as a flat YAML file with a heading for each group."""
    lines = ["# Every setting of this run. Run it again: " + PROGRAM + " --config THIS_FILE"]
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, RunConfig):
            continue
        if is_dataclass(value):
            lines += ["", f"# {item.name}: {(value.__doc__ or '').strip()}"]
            lines += [f"{name}: {_yaml_value(leaf)}" for name, leaf in leaves(value)]
        elif value is not None:
            lines.append(f"{item.name}: {_yaml_value(value)}")
    return "\n".join(lines) + "\n"


def _yaml_value(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_yaml_value(item) for item in value) + "]"
    if isinstance(value, str) and value and all(c.isalnum() or c in "-_./" for c in value):
        return value
    return json.dumps(value)


def leaf_types(config_class: Any) -> dict[str, Any]:
    """Type of each leaf of a config dataclass by its name."""
    found: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(config_class).items():
        found |= leaf_types(kind) if is_dataclass(kind) else {name: kind}
    return found


def _config_file(arguments: Sequence[str]) -> str | None:
    """The file of --config; without one, a run that is resumed has its own."""
    path = _value_of("config", arguments)
    if path is None and "--resume" in arguments and (run_dir := _value_of("run_dir", arguments)):
        own = Path(run_dir) / "config.yaml"
        if not own.exists():
            raise ValueError(f"resume: there is no {own}; give --config to start a run there")
        return str(own)
    return path


def _help_topic(arguments: Sequence[str]) -> str | None:
    """What --help is asked about, "" for its first page; None when nobody asks for help."""
    for position, argument in enumerate(arguments):
        flag, _, topic = argument.partition("=")
        if flag in ("-h", "--help"):
            following = arguments[position + 1 : position + 2]
            return topic or "".join(word for word in following if not word.startswith("-"))
    return None


def _names(argument: str) -> set[str]:
    """The setting an argument names, if it is a flag."""
    return {argument[2:].partition("=")[0].replace("-", "_")} if argument.startswith("--") else set()


def _value_of(name: str, arguments: Sequence[str]) -> str | None:
    """The value of the last ``--name value`` or ``--name=value``."""
    found = None
    for position, argument in enumerate(arguments):
        if name in _names(argument):
            _, equals, value = argument.partition("=")
            found = value if equals else "".join(arguments[position + 1 : position + 2])
    return found
