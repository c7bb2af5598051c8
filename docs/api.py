"""Makes docs/api.md from the docstrings of the public names; run by ``make docs``."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from docstring_parser import Docstring, DocstringStyle, parse_from_object

import dcgan_dist
from dcgan_dist.config import RunConfig, TrainConfig

PAGE = Path(__file__).with_name("api.md")
REPOSITORY = Path(__file__).parents[1]

OPENING = """# The package as a library

<!-- Made by docs/api.py from docstrings: change those, then run "make docs". -->

```python
import dcgan_dist

config = dcgan_dist.read_config("configs/flowers17-arch1.yaml", {"max_steps": 500, "tracker": "none"})
run = dcgan_dist.run_training(config)  # a directory
generator = dcgan_dist.load(run)  # an nn.Module
pixels = generator.sample(64, seed=1)  # (64, 32, 32, 3) uint8
dcgan_dist.write_png("samples.png", dcgan_dist.grid(pixels))
```

[examples/train_and_sample.py](../examples/train_and_sample.py) is the whole way, shards included. The commands call the
same functions, so both give the same bytes. `import dcgan_dist` imports nothing that takes long: each name brings what
it needs when it is first used.
"""
ORDER = ("write_shards", "read_config", "run_training", "load", "TrainedGenerator", "grid", "write_png", "TrainConfig")
"""That of a user's steps."""


def page() -> str:
    """The whole page, in Markdown."""
    assert sorted(ORDER) == sorted(set(dcgan_dist.__all__) - {"__version__"})
    names = {name: getattr(dcgan_dist, name) for name in ORDER}
    rows = [(f"[`{name}`](#{name.lower()})", _inline(_parsed(each).short_description)) for name, each in names.items()]
    blocks = [OPENING.rstrip(), *_table(("name", "what"), rows)]
    for name, each in names.items():
        blocks += [f"## `{name}`", *_described(each)]
        if each is TrainConfig:
            blocks += _settings()
        elif inspect.isclass(each):
            own = [method for key, method in vars(each).items() if inspect.isfunction(method) and key[0] != "_"]
            for method in own:
                if method.__doc__:
                    blocks += [f"### `{name}.{method.__name__}`", *_described(method)]
    return "\n\n".join(blocks) + "\n"


def _described(each: Any) -> Iterator[str]:
    """What a docstring says, with the signature of a function and the source."""
    parsed = _parsed(each)
    source = Path(inspect.getsourcefile(each) or "").relative_to(REPOSITORY)
    if inspect.isfunction(each):
        yield f"```python\n{_signature(each)}\n```"
    yield _inline(parsed.short_description)
    if parsed.long_description:
        yield _inline(parsed.long_description)
    if not dataclasses.is_dataclass(each):
        for title, kind in (("argument", "param"), ("attribute", "attribute")):
            found = [(f"`{row.arg_name}`", _inline(row.description)) for row in parsed.params if row.args[0] == kind]
            yield from _table((title, "what"), found)
    yield from _table(("raises", "when"), [(f"`{row.type_name}`", _inline(row.description)) for row in parsed.raises])
    if "." not in each.__qualname__:
        yield f"Source: [{source}](../{source})"


def _settings() -> Iterator[str]:
    """Every setting by its group: the fields of a config and what their docstrings say."""
    for field in dataclasses.fields(TrainConfig):
        group = getattr(TrainConfig(), field.name)
        if dataclasses.is_dataclass(group):
            only = {"run_dir", "resume", "profile"} if isinstance(group, RunConfig) else None
            yield f"### `{field.name}`"
            yield _inline(inspect.getdoc(group))
            yield from _fields(group, only)
        elif field.name == "recipe":
            yield from _fields(TrainConfig(), None)


def _fields(config: Any, only: set[str] | None) -> list[str]:
    """A table of the settings of one group."""
    told = {row.arg_name: row.description for row in _parsed(type(config)).params}
    names = [field.name for field in dataclasses.fields(config) if only is None or field.name in only]
    values = {name: getattr(config, name) for name in names}
    return _table(
        ("setting", "default", "what"),
        [(f"`{name}`", _shown(value), _inline(told[name])) for name, value in values.items() if not _is_group(value)],
    )


def _is_group(value: Any) -> bool:
    return dataclasses.is_dataclass(value)


def _shown(value: Any) -> str:
    return "" if value in (None, "") else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _parsed(each: Any) -> Docstring:
    return parse_from_object(each, style=DocstringStyle.GOOGLE)


def _signature(function: Any) -> str:
    """The head of a function as it stands in its file."""
    source = textwrap.dedent(inspect.getsource(function))
    (head,) = ast.parse(source).body
    assert isinstance(head, ast.FunctionDef)
    return "\n".join(source.splitlines()[: head.body[0].lineno - 1]).removesuffix(":").removeprefix("def ")


def _inline(text: str | None) -> str:
    """A docstring's text with its own line breaks taken out; paragraphs stay."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n"))
    return "\n\n".join(paragraphs).replace("``", "`")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, or nothing for no rows."""
    if not rows:
        return []
    lines = [headings, ["---"] * len(headings), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return ["\n".join(f"| {' | '.join(line)} |" for line in lines)]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
