"""Shards at hand when they are needed: those of the windows being read are held, the next window's are on their way."""

import threading
import time
from collections.abc import Callable, Sequence

from dcgan_dist.data.cache import CacheFullError
from dcgan_dist.data.remote import StoppedError
from dcgan_dist.data.shard_files import FULL_SECONDS, ShardFiles

_POLL_SECONDS = 0.2
_END_SECONDS = 1.0


class Windows:
    """Holds the shards of a moving range of windows, and of the one after it, with threads of its own.

    Args:
        files: where the shards are.
        shards_of: the shards of a window.
        first_share: which shards this process fetches first, so that the processes of a node share the work.
        let_go: called, by the caller of ``ready``, with shards that are no longer held.
    """

    def __init__(
        self,
        files: ShardFiles,
        shards_of: Callable[[int], Sequence[int]],
        *,
        first_share: Callable[[int], bool],
        let_go: Callable[[Sequence[int]], None],
    ) -> None:
        self._files = files
        self._shards_of = shards_of
        self._first_share = first_share
        self._let_go = let_go
        self._range = (0, -1)
        self._needed: set[int] = set()
        self._upcoming: list[int] = []  # those of the range and of the window after it, in order
        self._wanted: list[int] = []  # the same, or the needed ones alone while there is no room for more
        self._held: set[int] = set()
        self._busy: dict[int, float] = {}  # being fetched, since when
        self._full: tuple[float, CacheFullError] | None = None  # since when
        self._errors: dict[int, Exception] = {}  # by shard; told when the shard is needed
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def ready(self, first: int, last: int, *, wait: bool) -> bool:
        """Whether all shards of windows ``first`` to ``last`` are held; those before ``first`` are let go.

        Args:
            first: the first window that something is still read from.
            last: the last one.
            wait: come back when they are held, not before.

        Raises:
            OSError: when one of them is missing, damaged, cannot be had or has no room.
        """
        if (first, last) != self._range:
            self._move(first, last)
        if wait:
            self._wait()
        with self._changed:
            for shard in self._needed & self._errors.keys():
                raise OSError(str(self._errors[shard])) from self._errors[shard]
            complete = self._needed <= self._held
            if complete and self._wanted != self._upcoming:
                self._wanted = self._upcoming
                self._changed.notify_all()
            return complete

    def close(self) -> None:
        """Let go of everything; threads that still fetch something give up soon."""
        self._stop.set()
        with self._changed:
            self._wanted, self._needed = [], set()
            self._changed.notify_all()
        deadline = time.monotonic() + _END_SECONDS
        for thread in self._threads:  # so that nothing half-fetched is left
            thread.join(max(0.0, deadline - time.monotonic()))
        self._release()

    def _move(self, first: int, last: int) -> None:
        self._range = (first, last)
        windows = [sorted(self._shards_of(window), key=self._later) for window in range(first, last + 2)]
        with self._changed:
            self._needed = {shard for shards in windows[:-1] for shard in shards}
            self._wanted = self._upcoming = list(dict.fromkeys(shard for shards in windows for shard in shards))
            self._full = None
            self._changed.notify_all()
        self._release()
        if not self._threads:
            for _ in range(self._files.fetches):
                thread = threading.Thread(target=self._fetch, name="dcgan_dist.windows", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _later(self, shard: int) -> bool:
        return not self._first_share(shard)

    def _release(self) -> None:
        """Let go of what is held and not wanted."""
        with self._changed:
            gone = sorted(self._held.difference(self._wanted))
            self._held.difference_update(gone)
        if gone:
            self._let_go(gone)
            for shard in gone:
                self._files.let_go(shard)

    def _wait(self) -> None:
        """Come back when all that is needed is held, or nothing will come any more."""
        while True:
            with self._changed:
                if self._needed & self._errors.keys() or self._needed <= self._held:
                    return
                full, now = self._full, time.monotonic()
                if full is None:
                    self._changed.wait(_POLL_SECONDS)
                    continue
                if any(now - since > _POLL_SECONDS for since in self._busy.values()):
                    self._full = (now, full[1])  # a slow fetch, of a shard of this window or one that then makes room
                elif now - full[0] > FULL_SECONDS:
                    self._full = None
                    raise OSError(
                        f"cache_gigabytes is too small for the {len(self._needed)} shards that are read at once, or "
                        f"other runs fill the cache: {full[1]}"
                    )
                self._wanted = [shard for shard in self._upcoming if shard in self._needed]
            self._release()  # of the next window, to make room for this one
            time.sleep(_POLL_SECONDS)

    def _fetch(self) -> None:
        """The work of a thread: hold what is wanted, in order."""
        while True:
            with self._changed:
                if self._stop.is_set():
                    return
                taken = self._held | self._busy.keys() | self._errors.keys()
                todo = [shard for shard in self._wanted if shard not in taken]
                if not todo:
                    self._changed.wait()
                    continue
                shard = todo[0]
                self._busy[shard] = time.monotonic()
            error = self._hold(shard)
            with self._changed:
                del self._busy[shard]
                if isinstance(error, CacheFullError):
                    self._full = self._full or (time.monotonic(), error)
                    self._changed.wait(_POLL_SECONDS)
                    continue
                if error is None:
                    self._full = None
                    if shard in self._wanted:
                        self._held.add(shard)
                    else:  # the range has moved on, or this is the end
                        self._files.let_go(shard)
                elif not isinstance(error, StoppedError):
                    self._errors[shard] = error
                self._changed.notify_all()

    def _hold(self, shard: int) -> Exception | None:
        """Hold a shard; what prevented it."""
        try:
            self._files.hold(shard, self._stop)
        except Exception as error:  # for the thread that reads
            return error
        return None
