"""The pages: their links lead somewhere, our programs take their commands, and the first hour's commands run."""

import argparse
import contextlib
import importlib
import io
import re
import shlex
import shutil
import socket
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from dcgan_dist import cli
from dcgan_dist.images import write_png
from tests.shared import REPOSITORY

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "launchers/*.md", "shards/*.md", "benchmarks/*.md")
    for path in REPOSITORY.glob(pattern)
)
NAMES = [str(path.relative_to(REPOSITORY)) for path in PAGES]
SCRIPTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
MADE = {"launchers/site.env", "benchmarks/results.md"}  # by the reader, by a command
OTHERS = {
    *(".", "[", "alias", "cd", "cp", "done", "export", "find", "ls", "mkdir", "source", "squeue", "while"),
    *("apptainer", "docker", "enroot", "git", "pip", "sort", "srun", "tee", "touch", "wandb", "xargs"),
    *("cat", "continue", "do", "grep", "pre-commit", "uniq"),
}
"""Programs that are not ours, and words of the shell."""


def outside_of_blocks(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^[ ]*```.*?^[ ]*```$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", outside_of_blocks(text)))


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", outside_of_blocks(text), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        again = sum(other.rpartition("-")[0] == name or other == name for other in found)
        found.add(f"{name}-{again}" if name in found else name)
    return found


def wrong_links(page: Path) -> list[str]:
    """Links of a page to files and headings that are not there."""
    wrong = []
    for link in links(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings(name: str) -> None:
    assert wrong_links(REPOSITORY / name) == []


def test_a_wrong_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One `two`, three\n\n```sh\n# no heading\n```\n\n## Same\n\n## Same\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#one-two-three) [`c`](there.md#same-1) ![d](none.png) `[e](code.md)`\n"
        "[f](gone.md) [g](there.md#no-heading) [h](#nowhere) [i](https://example.org/x)\n"
    )
    assert wrong_links(page) == ["none.png", "gone.md", "there.md#no-heading", "#nowhere"]


def test_every_page_is_in_the_index() -> None:
    listed = links((REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8"))
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}
    assert pages - set(listed) == set()


def test_the_map_of_the_package_is_whole() -> None:
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = re.findall(r"`([a-z_]+(?:\.py|/))`", page.partition("## Where things are")[2].partition("\n## ")[0])
    package = REPOSITORY / "dcgan_dist"
    files = [path.name for path in package.glob("[a-z]*.py")]
    folders = [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]
    assert sorted(told) == sorted([*files, *folders])


@pytest.mark.parametrize("name", NAMES)
def test_paths_in_the_text_exist(name: str) -> None:
    text = outside_of_blocks((REPOSITORY / name).read_text(encoding="utf-8"))
    own = r"`((?:\.ci|benchmarks|configs|dcgan_dist|docker|docs|launchers|tests)/[\w./*-]*)`"
    gone = [path for path in re.findall(own, text) if not re.search("[A-Z]{3}", path) and not is_there(path)]
    assert gone == []


@pytest.mark.parametrize("name", NAMES)
def test_targets_in_the_text_exist(name: str) -> None:
    text = outside_of_blocks((REPOSITORY / name).read_text(encoding="utf-8"))
    assert [target for target in re.findall(r"`make ([a-z-]+)`", text) if not is_target(target)] == []


def is_there(path: str) -> bool:
    return path in MADE or any(REPOSITORY.glob(path)) or (REPOSITORY / path).exists()


def is_target(name: str) -> bool:
    return bool(re.search(rf"^{name}:", MAKEFILE, flags=re.MULTILINE))


def commands(text: str) -> list[list[str]]:
    """The words of each command in a page's blocks of shell, and behind the prompts of its transcripts."""
    found: list[list[str]] = []
    for kind, block in re.findall(r"^[ ]*```(\w+)\n(.*?)^[ ]*```$", text, flags=re.DOTALL | re.MULTILINE):
        if kind == "text":
            block = "\n".join(re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, flags=re.MULTILINE))
        elif kind != "sh":
            continue
        found += statements(block)
    return found


def statements(block: str) -> list[list[str]]:
    """The words of each simple command of a block; a quotation may span lines."""
    found: list[list[str]] = []
    pending = ""
    for line in block.replace("\\\n", " ").splitlines():
        pending += f"{line}\n"
        lexer = shlex.shlex(pending, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # the quotation goes on
            continue
        pending = ""
        statement: list[str] = []
        for word in [*words, ";"]:
            if word in (";", "&&", "||", "|", "&"):
                found.append(statement)
                statement = []
            else:
                statement.append(word)
    assert not pending, pending
    return [statement for statement in found if statement]


class Parsed(Exception):  # noqa: N818
    """A program has taken its arguments."""


@pytest.fixture
def _parse_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Programs end once they have taken their arguments, in a directory that has what the repository has."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, args: list[str]) -> None:
        parse_args(parser, args)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    for name in ("benchmarks", "configs", "docker", "launchers"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)


def problem(words: list[str]) -> str:
    """What is wrong with a command, if anything is."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
        if not words:
            return ""
    for word in words:
        is_own = re.match(r"(benchmarks|configs|docker|launchers)/", word) and not re.search("[A-Z]{3}", word)  # RECIPE
        if is_own and not is_there(word):
            return f"there is no {word}"
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(told):
        try:
            return _problem(words[0].removeprefix(".venv/bin/"), words[1:])
        except Parsed:
            return ""
        except (SystemExit, ValueError) as error:
            return told.getvalue() or str(error)


def _problem(program: str, rest: list[str]) -> str:
    """What is wrong with a call of ``program``; our own raise Parsed or SystemExit."""
    after = rest[rest.index("-m") + 1 :] if "-m" in rest else []
    if after and re.match(r"dcgan_dist\.|benchmarks", after[0]):
        _call(after[0], after[1:])
    elif program == "torchrun" and rest[-1].endswith(".py"):
        return ""  # a path, which has been looked at
    elif program in SCRIPTS:
        _call(SCRIPTS[program].partition(":")[0], rest)
    elif program in ("dcgan", "docker") and (words := _words_of_the_image(program, rest)):
        _call(f"dcgan_dist.{words[0]}", words[1:])
    elif program == "make":
        return next((f"no target {name}" for name in rest if "=" not in name and not is_target(name)), "")
    elif program == "sbatch":
        return _problem_of_a_job(rest)
    elif program == "launchers/submit-sweep":
        rest = rest[2:] if rest[0] == "-j" else rest
        flags = rest[rest.index("--") :] if "--" in rest else []
        _call("dcgan_dist.sweep", ["count", rest[0], *flags])
    elif program not in OTHERS:
        return f"what is {program}?"
    return ""


def _words_of_the_image(program: str, rest: list[str]) -> list[str]:
    """The word and its arguments that a container is started with."""
    if program == "dcgan":
        return rest
    if rest[:1] == ["compose"] and "--rm" in rest:
        words = rest[rest.index("--rm") + 1 :]
        services = yaml.safe_load((REPOSITORY / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"]
        if words[0] not in services:
            raise ValueError(f"no service {words[0]}")
        return words if words[1:] and words[0] in ("shard", "sweep", "train") else []
    return []


def _problem_of_a_job(rest: list[str]) -> str:
    if "--wrap" in " ".join(rest):
        script = next(word for word in rest if "srun" in word).removeprefix("--wrap=")
        return next((wrong for words in statements(script) if (wrong := problem(words))), "")
    place = next(place for place, word in enumerate(rest) if word.endswith(".sbatch"))
    script, arguments = Path(rest[place]).stem, rest[place + 1 :]
    if script == "sweep":
        _call("dcgan_dist.sweep", ["run", *arguments[:1], "--", *arguments[1:]])
    _call(f"dcgan_dist.{script}", arguments)
    return ""


def _call(module: str, arguments: list[str]) -> None:
    """Let a program of ours take its arguments.

    Raises:
        Parsed: It does, or they are shortened.
        SystemExit: It does not.
    """
    if "..." in arguments:
        raise Parsed
    if module == "dcgan_dist.train":
        for word in arguments:
            if word.startswith("runs/"):  # a run of the reader's
                own = Path(word) if word.endswith(".yaml") else Path(word) / "config.yaml"
                own.parent.mkdir(parents=True, exist_ok=True)
                own.write_text("max_steps: 1\n", encoding="utf-8")
        if arguments and not {"--help", "RUN", "configs/RECIPE.yaml"} & set(arguments):
            cli.parse(arguments)
        raise Parsed
    if module == "dcgan_dist.sweep" and "--" in arguments:
        cli.settings(arguments[arguments.index("--") + 1 :])
    name = module if "." in module else f"{module}.__main__"
    importlib.import_module(name).main(arguments)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_name_a_kind_that_is_looked_at(name: str) -> None:
    kinds = re.findall(r"^[ ]*```(.*)$", (REPOSITORY / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(kinds[::2]) <= {"python", "sh", "text", "yaml"}


@pytest.mark.usefixtures("_parse_alone")
@pytest.mark.parametrize("name", NAMES)
def test_commands_are_taken(name: str) -> None:
    wrong = {
        shlex.join(words): told
        for words in commands((REPOSITORY / name).read_text(encoding="utf-8"))
        if (told := problem(words))
    }
    assert wrong == {}


@pytest.mark.usefixtures("_parse_alone")
@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("dcgan-shard flowers17 17flowers.tgz --out shards/x --sise 32", "--sise"),
        ("accelerate launch -m dcgan_dist.train --config configs/mnist28.yaml --learning_rate 1", "--learning_rate"),
        ("python -m dcgan_dist.train --config configs/mnist28.yaml --lr -1", "lr must be positive"),
        ("python -m dcgan_dist.train --config configs/mnist82.yaml", "there is no configs/mnist82.yaml"),
        ("torchrun --nproc_per_node 2 -m dcgan_dist.doctor --conf x", "--conf"),
        ("dcgan-sweep run configs/sweeps/lr_ratio.yaml -- --batchsize 8", "unknown setting 'batchsize'"),
        ("launchers/submit-sweep -j 4 configs/sweeps/lr_ratio.yaml -- --batchsize 8", "unknown setting 'batchsize'"),
        ("sbatch --nodes=2 launchers/train.sbatch --config configs/mnist28.yaml --nodes 2", "--nodes"),
        ("sbatch launchers/sweeps.sbatch", "there is no launchers/sweeps.sbatch"),
        ("docker compose -f docker/compose.yaml run --rm trian", "no service trian"),
        ("dcgan train --config configs/mnist28.yaml --bach_size 8", "--bach_size"),
        ("make dmeo", "no target dmeo"),
        ("dcgan-smaple runs/x", "what is dcgan-smaple?"),
    ],
)
def test_a_wrong_command_is_found(command: str, told: str) -> None:
    (words,) = statements(command)
    assert told in problem(words)


def test_commands_are_found_in_a_page() -> None:
    page = "```sh\na b \\\n    c  # d\ne 'f\ng' && h | i\n```\n\n```text\n$ j \\\n  k\nl\n```\n\n```yaml\nm: n\n```\n"
    assert commands(page) == [["a", "b", "c"], ["e", "f\ng"], ["h"], ["i"], ["j", "k"]]


SMALL = {
    "dcgan_dist.shard synthetic": ["--count", "300", "--shard-images", "100"],
    "dcgan_dist.train": [
        *("--base_channels", "4", "--latent_dim", "6", "--max_steps", "4", "--sample_count", "4"),
        *("--eval_every", "0", "--tracker", "none", "--threads", "1"),
    ],
    "dcgan_dist.eval": ["--count", "100", "--extractor", "none"],
}
"""What is appended to commands of the quick start, so that they end within seconds."""


def first_hour() -> Iterator[tuple[str, list[str]]]:
    """Module and arguments of our commands in the quick start, those of ``make demo`` in its place."""
    (demo,) = re.findall(r"^demo:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    (shards,) = re.findall(r"^DEMO_SHARDS := (.*)$", MAKEFILE, flags=re.MULTILINE)
    demo = demo.replace("$(BIN)/", "").replace("$(DEMO_SHARDS)", shards)
    page = (REPOSITORY / "docs" / "quick-start.md").read_text(encoding="utf-8")
    for words in commands(re.sub(r"^make demo\b.*$", demo.replace("\\", "\\\\"), page, flags=re.MULTILINE)):
        if words[0] == "torchrun":
            continue  # several processes: tests/distributed
        if "-m" in words:
            place = words.index("-m") + 1
            yield words[place], words[place + 1 :]
        elif words[0] in SCRIPTS:
            yield SCRIPTS[words[0]].partition(":")[0], words[1:]


def test_the_first_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command of the quick start in turn, with narrow networks and few images, and what it leaves."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "configs", "configs")
    pictures = np.random.default_rng(0).integers(0, 256, (200, 48, 40, 3), dtype=np.uint8)
    for kind in ("cats", "dogs"):  # the reader's own photographs
        (tmp_path / "photos" / kind).mkdir(parents=True)
    for number, pixels in enumerate(pictures):
        write_png(tmp_path / "photos" / ("cats", "dogs")[number % 2] / f"{number}.png", pixels)
    for module, arguments in first_hour():
        extra = [each for key, value in SMALL.items() if key in f"{module} {arguments[0]}" for each in value]
        if "--resume" in arguments:
            extra = ["--tracker", "none"]
        importlib.import_module(module).main([*arguments, *extra])
    assert (tmp_path / "runs" / "synthetic-arch1-001" / "report.html").exists()
    assert (tmp_path / "runs" / "photos" / "progress.gif").exists()
    capsys.readouterr()


@pytest.mark.slow
def test_web_links_answer() -> None:
    """Skipped without a network. A page that refuses programs (403) is there."""
    found = {link for page in PAGES for link in links(page.read_text(encoding="utf-8")) if link.startswith("http")}
    try:
        socket.create_connection(("github.com", 443), timeout=5).close()
    except OSError:
        pytest.skip("needs a network")
    gone = {}
    for link in sorted(found):
        request = urllib.request.Request(link, headers={"User-Agent": "Mozilla/5.0"})
        try:
            urllib.request.urlopen(request, timeout=20).close()
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                gone[link] = str(error)
        except OSError as error:
            gone[link] = str(error)
    assert gone == {}
