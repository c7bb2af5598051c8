"""What the trainer's --help shows: a first page, and a page for each section of the config. Standard library only."""

import argparse
import ast
import inspect
import itertools
import textwrap
import typing
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from dcgan_dist import config as settings
from dcgan_dist.config import TrainConfig
from dcgan_dist.recipes import CONFIGS, names
from dcgan_dist.terminal import SCREEN_COLUMNS, TRAINING_EXIT_CODES

PROGRAM = "python -m dcgan_dist.train"
GENERAL = "general"
"""The topic of the settings that stand in no section."""
EVERYTHING = "all"

FIRST_PAGE = """usage: {program} [--config YAML] [--NAME VALUE ...]
       {program} [--config YAML] --help [TOPIC | NAME | all]

Train one DCGAN. Defaults, then the YAML of --config, then flags.

most used:
  --config YAML          a recipe, by file or name; the config.yaml of a run repeats it
  --data DIR             shards by dcgan-shard, or their URL
  --run_dir DIR          where the run is kept (default: runs/RECIPE-NNN, the next free number)
  --resume               go on from the newest checkpoint of --run_dir
  --init_from RUN        begin with the networks of another run
  --max_steps N          length; or --max_epochs X or --max_images N
  --batch_size N         real images a step, over all processes together
  --lr X, --lr_ratio X   learning rate of the generator; the discriminator's divided by it
  --seed N               the run is a function of its settings, this number and its data
  --eval_every N         steps between evaluations of quality and variety
  --tracker none         no Weights & Biases
  --quiet                only what came of it, warnings and errors
  --set "A=1 B=2"        is --A=1 --B=2: several settings as one parameter of a sweep
  --summary, --dry_run   print both networks, or the settings, time and memory of the run, and stop

recipes:
{recipes}

topics of --help, each with the names, meanings and defaults of its settings:
{topics}
  {everything:<12} every setting

examples:
  accelerate launch -m dcgan_dist.train --config configs/synthetic-arch1.yaml \\
      --data shards/synthetic-32
  torchrun --standalone --nproc_per_node 2 -m dcgan_dist.train \\
      --config configs/synthetic-arch1.yaml --data shards/synthetic-32 --batch_size 32 --no_flip
  {program} --run_dir runs/flowers17-arch1-001 --resume
  {program} --config configs/flowers17-arch1.yaml --help optim

{exit_codes}
"""

METAVARS: dict[Any, str] = {int: "N", int | None: "N", float: "X", float | None: "X", str: "TEXT"}


def page(config: TrainConfig, topic: str) -> str:
    """What ``--help TOPIC`` prints; defaults are those of ``config``.

    Args:
        config: The defaults, or those with a recipe's values.
        topic: "" for the first page, a section, a setting for the section it is in, or all.

    Raises:
        ValueError: there is no such topic.
    """
    sections = {GENERAL: config} | {
        item.name: getattr(config, item.name) for item in fields(config) if is_dataclass(getattr(config, item.name))
    }
    if not topic:
        topics = "\n".join(f"  {name:<12} {_first_sentence(section)}" for name, section in sections.items())
        return FIRST_PAGE.format(
            program=PROGRAM,
            recipes=recipe_names(),
            topics=topics,
            everything=EVERYTHING,
            exit_codes=TRAINING_EXIT_CODES,
        )
    name = topic.lstrip("-").replace("-", "_")
    shown = {
        title: section
        for title, section in sections.items()
        if name in (EVERYTHING, title, *(item.name for item in fields(section)))
    }
    if not shown:
        raise ValueError(f"help must be {EVERYTHING}, a setting or one of {', '.join(sections)}, got {topic!r}")
    if name != EVERYTHING and len(shown) > 1:
        del shown[GENERAL]  # whose fields are the sections
    parser = argparse.ArgumentParser(PROGRAM, usage=argparse.SUPPRESS, add_help=False)
    for title, section in shown.items():
        _add_section(parser, title, section)
    return parser.format_help()


def recipe_names() -> str:
    """The recipes of the package, as indented lines."""
    text = ", ".join(names(CONFIGS))
    return textwrap.fill(text, SCREEN_COLUMNS, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _first_sentence(section: Any) -> str:
    return str(section.__doc__).partition(".")[0] + "."


def _add_section(parser: argparse.ArgumentParser, title: str, section: Any) -> None:
    """A heading with its settings."""
    group = parser.add_argument_group(title, " ".join(section.__doc__.split()))
    kinds, docs = typing.get_type_hints(type(section)), _field_docs()
    for item in fields(section):
        value, kind = getattr(section, item.name), kinds[item.name]
        if is_dataclass(value):
            continue
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        text = docs[item.name] if value in (None, "") else f"{docs[item.name]} (default: {shown})"
        text = text.replace("%", "%%")
        if kind is bool:
            group.add_argument(f"--{item.name}", f"--no_{item.name}", action="store_true", help=text)
        elif typing.get_origin(kind) is Literal:
            group.add_argument(f"--{item.name}", choices=typing.get_args(kind), help=text)
        elif typing.get_origin(kind) is tuple:
            inner = typing.get_args(kind)
            group.add_argument(f"--{item.name}", nargs=len(inner), metavar=METAVARS[inner[0]], help=text)
        else:
            group.add_argument(f"--{item.name}", metavar=METAVARS[kind], help=text)


def _field_docs() -> dict[str, str]:
    """The docstring of each setting by its name: Python keeps none for fields, but the source has them."""
    docs = {}
    for definition in ast.parse(inspect.getsource(settings)).body:
        if isinstance(definition, ast.ClassDef):
            for statement, following in itertools.pairwise(definition.body):
                match statement, following:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        docs[name] = " ".join(text.split())
    return docs
