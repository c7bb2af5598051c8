"""The processes that decode for a trainer: how they begin and end, and what is said when one of them dies."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dcgan_dist.data.indexed import IndexedLoader
from dcgan_dist.data.loader import Loader
from dcgan_dist.data.shards import read_index
from tests.data.made import photos
from tests.data.sets import IMAGES, convert, rewrite_shard
from tests.data.test_indexed import opened, read

DEATH = r"worker process \d+ was killed by SIGKILL \(out of memory\?\)"
IMAGE = r"image \(number \d+, at byte [\d,]+\)"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 8 x 8 noise in five shards."""
    root = tmp_path_factory.mktemp("set")
    return convert(photos(root / "photos", images=IMAGES), root / "shards")


def stopped_or_dead(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait_until(happened: Callable[[], bool], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def processes(loader: Loader) -> tuple[int, ...]:
    assert isinstance(loader, IndexedLoader)
    return loader._decoding.processes  # type: ignore[union-attr]


def test_a_worker_that_dies_while_it_decodes_is_one_message(tmp_path: Path, shards: Path) -> None:
    """A shard that never answers, so that it is known what the worker does."""
    copied = shutil.copytree(shards, tmp_path / "copy")
    path = read_index(copied).path(0)
    with opened(copied, "indexed", workers=1, shuffle_window=1) as loader:
        assert isinstance(loader, IndexedLoader)
        step = next(step for step in range(9) if all(loader.positions(step)[:2] < 8))
        loader._files._whole.add(0)  # type: ignore[attr-defined]
        path.rename(copied / "aside")
        os.mkfifo(path)

        def kill() -> None:
            wait_until(lambda: loader._decoding is not None and loader._decoding._at[0] >= 0)  # type: ignore[union-attr]
            os.kill(processes(loader)[0], signal.SIGKILL)

        threading.Thread(target=kill).start()
        with pytest.raises(OSError, match=rf"{path}: {IMAGE} was being decoded when {DEATH}$"):
            loader.batch(step)


def test_a_worker_that_dies_meanwhile_is_one_message(shards: Path) -> None:
    """No image is blamed."""
    with opened(shards, "indexed", workers=2) as loader:
        loader.batch(0)
        time.sleep(0.3)  # until all that may be is decoded
        os.kill(processes(loader)[1], signal.SIGKILL)
        begin = time.monotonic()
        with pytest.raises(OSError, match=f"^{DEATH} while it decoded nothing$"):
            read(loader, steps=100)
        assert time.monotonic() - begin < 5


def test_a_worker_that_cannot_start_is_one_message(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        opened(shards, "indexed", workers=2) as loader,
        pytest.raises(OSError, match=r"^worker process \d+ ended with code 1 while it decoded nothing$"),
    ):
        loader.batch(0)


def test_a_worker_that_hangs_is_one_message(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(shards, "indexed", workers=2) as loader:
        loader.batch(0)
        monkeypatch.setattr("dcgan_dist.data.workers.SILENCE_SECONDS", 0.5)
        monkeypatch.setattr("dcgan_dist.data.workers.END_SECONDS", 0.5)
        os.kill(processes(loader)[0], signal.SIGSTOP)
        with pytest.raises(OSError, match=rf"shards-00000\d\.tar: {IMAGE} has not been read in 0 seconds$"):
            read(loader, steps=100)
        workers = processes(loader)
    assert all(stopped_or_dead(worker) for worker in workers)


def test_a_job_that_was_suspended_goes_on(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time has passed for the trainer as well, which must not blame the workers for it."""
    with opened(shards, "indexed", workers=1) as loader:
        loader.batch(0)
        monkeypatch.setattr("dcgan_dist.data.workers.SILENCE_SECONDS", 0.2)
        (worker,) = processes(loader)
        os.kill(worker, signal.SIGSTOP)
        threading.Timer(0.5, lambda: os.kill(worker, signal.SIGCONT)).start()
        read(loader, steps=30)


def test_workers_end_with_the_loader(shards: Path) -> None:
    with opened(shards, "indexed", workers=2) as loader:
        loader.batch(0)
        workers = processes(loader)
        assert len(workers) == 2
        assert not any(stopped_or_dead(worker) for worker in workers)
    assert all(stopped_or_dead(worker) for worker in workers)


def belongings() -> tuple[int, int, int, str]:
    """Open files, threads, shared memory and children of this process."""
    gc.collect()
    process = Path("/proc/self")
    maps, children = process / "maps", process / "task" / str(os.getpid()) / "children"
    files = len(list((process / "fd").iterdir()))
    return files, threading.active_count(), maps.read_text().count("memfd:dcgan_dist"), children.read_text()


@pytest.mark.parametrize("bad", [False, True])
def test_nothing_is_left_behind(bad: bool, shards: Path, tmp_path: Path) -> None:
    """Also when reading ends with an error."""
    copied = shutil.copytree(shards, tmp_path / "copy")
    if bad:
        rewrite_shard(copied, 1, {3: b"nothing"})
    before = belongings()
    for _ in range(2):
        with contextlib.suppress(OSError), opened(copied, "indexed", workers=2) as loader:
            read(loader)
            assert not bad
    del loader
    assert belongings() == before


def test_workers_import_little(shards: Path) -> None:
    with opened(shards, "indexed", workers=1) as loader:
        loader.batch(0)
        (worker,) = processes(loader)
        maps = Path(f"/proc/{worker}/maps").read_text()
        assert "cv2" in maps
        assert "libtorch" not in maps
        assert "/dev/shm" not in maps


READER = """
import sys, time, torch
from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data.loader import open_loader
data = DataConfig(data=sys.argv[1], batch_size=12, shuffle_window=2, loader="indexed", workers=2)
loader = open_loader(data, NetworkConfig(image_size=8), seed=0, rows=(0, 12), device=torch.device("cpu"))
loader.batch(0)
print(*loader._decoding.processes, flush=True)
step = 0
while True:
    loader.batch(step := step + 1)
"""


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGTERM))],
)
def test_workers_end_with_the_trainer_and_say_nothing(shards: Path, number: signal.Signals) -> None:
    """Ctrl-C goes to all processes of the group; here only the trainer, which does not catch it, may say something."""
    command = [sys.executable, "-c", READER, str(shards)]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True)
    assert job.stdout is not None
    try:
        workers = [int(word) for word in job.stdout.readline().split()]
        assert len(workers) == 2
        if number == signal.SIGKILL:
            job.kill()
        else:
            for worker in workers:  # they must not even notice
                os.kill(worker, number)
            time.sleep(0.1)
            assert job.poll() is None
            assert not any(stopped_or_dead(worker) for worker in workers)
            os.killpg(job.pid, number)
        _, error = job.communicate(timeout=20)
        wait_until(lambda: all(stopped_or_dead(worker) for worker in workers))
        assert error.count("Traceback") == (number == signal.SIGINT), error
        assert "dcgan_dist.data.workers import serve" not in error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
