"""docs/troubleshooting.md has each message that we raise on purpose, and none that we do not."""

import ast
import functools
import itertools
import re
from collections.abc import Iterable, Iterator

import pytest

from tests.shared import REPOSITORY

PAGE = REPOSITORY / "docs" / "troubleshooting.md"
SOURCES = sorted([*REPOSITORY.glob("dcgan_dist/**/*.py"), *REPOSITORY.glob("docker/*.py")])
SCRIPTS = [*sorted(REPOSITORY.glob("launchers/*")), REPOSITORY / "docker" / "entrypoint"]
TELLERS = {"fail", "_fail", "tell", "_warn", "error", "exit"}
"""Functions that print a message for people."""
VALUE = "…"
"""Stands for what differs from time to time."""
SHORTEST = 8
"""Characters of a fragment that is worth searching for."""
MOST = 9
"""Messages that one fragment may stand for."""

ELSEWHERE = {
    "dcgan_dist/__init__.py": "Python's own form, for an attribute that the package does not have",
    "dcgan_dist/clock.py": "status.json without an account of time is read as one that has none",
    "dcgan_dist/collapse/pixels.py": "for callers in Python, who pass arrays",
    "dcgan_dist/images.py": "for callers in Python, who pass arrays",
    "samples must be uint8 of shape …, got … of shape …": "for callers in Python, who pass arrays",
    "extractor …: … must be of shape …, got …": "for callers in Python, with an extractor of their own",
    "dcgan_dist/data/sources/mats.py": "stands behind 'not the MATLAB 5 file it should be'",
    "dcgan_dist/data/remote.py": "stands behind 'expected ..., found'",
    "the compressed data end too early": "stands behind 'damaged or cut short'",
    "a header points backwards": "stands behind 'damaged or cut short'",
    "too many global records": "stands behind 'damaged or cut short'",
    "… of … bytes are in use, … are needed": "stands behind 'cache_gigabytes'",
    "true or false": "stands behind a name and 'must be'",
    "a number": "stands behind a name and 'must be'",
    "config …: …": "the file in front of another message",
    "sweep …: …": "the file in front of another message",
    "rank …: …": "the process in front of another message",
    "rank 0: …": "the process in front of another message",
    "error: …": "the word in front of another message",
    "warning: …": "the word in front of another message",
    "warning: W&B: …": "the words in front of another message",
}
"""Messages that the page leaves out, by their template or the module that makes them, and why."""


def templates(node: ast.expr, constants: dict[str, str]) -> list[str]:
    """The texts an expression may have, with VALUE for all that is not written there."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(each) for each in itertools.product(*(templates(part, constants) for part in parts))]
        case ast.FormattedValue(value=value):
            return templates(value, constants)
        case ast.IfExp(body=body, orelse=other):
            return templates(body, constants) + templates(other, constants)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [a + b for a, b in itertools.product(templates(left, constants), templates(right, constants))]
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="format")) if name in constants:
            return [re.sub(r"\{.*?\}", VALUE, constants[name])]
        case _:
            return [VALUE]


def messages_of(source: str) -> set[str]:
    """Templates of what a module raises, or tells people at its end: those in which something is written."""
    found: set[str] = set()
    tree = ast.parse(source)
    constants = {
        target.id: statement.value.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name) and isinstance(statement.value.value, str)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            arguments: Iterable[ast.expr] = node.exc.args
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if not (name in TELLERS or re.match(r"[A-Z_]\w*Error$", name)):
                continue
            arguments = node.args
        elif isinstance(node, ast.JoinedStr):
            arguments = [node] if re.match("error: |warning: ", templates(node, constants)[0]) else []
        else:
            continue
        for argument in arguments:
            found |= {text for text in templates(argument, constants) if re.search(r"\w{2}", text)}
    return found


def messages_of_shell(source: str) -> Iterator[str]:
    """Templates of what a script tells people before it fails."""
    told = map(without_variables, re.findall(r'(?:\bfail "|"error: )((?:[^"\\]|\\.)+)"', source))
    yield from (text for text in told if re.search(r"\w{2}", text))


def without_variables(source: str) -> str:
    return re.sub(r"\$\{[^}]*\}|\$[\w*]+", VALUE, source)


@functools.cache
def messages() -> dict[str, str]:
    """Where each message is made, by its template."""
    found = {}
    for path in [*SOURCES, *SCRIPTS]:
        place = str(path.relative_to(REPOSITORY))
        text = path.read_text(encoding="utf-8")
        for template in messages_of(text) if path.suffix == ".py" else messages_of_shell(text):
            found[template] = place
    return found


def fragments() -> list[str]:
    """What the page says that messages contain: the code in the first cells of its tables."""
    rows = re.findall(r"^\| (`.*?) \| ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [fragment for row in rows for fragment in re.findall(r"`([^`]+)`", row)]


def texts() -> str:
    """All that is written in the sources, one template a line."""
    lines: list[str] = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr)]
        lines += [text for node in nodes for text in templates(node, {})]
    return "\n".join([*lines, *messages(), *(without_variables(path.read_text(encoding="utf-8")) for path in SCRIPTS)])


def test_every_message_is_on_the_page() -> None:
    known = fragments()
    missing = {
        template: place
        for template, place in messages().items()
        if not any(fragment in template for fragment in known) and not {template, place} & set(ELSEWHERE)
    }
    assert missing == {}, f"give each a fragment in a table of {PAGE.name}, or a reason in ELSEWHERE"


def test_the_page_has_no_message_that_is_gone() -> None:
    written = texts()
    assert [fragment for fragment in fragments() if fragment not in written] == []


def test_each_fragment_is_of_few_messages() -> None:
    """One that is in every message would find none."""
    told = messages()
    counts = {fragment: sum(fragment in template for template in told) for fragment in fragments()}
    assert {fragment: count for fragment, count in counts.items() if count > MOST} == {}
    assert [fragment for fragment in counts if len(fragment.replace(VALUE, "")) < SHORTEST] == []


def test_each_reason_is_needed() -> None:
    known = fragments()
    left_out = [
        {template, place}
        for template, place in messages().items()
        if not any(fragment in template for fragment in known)
    ]
    assert [key for key in ELSEWHERE if not any(key in message for message in left_out)] == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ('raise ValueError(f"lr must be positive, got {lr}")', {"lr must be positive, got …"}),
        ('error = DamagedError("{x}: " + ("cut" if short else "long") + f" {n:,}")', {"{x}: cut …", "{x}: long …"}),
        ('WORDS = "{path}: gone"\nraise ValueError(WORDS.format(path=path))', {"…: gone"}),
        ('parser.error("give one")\nfail(str(error))\n_warn(f"{reason}; going on")', {"give one", "…; going on"}),
        ('print(f"warning: {sentence} here")\nprint(f"fine: {n} here")', {"warning: … here"}),
        ('isinstance(error, OSError)\nraise SystemExit(2)\nraise ValueError(f"{a}: {b}")', set()),
    ],
)
def test_messages_are_found_in_python(source: str, told: set[str]) -> None:
    assert messages_of(source) == told


def test_messages_are_found_in_scripts() -> None:
    script = """
say "job $job: fine"
[[ -e $site ]] || fail "$site: its ${#last} command 'x' failed"
[[ -e x ]] || { echo "error: not in $PWD" >&2; exit 2; }
    say "error: warned while $1 was starting:" \\
        "--time is too short" >&2
"""
    assert list(messages_of_shell(script)) == [
        "…: its … command 'x' failed",
        "not in …",
        "warned while … was starting:",
    ]
