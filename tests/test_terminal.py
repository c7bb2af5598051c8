"""Manners of all commands: help on one screen, exit codes, colours, bars, readers that leave, the page about them."""

import argparse
import importlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from dcgan_dist import eval, shard, sweep, train
from dcgan_dist.cli import leaf_types
from dcgan_dist.config import TrainConfig
from dcgan_dist.data.sources import SOURCES
from dcgan_dist.manual import EVERYTHING, FIRST_PAGE, GENERAL
from dcgan_dist.terminal import can_draw, command, no_traceback, takes_colours
from tests import jobs
from tests.shared import REPOSITORY

SCREEN_LINES, SCREEN_COLUMNS = 50, 100
COMMANDS = ("train", "shard", "sample", "eval", "export", "report", "doctor", "sweep")
SUBCOMMANDS = {
    "shard": (*SOURCES, "finish", "info", "verify"),
    "sweep": ("run", "status", "count", "list", "args", "report"),
}
PAGES = [(name,) for name in COMMANDS] + [(name, sub) for name, subs in SUBCOMMANDS.items() for sub in subs]
SECTIONS = [item.name for item in fields(TrainConfig) if is_dataclass(getattr(TrainConfig(), item.name))]
TOPICS = [GENERAL, *SECTIONS]
DOCS = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
BUFFERED = {"PYTHONUNBUFFERED": ""}
"""As for most people: what is printed leaves at the end, or when it is much."""
CURSOR = re.compile(r"\x1b\[[0-9;?]*[A-KhlsuJ]|\r")
"""What moves or hides a terminal's cursor, as bars do."""


def printed(name: str, *words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints on standard output and ends well."""
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"dcgan_dist.{name}").main(list(words))
    assert stopped.value.code == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z0-9_-]*", text)) - {"--help"}


@pytest.fixture(autouse=True)
def _screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(SCREEN_COLUMNS))


# Help


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_help_fits_a_screen_and_ends_with_examples_and_exit_codes(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(*words, "--help", capsys=capsys)
    assert len(text.splitlines()) <= SCREEN_LINES
    assert max(map(len, text.splitlines())) <= SCREEN_COLUMNS
    assert "\x1b" not in text
    examples, codes = text.partition("\nexamples:\n")[2].split("\n\n")
    assert len(re.findall(r"^  \w", examples, re.MULTILINE)) >= (1 if words == ("sweep", "list") else 2)
    assert codes.startswith("exit codes: 0 ")
    assert [code in codes for code in ("; 1 ", "; 2 ", "; 130 ")] == [True] * 3


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_of_the_trainers_help_fits_a_screen(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("train", "--help", topic, capsys=capsys)
    assert len(text.splitlines()) <= SCREEN_LINES
    assert max(map(len, text.splitlines())) <= SCREEN_COLUMNS
    section = TrainConfig() if topic == GENERAL else getattr(TrainConfig(), topic)
    own = [item.name for item in fields(section) if item.name not in SECTIONS]
    assert re.findall(r"^  --(\w+)", text, re.MULTILINE) == own
    assert f"\n  {topic:<12} " in printed("train", "--help", capsys=capsys)


def test_the_first_page_names_settings_that_there_are() -> None:
    assert {flag[2:].removeprefix("no_") for flag in flags_in(FIRST_PAGE)} - set(leaf_types(TrainConfig)) == {
        "set", "nproc_per_node", "standalone",
    }  # fmt: skip


def test_help_on_a_setting_is_that_on_its_topic_with_the_recipes_values(capsys: pytest.CaptureFixture[str]) -> None:
    optim = printed("train", "--help", "optim", capsys=capsys)
    for words in (["--help=lr"], ["-h", "lr_ratio"], ["--help", "lr-ratio"], ["--batch_size", "8", "--help", "beta1"]):
        assert printed("train", *words, capsys=capsys) == optim
    assert "--lr X                Generator learning rate. (default: 0.0002)\n" in optim
    recipe = str(REPOSITORY / "configs" / "flowers17-arch1.yaml")
    assert "Generator learning rate. (default: 0.0001)\n" in printed(
        "train", "--config", recipe, "--help", "lr", capsys=capsys
    )


def test_the_text_of_a_setting_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("train", "--help", EVERYTHING, capsys=capsys)
    told = " ".join(text.split())
    assert (
        "--upsampling {nearest,strided} How flowers_arch2's generator doubles its maps: nearest copies pixels before a "
        "convolution, as its author does; strided is a transposed convolution of stride 2. (default: nearest)"
    ) in told


def test_help_on_nothing_that_there_is_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        train.main(["--help", "optimiser"])
    assert stopped.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: help must be all, a setting or one of general, network, ")
    assert told.err.endswith(", run, got 'optimiser'\n")


def test_help_is_printed_by_the_first_process_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    for name in ("train", "eval", "doctor"):
        assert printed(name, "--help", capsys=capsys) == ""


# The page about all commands


def section(title: str) -> str:
    """What stands under a heading of the page."""
    (text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DOCS, re.MULTILINE | re.DOTALL)
    return str(text)


def row(table: str, name: str) -> set[str]:
    """The flags in a row of a table."""
    (text,) = re.findall(rf"^\| {re.escape(name)} \| ([^|]*) \|", table, re.MULTILINE)
    return flags_in(str(text))


@pytest.mark.parametrize("topic", TOPICS)
def test_the_page_has_the_settings_of_each_topic(topic: str) -> None:
    shown = TrainConfig() if topic == GENERAL else getattr(TrainConfig(), topic)
    own = {f"--{item.name}" for item in fields(shown) if item.name not in SECTIONS}
    assert row(section("python -m dcgan_dist.train"), topic) == own


@pytest.mark.parametrize("words", [words for words in PAGES if words not in {("train",), ("shard",), ("sweep",)}])
def test_the_page_has_the_flags_of_each_command(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(*words, "--help", capsys=capsys).partition("\nexamples:")[0]
    flags = set(re.findall(r"^  (--[a-z][a-z-]*)", text, re.MULTILINE))
    if words[0] == "shard":
        table = section("dcgan-shard")
        found = row(table, words[1]) | (row(table, "every NAME") if words[1] in SOURCES else set())
    elif words[0] == "sweep":
        found = row(section("dcgan-sweep"), words[1])
    else:
        found = row(section("The others"), f"dcgan-{words[0]}")
    assert found == flags


# How commands end


@pytest.mark.parametrize("name", COMMANDS)
def test_help_for_a_reader_that_has_left_is_no_traceback(name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", f"dcgan_dist.{name}", "--help"],
            env=os.environ | BUFFERED,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_results_for_a_reader_that_leaves_are_no_traceback(flower_shards: Path, tmp_path: Path) -> None:
    recipe = REPOSITORY / "configs" / "flowers17-arch1.yaml"
    (tmp_path / "s.yaml").write_text(
        f"method: grid\nparameters: {{config: {{value: {recipe}}}, seed: {{values: [1]}}}}\n"
    )
    sheet = str(tmp_path / "sheet.png")
    for words in (
        ["shard", "info", str(flower_shards), "--json"],
        ["shard", "info", str(flower_shards), "--out", sheet],
        ["sweep", "status", "s.yaml"],
        ["sweep", "status", "s.yaml", "--json"],
    ):
        reading, writing = os.pipe()
        os.close(reading)
        ended = subprocess.run(
            [sys.executable, "-m", f"dcgan_dist.{words[0]}", *words[1:]],
            cwd=tmp_path,
            env=os.environ | BUFFERED | {"PYTHONPATH": str(REPOSITORY)},
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        os.close(writing)
        assert (ended.returncode, ended.stderr) == (1, ""), words


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_is_exit_code_130_and_no_traceback(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", interrupt)
    monkeypatch.setattr(train, "parse", interrupt)
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"dcgan_dist.{name}").main(["x"])
    assert stopped.value.code == 130
    assert capsys.readouterr() == ("", "error: interrupted\n")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("--count must be at least 1, got 0"), 2, "--count must be at least 1, got 0"),
        (FileNotFoundError(2, "No such file or directory", "run"), 1, "run: No such file or directory"),
        (OSError("the disk is gone"), 1, "the disk is gone"),
    ],
)
def test_exit_codes_of_a_command(error: Exception, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, command("dcgan-thing"):
        raise error
    assert stopped.value.code == code
    assert capsys.readouterr() == ("", f"dcgan-thing: error: {message}\n")


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ValueError, match="shape"), no_traceback():
        raise ValueError("shape")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_is_exit_code_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"dcgan_dist.{name}").main(["--bad_flag"])
    assert stopped.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err


# Colours and bars


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("file", "variables", "bars", "colours"),
    [
        (Screen(), {}, True, True),
        (Screen(), {"NO_COLOR": "1"}, True, False),
        (Screen(), {"NO_COLOR": ""}, True, True),  # empty counts as not set: no-color.org
        (Screen(), {"TERM": "dumb"}, False, False),
        (io.StringIO(), {}, False, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, False, False),
    ],
)
def test_bars_and_colours_are_for_terminals(
    file: io.StringIO, variables: dict[str, str], bars: bool, colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (can_draw(file), takes_colours(file)) == (bars, colours)


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_the_trainers_mistakes_are_coloured_for_terminals_that_want_it(
    variables: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screens = Screen(), Screen()
    monkeypatch.setattr(sys, "stdout", screens[0])
    monkeypatch.setattr(sys, "stderr", screens[1])
    with pytest.raises(SystemExit):
        train.main(["--bad_flag"])
    assert ("\x1b[" in screens[1].getvalue()) == coloured
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)  # train 2> log
    with pytest.raises(SystemExit):
        train.main(["--bad_flag"])
    assert "\x1b" not in log.getvalue()


@pytest.fixture
def _redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of a continuous integration that shows colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.usefixtures("_redirected")
def test_no_bars_in_the_logs_of_conversions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "set")
    shard.main(["synthetic", "--out", out, "--size", "8", "--count", "4", "--workers", "1"])
    shard.main(["verify", out])
    told = capsys.readouterr()
    assert "4 of 4 images" in told.err
    assert not CURSOR.search(told.out + told.err)


@pytest.mark.usefixtures("_redirected")
def test_no_bars_in_the_logs_of_training_and_evaluating(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(jobs.flags(flower_shards, tmp_path / "run", max_steps=2))
    told = capsys.readouterr()
    assert "step 2/2" in told.out
    assert not CURSOR.search(told.out + told.err)
    eval.main([str(tmp_path / "run"), "--extractor", "none", "--count", "16", "--json"])
    told = capsys.readouterr()
    assert json.loads(told.out)["step"] == 2
    assert told.err == ""


def test_a_quiet_run_says_what_came_of_it(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    train.main([*jobs.flags(flower_shards, run_dir, max_steps=2, project="mine"), "--quiet"])
    told = capsys.readouterr()
    warning, done, look = told.out.splitlines()
    assert warning == "warning: project has no effect with tracker none"
    assert done.startswith("done: 2 steps in ")
    assert look.startswith(f"look at {run_dir}/samples/step-")
    assert told.err == ""
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 2
    assert "quiet" not in (run_dir / "config.yaml").read_text()


def test_json_stands_alone_on_standard_output(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    shard.main(["info", str(flower_shards), "--json"])
    assert json.loads(capsys.readouterr().out)["images"] == 48
    shard.main(["verify", str(flower_shards), "--json"])
    assert json.loads(capsys.readouterr().out)["whole"] is True
    sweep.main(["status", "configs/sweeps/batch_size.yaml", "--runs", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["counts"]["done"] == 0
