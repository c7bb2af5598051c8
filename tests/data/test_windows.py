"""Shards that are held ahead of need, from files that are slow or have no room."""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from dcgan_dist.data import windows
from dcgan_dist.data.cache import CacheFullError
from dcgan_dist.data.shards import Index
from dcgan_dist.data.windows import Windows


class Files:
    """Room for two shards, held or under way; those of ``slow`` take so many seconds."""

    index: Index
    fetches = 4
    room = 2
    description = ""

    def __init__(self, slow: dict[int, float]) -> None:
        self.slow = slow
        self.taken: list[int] = []
        self.refusals = 0
        self._lock = threading.Lock()

    def name(self, shard: int) -> str:
        return str(shard)

    def hold(self, shard: int, stop: threading.Event) -> None:
        with self._lock:
            if len(self.taken) == self.room:
                self.refusals += 1
                raise CacheFullError("no room")
            self.taken.append(shard)
        time.sleep(self.slow.get(shard, 0.0))

    def let_go(self, shard: int) -> None:
        with self._lock:
            self.taken.remove(shard)

    def check(self, shards: Iterable[int], *, at_once: int) -> None:
        return


@contextlib.contextmanager
def of_pairs(files: Files) -> Iterator[Windows]:
    """Window w has shards 2w and 2w + 1; the one before the first has none."""
    found = Windows(
        files,
        lambda window: [2 * window, 2 * window + 1] if window >= 0 else [],
        first_share=lambda shard: True,
        let_go=lambda shards: None,
    )
    with contextlib.closing(found):
        yield found


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "FULL_SECONDS", 0.25)
    monkeypatch.setattr(windows, "_POLL_SECONDS", 0.02)


def test_the_next_window_waits_for_room() -> None:
    files = Files({})
    with of_pairs(files) as found:
        for window in (0, 1, 7, 2):
            assert found.ready(window, window, wait=True)
            assert sorted(files.taken) == [2 * window, 2 * window + 1]
    assert files.taken == []


def test_what_is_still_being_fetched_is_waited_for() -> None:
    """Shards of the next window are slow, and when the window after it is wanted they are in the way."""
    files = Files({0: 0.8, 1: 0.8})
    with of_pairs(files) as found:
        found.ready(-1, -1, wait=True)  # needs none; 0 and 1 come next
        while len(files.taken) < 2:
            time.sleep(0.01)
        begin = time.monotonic()
        assert found.ready(3, 3, wait=True)
        assert 0.5 < time.monotonic() - begin < 3.0
        assert sorted(files.taken) == [6, 7]
    assert 0 < files.refusals < 1000  # nobody tries without a pause


def test_no_room_for_long_is_a_message() -> None:
    files = Files({})
    files.taken = [100]  # of another run
    with (
        of_pairs(files) as found,
        pytest.raises(OSError, match=r"^cache_gigabytes is too small for the 2 shards .* or other runs .*: no room$"),
    ):
        found.ready(0, 0, wait=True)
    assert files.taken == [100]
