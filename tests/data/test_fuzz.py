"""Inputs of every kind, changed at random, through dcgan-shard: whole shards or one message, and nothing else happens.

The cases run in a process of their own, whose memory is limited, so that a crash, a hang or a bomb is a result too.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dcgan_dist import shard
from tests.data.hostile import KINDS
from tests.shared import REPOSITORY

MEMORY_BYTES = 4 * 2**30
"""Of address space, most of which is never touched."""
PEAK_BYTES = 1000 * 2**20
"""Resident; a picture of tens of millions of pixels, which some headers claim, takes most of it."""
CASE_SECONDS = 60
LIBTIFF = re.compile(r"^[\w.]+: .*\n", re.MULTILINE)
"""How libtiff tells that a TIFF is damaged; Pillow lets it."""


def snapshot(folder: Path, *, but: Path) -> dict[str, tuple[int, int, int]]:
    """Everything in a folder, but what is in another."""
    found = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(parent, name) != but]
        for path in (Path(parent, name) for name in files):
            stat = path.lstat()
            found[str(path)] = (stat.st_mode, stat.st_size, stat.st_mtime_ns)
    return found


@contextlib.contextmanager
def into(file: Path) -> Iterator[None]:
    """Everything that is printed, by libraries in C too, goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with file.open("wb") as target:
        for number in (1, 2):
            os.dup2(target.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def outcome(arguments: list[str], out: Path, printed: Path) -> str:
    """``converted``, ``mistake`` or ``damage`` if all is well; otherwise what is wrong."""
    code: object = 0
    with into(printed):
        try:
            shard.main([*arguments, "--out", str(out), "--size=8", "--workers=1", "--quiet"])
            shard.main(["verify", str(out), "--quiet"])
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:  # what a user would see as a traceback
            return f"WRONG: {error!r:.200}"
    text = LIBTIFF.sub("", printed.read_text(errors="surrogateescape"))
    first, *rest = text.splitlines() or [""]
    if code == 0:
        return "converted" if not text else f"WRONG: converted and said {text!r:.200}"
    if code not in (1, 2) or not first.startswith("dcgan-shard: error: ") or "out of memory" in first:
        return f"WRONG: exit {code}, {text!r:.300}"
    if not all(line.startswith("  ") for line in rest) or not text.replace("\n", "").isprintable():
        return f"WRONG: more than one message: {text!r:.300}"
    if (out / "index.json").exists():
        return f"WRONG: exit {code} and an index"
    return {1: "damage", 2: "mistake"}[code]


def attempt(case: int, root: Path) -> tuple[str, str]:
    """Kind and outcome of a case; ``root`` has nothing else in it."""
    dice = np.random.default_rng(case)
    kind = list(KINDS)[case % len(KINDS)]
    home = root / "case"
    (home / "in").mkdir(parents=True)
    arguments = KINDS[kind](home / "in", dice)
    before = snapshot(root, but=home / "out" / "set")
    found = outcome(arguments, home / "out" / "set", root.parent / "printed")
    changed = snapshot(root, but=home / "out" / "set").items() ^ before.items()
    if changed:
        found = f"WRONG: outside of the target, {sorted(changed)}"
    shutil.rmtree(home)
    return kind, found


def main(first: int, last: int, root: Path) -> None:
    """Run cases in this process; one line of JSON for the beginning and one for the end of each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for case in range(first, last):
        signal.alarm(CASE_SECONDS)
        print(json.dumps([case]), flush=True)
        print(json.dumps([case, *attempt(case, root)]), flush=True)
    status = Path(
        "/proc/self/status"
    ).read_text()  # not getrusage, which knows of the process that this was forked from
    print(json.dumps(int(status.partition("VmHWM:")[2].split()[0]) * 1024))


def fuzz(first: int, last: int, tmp_path: Path) -> Counter[str]:
    """How often each kind had each outcome."""
    root = tmp_path / "root"
    for name in ("work", "tmp"):
        (root / name).mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(root / "tmp"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.data.test_fuzz", str(first), str(last), str(root)]
    done = subprocess.run(command, cwd=root / "work", env=environment, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"exit {done.returncode} in case {lines[-1:]}: {done.stderr}"
    *cases, peak = lines
    results = [case for case in cases if len(case) == 3]
    assert not [result for result in results if result[2].startswith("WRONG")]
    assert len(results) == last - first
    assert not [path for path in root.rglob("*") if not path.is_dir()]
    assert peak < PEAK_BYTES
    tally = Counter(f"{kind}: {found}" for _, kind, found in results)
    print(f"{dict(sorted(tally.items()))}, peak {peak / 1e6:.0f} MB")
    return tally


def test_changed_inputs_are_shards_or_a_message(tmp_path: Path) -> None:
    tally = fuzz(0, 64, tmp_path)
    assert {name.split(": ")[1] for name in tally} == {"converted", "mistake", "damage"}


@pytest.mark.slow
def test_many_changed_inputs_are_shards_or_a_message(tmp_path: Path) -> None:
    tally = fuzz(1000, 2000, tmp_path)
    assert {name.split(": ")[0] for name in tally} == set(KINDS)
    assert all(tally[f"{kind}: converted"] and tally[f"{kind}: damage"] for kind in KINDS)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
