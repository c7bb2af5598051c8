"""What a rank says when it fails, and how the others learn which one it was.

A collective only says that some connection broke, or that time is up, and not even that to every rank: the others go
on waiting. So the ranks use the store that their process group was started with. In each process a thread counts there
to show that the process is alive, whatever the main thread waits for. A rank that fails leaves its last words, a rank
whose collective broke says so, and whoever has stopped counting has ended without a word.
"""

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from dcgan_dist.distributed import collectives

BEAT_SECONDS = 1.0
"""How often a process shows that it is alive and looks for trouble."""
SILENCE_SECONDS = 10.0
"""A process that has shown nothing for so long is trouble by itself."""
PATIENCE_SECONDS = 4.0
"""How long a rank whose collective broke waits for what the others have to say."""
GRACE_SECONDS = 12.0
"""A process whose main thread has noticed nothing so long after the first sign of trouble is ended."""

TROUBLE = "dcgan_dist/trouble"


class PeerError(Exception):
    """Another rank has failed: which one, and why."""

    def __init__(self, message: str, *, is_teller: bool) -> None:
        super().__init__(message)
        self.is_teller = is_teller
        """Whether this is the first of the ranks that are left to know: the one to say it."""


@contextlib.contextmanager
def attended() -> Iterator[None]:
    """Show the other ranks that this process is alive during the block, and end it when another one's end has stuck it.

    Every rank needs it for ``last_words`` to blame the right one.
    """
    over = threading.Event()
    if collectives.world_size() > 1:
        attend = partial(_attend, _get_default_store(), own=collectives.rank(), over=over)
        threading.Thread(target=attend, name="dcgan_dist.failure", daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextlib.contextmanager
def last_words() -> Iterator[None]:
    """Tell the other ranks why the block failed on this one, or blame the right one when another failed first.

    Raises:
        PeerError: in place of the error of a collective that another rank broke.
    """
    try:
        yield
    except PeerError:
        raise
    except BaseException as error:
        if collectives.world_size() == 1:
            raise
        if _is_of_a_collective(error):
            raise _peer_error(error) from None
        with contextlib.suppress(RuntimeError):  # the store has gone with the process that served it
            _leave("words", f"{type(error).__name__}: {error}")
        raise


def _is_of_a_collective(error: BaseException) -> bool:
    """Whether ``error`` is of the network or a time limit; gloo's are RuntimeErrors that name its source."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _peer_error(error: BaseException) -> PeerError:
    """Who failed, from the marks of all ranks."""
    store, own = _get_default_store(), collectives.rank()
    ranks = set(range(collectives.world_size()))
    silence = threading.Timer(GRACE_SECONDS, _give_up)  # a store whose process is frozen answers nothing, without end
    silence.daemon = True
    silence.start()
    try:
        _leave("broke", "")
        beats, deadline = _beats(store), time.monotonic() + PATIENCE_SECONDS
        while True:
            words, broke = _marks(store, "words"), set(_marks(store, "broke"))
            if words or broke == ranks or time.monotonic() > deadline:
                break
            time.sleep(BEAT_SECONDS / 10)
        if words:  # they have said so themselves, on their own standard error
            told = "; ".join(f"rank {rank}: {text}" for rank, text in sorted(words.items()))
            return PeerError(told, is_teller=False)
        silent = _unchanged(beats, _beats(store)) - broke
        if silent:
            message = _death(silent)
        elif stuck := ranks - broke:
            verb, whom = ("hangs", "it") if len(stuck) == 1 else ("hang", "them")
            message = f"{_named(stuck)} {verb}: the others have waited for {whom} until the timeout"
        else:
            message = f"the network between the ranks failed: {error}"
        return PeerError(message, is_teller=_tells(store))
    except RuntimeError:
        return PeerError("rank 0 died: the store of the process group went with it", is_teller=own == 1)
    finally:
        silence.cancel()


def _give_up() -> None:
    """End this process, whatever its main thread waits for."""
    print("error: a rank failed, and the process that could say which one does not answer", file=sys.stderr, flush=True)
    os._exit(1)


def _named(ranks: set[int]) -> str:
    return " and ".join(f"rank {rank}" for rank in sorted(ranks))


def _death(ranks: set[int]) -> str:
    return f"{_named(ranks)} died without a word (killed? out of memory?) or is stopped"


def _attend(store: Any, *, own: int, over: threading.Event) -> None:
    """The thread's work: count, watch the next rank's count, and end the process when it is stuck in trouble."""
    next_rank = (own + 1) % collectives.world_size()
    seen, seen_at = 0, time.monotonic()
    trouble_at, then = math.inf, [0]
    with contextlib.suppress(RuntimeError):  # the store has gone; the main thread will notice the rest
        while not over.wait(BEAT_SECONDS):
            store.add(_key("beat", own), 1)
            now, beats = time.monotonic(), store.add(_key("beat", next_rank), 0)
            if beats == 0 or beats != seen:
                seen, seen_at = beats, now
            elif now - seen_at > SILENCE_SECONDS:
                store.set(TROUBLE, "")
            if trouble_at == math.inf and store.check([TROUBLE]):
                trouble_at, then = now, _beats(store)
            if now - trouble_at > GRACE_SECONDS and not {own} & {*_marks(store, "words"), *_marks(store, "broke")}:
                silent = _unchanged(then, _beats(store))
                if silent or _marks(store, "words") or _marks(store, "broke"):
                    if silent and _tells(store):
                        print(f"error: {_death(silent)}", file=sys.stderr, flush=True)
                    os._exit(1)
                trouble_at = math.inf  # a false alarm: all are alive, and nobody has failed


def _leave(kind: str, text: str) -> None:
    """Leave this rank's mark."""
    store = _get_default_store()
    store.set(_key(kind, collectives.rank()), text)
    store.set(TROUBLE, "")


def _marks(store: Any, kind: str) -> dict[int, str]:
    """The texts of all ranks that have left a mark of this kind."""
    ranks = range(collectives.world_size())
    return {rank: store.get(_key(kind, rank)).decode() for rank in ranks if store.check([_key(kind, rank)])}


def _beats(store: Any) -> list[int]:
    """How far each rank has counted."""
    return [store.add(_key("beat", rank), 0) for rank in range(collectives.world_size())]


def _unchanged(then: list[int], now: list[int]) -> set[int]:
    """Ranks that have not counted on."""
    return {rank for rank, (before, after) in enumerate(zip(then, now, strict=True)) if before == after}


def _tells(store: Any) -> bool:
    """Whether this is the first process to know who failed; it may be the only one that can tell."""
    return bool(store.add("dcgan_dist/told", 1) == 1)


def _key(kind: str, rank: int) -> str:
    return f"dcgan_dist/{kind}/{rank}"
