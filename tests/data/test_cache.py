"""The cache alone: many processes, little room, sudden deaths."""

import errno
import fcntl
import hashlib
import multiprocessing
import os
import random
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dcgan_dist.data.cache import Cache, CacheFullError
from dcgan_dist.data.remote import Expected
from tests.distributed.ranks import PRELOADED

SIZE = 4096
FILES = 6
NEVER = threading.Event()
SET = "0123456789abcdef" * 2


def kept(directory: Path) -> Path:
    """Where the files lie."""
    return directory / f"dcgan_dist-{SET}"


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


def expected(number: int) -> Expected:
    return Expected(SIZE, hashlib.sha256(content(number)).hexdigest())


def fetch(number: int, log: Path | None = None) -> Any:
    """Writes a file in two parts with a pause; the log has a line for each begin and end."""

    def write(handle: int) -> None:
        if log:
            with log.open("a") as file:
                file.write(f"begin {number}\n")
        os.pwrite(handle, content(number)[:100], 0)
        time.sleep(0.002)
        os.pwrite(handle, content(number)[100:], 100)
        if log:
            with log.open("a") as file:
                file.write(f"end {number}\n")

    return write


def hold(cache: Cache, number: int, *, log: Path | None = None, known_whole: bool = False) -> int:
    write = fetch(number, log)
    return cache.hold(
        cache.place(SET) / str(number), expected(number), fetch=write, known_whole=known_whole, stop=NEVER
    )


def live(directory: Path, log: Path, seed: int, holds: int, results: Any) -> None:
    """Hold files at random, two at a time, and look at them again after a while."""
    dice = random.Random(seed)
    cache = Cache(directory, limit_bytes=4 * SIZE)
    wrong = over = 0
    for _ in range(holds):
        handles = {}
        for number in dice.sample(range(FILES), 2):
            try:
                handles[number] = hold(cache, number, log=log)
            except CacheFullError:
                continue
        time.sleep(dice.random() * 0.003)
        for number, handle in handles.items():
            path = kept(directory) / str(number)
            wrong += path.read_bytes() != content(number)  # it is still there, by its name
            os.close(handle)
        with cache._locked():
            over += sum(size_of(path) for path in kept(directory).glob("*")) > 4 * SIZE
    results.put((wrong, over))


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_many_processes_share_little_room(tmp_path: Path) -> None:
    """And now and then one of them is killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    results = context.Queue()
    directory, log = tmp_path / "cache", tmp_path / "log"

    def start(seed: int, holds: int, queue: Any) -> Any:
        process = context.Process(target=live, args=(directory, log, seed, holds, queue), daemon=True)
        process.start()
        return process

    living = [start(seed, 60, results) for seed in range(3)]
    dice = random.Random(0)
    for seed in range(100, 103):
        doomed = start(seed, 10**6, context.Queue())
        time.sleep(0.1 + dice.random() * 0.1)
        doomed.kill()
        doomed.join()
    assert [results.get(timeout=60) for _ in living] == [(0, 0)] * 3
    for process in living:
        process.join()
    lines = log.read_text().split("\n")[:-1]
    assert len(lines) > 50
    handle = hold(Cache(directory, limit_bytes=FILES * SIZE), 0)  # what the dead have left is in nobody's way
    os.close(handle)


def test_no_file_is_fetched_by_two_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    results = context.Queue()
    directory, log = tmp_path / "cache", tmp_path / "log"
    started = [context.Process(target=live, args=(directory, log, seed, 40, results)) for seed in range(4)]
    for process in started:
        process.start()
    assert [results.get(timeout=60) for _ in started] == [(0, 0)] * 4
    for process in started:
        process.join()
    under_way: set[str] = set()
    for line in log.read_text().split("\n")[:-1]:
        what, number = line.split()
        assert (number in under_way) == (what == "end")
        under_way ^= {number}
    assert not under_way


def test_the_file_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=3 * SIZE)
    for number in (0, 1, 2, 0):  # 1 is the oldest then
        os.close(hold(cache, number))
        time.sleep(0.01)
    os.close(hold(cache, 3))
    assert sorted(path.name for path in kept(tmp_path).iterdir()) == ["0", "2", "3"]


def test_what_is_held_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=2 * SIZE)
    first, second = hold(cache, 0), hold(cache, 1)
    with pytest.raises(CacheFullError, match="8,192 of 8,192 bytes are in use, 4,096 are needed"):
        hold(cache, 2)
    assert sorted(path.name for path in kept(tmp_path).iterdir()) == ["0", "1"]
    os.close(first)
    os.close(hold(cache, 2))
    os.close(second)
    assert sorted(path.name for path in kept(tmp_path).iterdir()) == ["1", "2"]


def test_a_file_removed_just_before_it_is_locked_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path, limit_bytes=2 * SIZE)
    os.close(hold(cache, 0))
    path, lock = kept(tmp_path) / "0", fcntl.flock
    removals = 2  # the first when it is found, the second when it has just been fetched

    def late(handle: int, how: int) -> None:
        nonlocal removals
        if how == fcntl.LOCK_SH and removals:
            removals -= 1
            path.unlink()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    handle = hold(cache, 0)
    assert os.path.samestat(path.stat(), os.fstat(handle))
    assert removals == 0
    os.close(handle)


def test_a_file_is_hashed_unless_it_is_known(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=2 * SIZE)
    os.close(hold(cache, 0))
    path = kept(tmp_path) / "0"
    path.chmod(0o600)
    path.write_bytes(content(1))
    os.close(hold(cache, 0, known_whole=True))
    assert path.read_bytes() == content(1)
    os.close(hold(cache, 0))
    assert path.read_bytes() == content(0)


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=2 * SIZE)

    def write(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as caught:
        cache.hold(cache.place(SET) / "0", expected(0), fetch=write, known_whole=False, stop=NEVER)
    assert caught.value.filename == str(kept(tmp_path) / "0")
    assert list(kept(tmp_path).iterdir()) == []


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ValueError, match=rf"^cache_dir {tmp_path}: must be a directory of this user$"):
        Cache(tmp_path, limit_bytes=1)


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        (OSError(errno.ENOLCK, "No locks available"), "cannot be used: No locks available; name another$"),
        (
            None,
            r"must be on a disk of this machine, for its locks \(flock\)$",
        ),  # as on NFS: this process has it already
    ],
)
def test_a_file_system_without_locks_is_refused(
    lock: OSError | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=lock))
    with pytest.raises(ValueError, match=f"^cache_dir {tmp_path}: {message}"):
        Cache(tmp_path, limit_bytes=1)


def test_only_its_own_files_are_counted_and_removed(tmp_path: Path) -> None:
    """A directory that the user had before, full of other things."""
    others = [tmp_path / name for name in ("photos/1.jpg", "dcgan_dist-runs/x", "a.tar", f"{SET}/x", ".lock")]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(10 * SIZE))
        os.utime(path, (0, 0))
    cache = Cache(tmp_path, limit_bytes=2 * SIZE)
    for number in range(4):
        os.close(hold(cache, number))
    assert sorted(path.name for path in kept(tmp_path).iterdir()) == ["2", "3"]
    assert all(path.stat().st_size == 10 * SIZE for path in others)


@pytest.mark.parametrize("stopped", [True, False])
def test_a_process_that_is_stopped_in_mid_fetch_is_told(
    stopped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcgan_dist.data.cache.STALLED_SECONDS", 0.3)
    cache = Cache(tmp_path, limit_bytes=2 * SIZE)
    kept(tmp_path).mkdir()
    part = kept(tmp_path) / "0.part"
    with part.open("wb", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        if stopped:
            with pytest.raises(OSError, match=rf"^{tmp_path}/.*/0: is being fetched by another process, which has"):
                hold(cache, 0)
            return
        waiting = threading.Thread(target=lambda: os.close(hold(cache, 0)))
        waiting.start()
        for _ in range(30):  # slow, but it goes on
            other.write(b"x")
            time.sleep(0.02)
        assert waiting.is_alive()
    waiting.join()
    assert (kept(tmp_path) / "0").read_bytes() == content(0)
