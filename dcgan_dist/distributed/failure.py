"""What a rank says when it fails, and how the others learn which one it was.

A collective only says that some connection broke, or that time is up, and not even that to every rank: the others go
on waiting. So the ranks leave marks in the store that their process group was started with. A rank that fails leaves
its last words, a rank whose collective broke says so, and in each process a thread looks for such marks and answers
them, whatever the main thread waits for. Whoever does not answer has ended without a word.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from dcgan_dist.distributed import collectives

LOOK_SECONDS = 0.5
"""How often a process looks for marks of trouble."""
PATIENCE_SECONDS = 4.0
"""How long a rank whose collective broke waits for what the others have to say."""
GRACE_SECONDS = 15.0
"""A process that still waits in a collective so long after the first mark of trouble is ended."""

TROUBLE = "dcgan_dist/trouble"


class PeerError(Exception):
    """Another rank has failed: which one, and why."""

    def __init__(self, message: str, *, first_left: bool) -> None:
        super().__init__(message)
        self.first_left = first_left
        """Whether this is the first of the ranks that are left to know: the one to say it."""


@contextlib.contextmanager
def attended() -> Iterator[None]:
    """Answer other ranks' marks of trouble during the block, and end the process if it is stuck because of them.

    Every rank needs it for ``last_words`` to blame the right one.
    """
    over = threading.Event()
    if collectives.world_size() > 1:
        arguments = (_get_default_store(), collectives.rank(), over)
        threading.Thread(target=_attend, args=arguments, name="dcgan_dist.failure", daemon=True).start()
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
    ranks, own = set(range(collectives.world_size())), collectives.rank()
    silence = threading.Timer(GRACE_SECONDS, _give_up)  # a store whose process is frozen answers nothing, without end
    silence.daemon = True
    silence.start()
    try:
        _leave("broke", "")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            words = {rank: text for rank in ranks if (text := _mark("words", rank)) is not None}
            broke = {rank for rank in ranks if _mark("broke", rank) is not None}
            if words or broke == ranks or time.monotonic() > deadline:
                break
            time.sleep(LOOK_SECONDS / 5)
        alive = {rank for rank in ranks if _mark("alive", rank) is not None} | broke
    except RuntimeError:
        return PeerError("rank 0 died: the store of the process group went with it", first_left=own == 1)
    finally:
        silence.cancel()
    if words:  # they have said so themselves, on their own standard error
        return PeerError("; ".join(f"rank {rank}: {text}" for rank, text in sorted(words.items())), first_left=False)
    if silent := ranks - alive:
        message = f"{_named(silent)} died without a word (killed? out of memory?) or is stopped"
    elif stuck := ranks - broke:
        verb, whom = ("hangs", "it") if len(stuck) == 1 else ("hang", "them")
        message = f"{_named(stuck)} {verb}: the others have waited for {whom} until the timeout"
    else:
        message = f"the network between the ranks failed: {error}"
    first = _get_default_store().add("dcgan_dist/told", 1) == 1  # whoever knows first: it may be the only one that can
    return PeerError(message, first_left=first)


def _give_up() -> None:
    """End this process, whatever its main thread waits for."""
    print("error: a rank failed, and the process that could say which one does not answer", file=sys.stderr, flush=True)
    os._exit(1)


def _named(ranks: set[int]) -> str:
    return " and ".join(f"rank {rank}" for rank in sorted(ranks))


def _attend(store: Any, own: int, over: threading.Event) -> None:
    """The thread's work."""
    with contextlib.suppress(RuntimeError):  # the store has gone; the main thread will notice the rest
        while not store.check([TROUBLE]):
            if over.wait(LOOK_SECONDS):
                return
        store.set(f"dcgan_dist/alive/{own}", "")
        own_marks = [f"dcgan_dist/{kind}/{own}" for kind in ("broke", "words")]
        if not over.wait(GRACE_SECONDS) and not any(store.check([mark]) for mark in own_marks):
            os._exit(1)  # the main thread has noticed nothing: it is stuck


def _leave(kind: str, text: str) -> None:
    store = _get_default_store()
    store.set(f"dcgan_dist/{kind}/{collectives.rank()}", text)
    store.set(TROUBLE, "")


def _mark(kind: str, rank: int) -> str | None:
    """The text of a rank's mark, None without one."""
    store, key = _get_default_store(), f"dcgan_dist/{kind}/{rank}"
    return store.get(key).decode() if store.check([key]) else None
