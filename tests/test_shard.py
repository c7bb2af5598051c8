import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_dist import shard
from dcgan_dist.data.shards import Index, read_images, read_index
from dcgan_dist.data.sources import SOURCES, Subset
from dcgan_dist.data.transforms import Target
from tests.data.made import bytes_of, files, noise, photos, png, tar
from tests.data.sources.test_mnist import idx
from tests.shared import RECIPES, REPOSITORY, SHARED, needs_shared

COMMAND = [sys.executable, "-c", "from dcgan_dist.shard import main; main()"]


def run(*arguments: str | Path) -> int:
    """The exit code of dcgan-shard, in this process."""
    try:
        shard.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def convert(source: Path, out: Path, *options: str) -> int:
    return run("folder", source, "--out", out, "--size", "8", "--shard-images", "8", "--workers", "1", *options)


def test_a_conversion_from_start_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert convert(photos(tmp_path / "in"), out) == 0
    printed = capsys.readouterr()
    assert re.search(r"converted 40 images in .* s, .* images/s, 0\.1 MB in 5 shards", printed.out)
    assert printed.out.endswith(f"40 images, 2 classes: {out}\nnext: dcgan-shard info {out}\n")
    assert re.fullmatch(r"40 of 40 images, \d s\n", printed.err)

    assert convert(tmp_path / "in", out, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert convert(tmp_path / "in", out) == 0
    assert f"nothing to do: {out} is whole" in capsys.readouterr().out

    assert run("verify", out) == 0
    assert "checked 40 images, 5 shards, 0.1 MB: all whole" in capsys.readouterr().out
    sizes = {
        "directory": str(out),
        "images": 40,
        "shards": 5,
        "bytes": sum(x.stat().st_size for x in out.glob("*.tar")),
    }
    assert run("verify", out, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {**sizes, "whole": True, "problems": []}
    (out / "set-000002.tar").write_bytes(b"")
    assert run("verify", out, "--quiet") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "set-000002.tar: is damaged" in printed.err
    assert run("verify", out, "--json", "--quiet") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["whole"] is False
    assert ["set-000002.tar: is damaged" in problem for problem in told["problems"]] == [True]


@pytest.mark.parametrize("file", ["index.npy", "index.json"])
def test_a_damaged_index_is_damage_and_exit_1(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert convert(photos(tmp_path / "in"), out, "--quiet") == 0
    (out / file).write_bytes((out / file).read_bytes()[:-9])
    for command in ("verify", "info"):
        assert run(command, out) == 1
        assert re.fullmatch(rf"dcgan-shard: error: {out / file}: .*\n", capsys.readouterr().err)
    assert run("verify", out, "--json") == 1
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert [f"dcgan-shard: error: {problem}\n" for problem in told.pop("problems")] == [printed.err]
    assert told == {"directory": str(out), "whole": False, "images": None, "shards": None, "bytes": None}


def test_info_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    convert(photos(tmp_path / "in"), out, "--quiet")
    assert run("info", out, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["images"], data["class_counts"], data["settings"]["classes"]) == (40, [20, 20], ["cat", "dog"])
    assert not (out / "contact-sheet.png").exists()
    assert run("info", out) == 0
    printed = capsys.readouterr().out
    assert "set: 40 images of 8 x 8, RGB" in printed
    assert re.search(r"1 │ dog +│ +20 │ 50\.0%", printed)
    assert f"contact sheet: {out / 'contact-sheet.png'}" in printed
    with Image.open(out / "contact-sheet.png") as image:
        assert image.size == (8 * 66 + 2, 2 * 66 + 2)  # a row of 8 of each class, 64 pixels each
    assert run("info", out, "--out", tmp_path / "sheet.png") == 0
    assert (tmp_path / "sheet.png").read_bytes() == (out / "contact-sheet.png").read_bytes()
    assert convert(tmp_path / "in", out) == 0  # the sheet is not in the way


def test_info_prints_class_names_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("[x]", "x[red]dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "a.png").write_bytes(png(len(name)))
    keys = tmp_path / "in" / "x[red]dog" / "a.png"
    keys.rename(keys.with_name("b.png"))
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    capsys.readouterr()
    assert run("info", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "[x]" in shown
    assert "x[red]dog" in shown


def test_parts_from_start_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = photos(tmp_path / "in"), tmp_path / "set"
    assert convert(source, out, "--part", "1/2") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("part 1/2: converted 24 images in ")
    assert printed[0].endswith(" images/s in 3 shards")
    assert printed[1] == f"when all 2 parts are done: dcgan-shard finish {out}"
    assert run("finish", out) == 2
    assert "2 shards (1, 3) are missing or damaged; run --part 2/2 and then finish again" in capsys.readouterr().err
    assert convert(source, out, "--part=2/2", "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert run("finish", out) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"40 images, 2 classes: {out}"
    convert(source, tmp_path / "whole" / "set")
    assert bytes_of(out) == bytes_of(tmp_path / "whole" / "set")


def test_synthetic_converts_without_input_and_grey(tmp_path: Path) -> None:
    out = tmp_path / "flowers"
    arguments = ("--size", "16", "--count", "5", "--seed=1", "--gray", "--shuffle_seed=2", "--workers=1", "--quiet")
    assert run("synthetic", "--out", out, *arguments) == 0
    index = read_index(out)
    assert index.shape == (5, 16, 16, 1)
    assert index.contents.settings.source_options == {"count": 5, "seed": 1}
    assert index.contents.settings.shuffle_seed == 2


def test_bad_images_fail_and_are_skipped_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(tmp_path / "in", images=4)
    Image.fromarray(np.zeros((99, 99), np.uint8)).save(tmp_path / "whole.jpg")
    half = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "in" / "cat" / "half.jpg").write_bytes(half[: len(half) // 2])
    (tmp_path / "in" / "dog" / "text.png").write_text("hello")
    assert convert(tmp_path / "in", tmp_path / "set", "--quiet") == 1
    error = capsys.readouterr().err
    assert "dcgan-shard: error: images that cannot be read: 2; there is no index (--skip-bad leaves them out):" in error
    assert "  cat/half.jpg: cannot be decoded: " in error
    assert "  dog/text.png: is not an image" in error
    assert not (tmp_path / "set" / "index.json").exists()
    assert convert(tmp_path / "in", tmp_path / "set", "--skip-bad") == 0
    assert "skipped images that cannot be read, listed in the index: 2" in capsys.readouterr().out
    assert read_index(tmp_path / "set").contents.images == 4


def test_skipped_images_of_a_finished_set_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos(tmp_path / "in", images=4) / "cat" / "bad.png").write_text("hello")
    assert convert(tmp_path / "in", tmp_path / "set", "--skip-bad", "--quiet") == 0
    assert convert(tmp_path / "in", tmp_path / "set", "--quiet") == 1
    assert capsys.readouterr().err.startswith(
        f"dcgan-shard: error: images that cannot be read: 1; {tmp_path / 'set'} is finished without them and stays so "
        "(--skip-bad says that this is meant):\n  cat/bad.png: is not an image"
    )
    assert run("verify", tmp_path / "set", "--quiet") == 0


def test_a_bad_image_is_removed_and_the_same_command_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos(tmp_path / "in") / "cat" / "bad.png").write_text("hello")
    assert convert(tmp_path / "in", tmp_path / "set", "--quiet") == 1
    (tmp_path / "in" / "cat" / "bad.png").unlink()
    assert convert(tmp_path / "in", tmp_path / "set", "--quiet") == 0
    assert run("verify", tmp_path / "set", "--quiet") == 0
    assert read_index(tmp_path / "set").contents.images == 40


def test_damage_to_the_source_is_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tar(tmp_path / "a.tgz", {"a.png": png(1)})
    archive.write_bytes(archive.read_bytes()[:-20])
    assert convert(archive, tmp_path / "set") == 1
    assert capsys.readouterr().err.startswith(f"dcgan-shard: error: {archive}: damaged or cut short")
    assert not (tmp_path / "set").exists()


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\x07\r\u202e"
    members = {f"{evil}x/{evil}a.png": png(1), f"{evil}y/{evil}b.png": b"bad", f"{evil}.txt": b""}
    archive = tar(tmp_path / "a.tgz", members)
    assert convert(archive, tmp_path / "set") == 1
    assert convert(archive, tmp_path / "set", "--skip-bad") == 0
    assert run("info", tmp_path / "set") == 0
    assert run("info", tmp_path / "set", "--json") == 0
    assert run("folder", archive, "--out", tmp_path / "no", "--classes", f"{evil}q") == 2
    printed = "".join(capsys.readouterr())
    assert [c for c in printed if not c.isprintable() and c != "\n"] == []
    assert r"\x1b[2J\x07\r\u202ey/\x1b[2J\x07\r\u202eb.png: is not an image" in printed


def subset_of(tmp_path: Path, *options: str) -> Index:
    assert convert(tmp_path / "in", tmp_path / "set", "--quiet", *options) == 0
    return read_index(tmp_path / "set")


def test_classes_are_chosen_by_name(tmp_path: Path) -> None:
    for seed, name in enumerate(("rose", "lily, white", "iris", "tulip")):
        files(tmp_path / "in", {f"{name}/{n}.png": png(10 * seed + n) for n in range(seed + 1)})
    index = subset_of(tmp_path, "--classes", '"lily, white",iris')
    contents = index.contents
    assert (contents.settings.classes, contents.class_counts) == (("iris", "lily, white"), (3, 2))
    assert contents.settings.subset == Subset(("lily, white", "iris"))
    assert contents.settings.source_images == 5
    assert set(index.labels.tolist()) == {0, 1}


def test_a_limit_draws_the_same_images_each_time(tmp_path: Path) -> None:
    photos(tmp_path / "in")
    draws: dict[str, set[bytes]] = {}
    for seed in ("0", "0", "1"):
        out = tmp_path / f"{seed}-{len(draws)}" / "set"
        assert convert(tmp_path / "in", out, "--limit=10", f"--subset-seed={seed}", "--quiet") == 0
        index = read_index(out)
        assert index.contents.images == 10
        pixels = {image.tobytes() for image in read_images(index)}
        assert draws.setdefault(seed, pixels) == pixels
    assert draws["0"] != draws["1"]
    assert 0 < len(draws["0"] & draws["1"]) < 10


def test_a_limit_without_effect_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(photos(tmp_path / "in", images=4), tmp_path / "set", "--limit", "4") == 0
    assert "--limit 4 has no effect: there are 4 images\n" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize("options", [(), ("--gray",)])
def test_formats(kind: str, options: tuple[str, ...], tmp_path: Path) -> None:
    photos(tmp_path / "in", images=6)
    index = subset_of(tmp_path, "--format", kind, *options)
    assert run("verify", tmp_path / "set", "--quiet") == 0
    with tarfile.open(index.path(0)) as archive:
        assert [name.split(".")[1] for name in archive.getnames()] == [kind, "cls"] * 6
    assert index.contents.settings.target.format == kind
    plain = read_images(index)
    assert plain.shape == (6, 8, 8, 1 if options else 3)
    if kind != "jpg" and not options:
        assert {image.tobytes() for image in plain} == {noise(seed).tobytes() for seed in range(6)}


def test_every_option_is_in_the_index(tmp_path: Path) -> None:
    photos(tmp_path / "in")
    options = ("--gray", "--crop=square", "--resize=lanczos", "--format=webp", "--shuffle-seed=3")
    subset = ("--classes=cat", "--limit=9", "--subset-seed=4")
    settings = subset_of(tmp_path, *options, *subset).contents.settings
    assert settings.target == Target(8, 1, "square", "lanczos", "webp")
    assert settings.subset == Subset(("cat",), 9, 4)
    assert (settings.shuffle_seed, settings.shard_images) == (3, 8)


def test_several_inputs_are_joined(tmp_path: Path) -> None:
    one, two = (files(tmp_path / name, {f"{name}{n}.png": png(n) for n in range(3)}) for name in ("cats", "dogs"))
    assert run("folder", one, two, "--out", tmp_path / "set", "--size", "8", "--workers", "1", "--quiet") == 0
    contents = read_index(tmp_path / "set").contents
    assert (contents.settings.classes, contents.class_counts) == (("cats", "dogs"), (3, 3))


def test_mnist_says_that_it_is_grey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = idx(np.zeros((2, 4, 4)), [1, 2])
    files(tmp_path / "in", {"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels})
    for options, told in (((), True), (("--gray",), False)):
        out = tmp_path / f"set{len(options)}"
        assert run("mnist", tmp_path / "in", "--out", out, "--size=4", "--workers=1", *options) == 0
        assert ("these images are grey: --gray makes shards of one channel" in capsys.readouterr().out) == told


def test_images_that_take_much_memory_wait_for_each_other(tmp_path: Path) -> None:
    for n in range(6):
        Image.new("L", (3000, 2700), 40 * n).save(tmp_path / f"{n}.png")
    files(tmp_path / "in", {f"{n}.png": (tmp_path / f"{n}.png").read_bytes() for n in range(6)})
    assert run("folder", tmp_path / "in", "--out", tmp_path / "set", "--size=8", "--workers=3", "--quiet") == 0
    assert sorted(read_images(read_index(tmp_path / "set"))[:, 0, 0, 0]) == [0, 40, 80, 120, 160, 200]


MISTAKES = {
    "out inside": (["folder", "in", "--out", "in/out"], "--out in/out: must not lie in in, from which the images are"),
    "out is in": (["folder", "in", "--out", "in"], "--out in: must not lie in in, from which the images are read"),
    "unknown class": (
        ["folder", "in", "--out", "out", "--classes", "dog"],
        "--classes: must be names of classes, got 'dog'; there are cat",
    ),
    "subset seed": (["folder", "in", "--out", "out", "--subset-seed", "1"], "--subset-seed 1 has no effect without"),
    "no labels": (["flowers102", "in", "--out", "out"], "Flowers-102 needs the file imagelabels.mat for its classes"),
    "split": (["mnist", "in", "--out", "out", "--split", "valid"], "argument --split: invalid choice: 'valid'"),
    "no file": (["mnist", "--out", "out"], "the following arguments are required: FILE"),
    "not cifar": (["cifar10", "in", "--out", "out"], "CIFAR-10's train images are in data_batch_1"),
    "missing": (["folder", "no", "--out", "out"], "dcgan-shard: error: no: no such file or folder\n"),
    "out is a file": (["folder", "in", "--out", "file"], "dcgan-shard: error: file: must be a directory, is a file\n"),
    "no directory": (["info", "in"], "dcgan-shard: error: in: not a directory of shards: no index.json"),
    "size": (["folder", "in", "--out", "out", "--size", "0"], "argument --size: must be positive, got 0"),
    "huge": (["folder", "in", "--out", "out", "--size", "9000"], "--size: an image must have at most 64,000,000"),
    "small": (["synthetic", "--out", "out", "--size", "4"], "--size: synthetic needs at least 8, got 4"),
    "part": (["folder", "in", "--out", "out", "--part", "0/2"], "argument --part: must be I/N with I from 1 to N, as"),
    "no parts": (["finish", "out"], "dcgan-shard: error: out: must be a directory that parts of a conversion were"),
    "nothing to finish": (["finish", "in"], "dcgan-shard: error: in: has no shard of a conversion with --part"),
    "abbreviated": (["folder", "in", "--out", "out", "--shuffle", "1"], "unrecognized arguments: --shuffle 1"),
    "no effect": (["synthetic", "--out", "out", "--crop", "center"], "unrecognized arguments: --crop center"),
    "seed": (["folder", "in", "--out", "out", "--shuffle-seed", "-1"], "key must be at least 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_message_and_exit_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "in", images=1)
    (tmp_path / "file").touch()
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_a_message_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    photos(tmp_path / "in", images=1)
    monkeypatch.setattr(os, "fsync", full)
    assert convert(tmp_path / "in", tmp_path / "set") == 1
    assert re.search(r"error: .*set/\S+: No space left on device\n$", capsys.readouterr().err)
    assert not (tmp_path / "set").exists()


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys, dcgan_dist.shard; assert not {'torch', 'webdataset', 'tyro'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    began = time.monotonic()
    found = subprocess.run([*COMMAND, "--help"], check=True, capture_output=True, text=True)
    assert time.monotonic() - began < 3  # 0.4 s on a quiet machine
    for name in shard.SHOWN_SOURCES:
        assert f"dcgan-shard {name} {SOURCES[name].example}\n" in found.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_in_a_recipe_parses(name: str) -> None:
    header = (REPOSITORY / "configs" / f"{name}.yaml").read_text(encoding="utf-8").split("recipe:")[0]
    command = header.replace("\n#   ", " ").split("# Data: dcgan-shard ")[1]
    shard._parser().parse_args(command.split())


@pytest.mark.parametrize("name", SOURCES)
def test_the_example_of_each_source_parses(name: str) -> None:
    arguments = shard._parser().parse_args([name, *SOURCES[name].example.split()])
    assert arguments.out.parts[0] == "shards"


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


DRAWN = ["--size", "8", "--count", "800", "--shard-images", "10"]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the set that the test below stops and goes on with."""
    out = tmp_path_factory.mktemp("whole") / "set"
    assert run("synthetic", "--out", out, "--workers", "1", *DRAWN) == 0
    return bytes_of(out)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_conversion_goes_on_to_the_same_bytes(
    how: signal.Signals, tmp_path: Path, never_stopped: dict[str, bytes]
) -> None:
    out = tmp_path / "set"
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without it
    process = subprocess.Popen(
        [*COMMAND, "synthetic", "--out", str(out), "--workers", "2", *DRAWN], stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, ours)
    wait_for(out / "set-000000.tar")
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert errors.splitlines()[-1].startswith("dcgan-shard: error: interrupted; the shards that were finished are")
        assert "Traceback" not in errors
        assert not list(out.glob(".*.tmp"))
    assert not (out / "index.json").exists()
    kept = (out / "set-000000.tar").stat().st_mtime_ns
    assert run("synthetic", "--out", out, "--workers", "1", *DRAWN) == 0
    assert (out / "set-000000.tar").stat().st_mtime_ns == kept
    assert bytes_of(out) == never_stopped


@needs_shared("data/flowers17")
def test_the_real_flowers17(tmp_path: Path) -> None:
    archive = SHARED / "data/flowers17/17flowers.tgz"
    assert run("flowers17", archive, "--out", tmp_path / "f", "--size", "28", "--workers", "2", "--quiet") == 0
    index = read_index(tmp_path / "f")
    assert index.contents.class_counts == (80,) * 17
    assert [s.images for s in index.contents.shards] == [512, 512, 336]
    assert run("verify", tmp_path / "f", "--quiet") == 0
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == [
        "f-000000.tar",
        "f-000001.tar",
        "f-000002.tar",
        "index.json",
        "index.npy",
    ]
