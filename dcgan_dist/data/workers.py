"""Processes that decode images into memory they share with the trainer, and the trainer's side of them.

A worker is a fresh interpreter (the trainer has threads, perhaps CUDA: no fork) that imports this module, NumPy,
OpenCV and Pillow, not torch. It never gets the signals that ask a run to stop, because the trainer first finishes
what it is at; it ends when its connection does, with the trainer or before, however that ended. What it is told:

    DECODE  a range of rows, whose requests stand in the shared memory, to decode into the same rows there
    FORGET  shards to close

What it answers: a range of rows that is decoded, or the row that could not be, and why.
"""

import contextlib
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.decoding import REQUEST, Decoder, Stored, UndecodedError
from dcgan_dist.data.transforms import Pixels
from dcgan_dist.machine import anonymous_file

HELD_BACK_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""What a worker never notices: the signals that the trainer answers by saving and ending the run."""
SILENCE_SECONDS = 300.0
"""A worker that takes so long for a few images hangs, in a file system that does not answer."""
END_SECONDS = 5.0

_MOST_ROWS = 64  # a task
_TASKS_EACH = 4  # that a worker has at a time; more wait here, so that nothing ever fills a connection
_DECODE, _FORGET = 0, 1
_NOWHERE = -1  # the row of a worker that decodes nothing
_PARENT = str(Path(__file__).parents[2])  # of the package


@dataclass(frozen=True)
class _Layout:
    """The shared memory: of each worker the row it is at, of each row the request, of each row the pixels."""

    workers: int
    rows: int
    shape: tuple[int, int, int]
    """(channels, size, size)."""

    def parts(self, memory: mmap.mmap) -> tuple[NDArray[np.int64], NDArray[np.void], Pixels]:
        at = np.frombuffer(memory, np.int64, self.workers)
        requests = np.frombuffer(memory, REQUEST, self.rows, offset=at.nbytes)
        pixels = np.frombuffer(memory, np.uint8, offset=at.nbytes + requests.nbytes)
        return at, requests, pixels[: self.rows * int(np.prod(self.shape))].reshape(self.rows, *self.shape)

    @property
    def bytes(self) -> int:
        return 8 * self.workers + self.rows * (REQUEST.itemsize + int(np.prod(self.shape)))


@dataclass(eq=False)
class _Worker:
    """One process."""

    number: int
    process: subprocess.Popen[bytes]
    connection: Connection
    tasks: deque[tuple[int, int]] = field(default_factory=deque)
    """Rows it was told to decode and has not answered for, oldest first."""


class Workers:
    """Rows of shared memory that processes decode images into.

    Args:
        stored: where the images are.
        count: processes.
        rows: images that can be there at a time.

    Raises:
        OSError: If there is no memory or no process to be had.
    """

    def __init__(self, stored: Stored, *, count: int, rows: int) -> None:
        layout = _Layout(count, rows, (stored.wanted_channels, stored.size, stored.size))
        handle = anonymous_file(layout.bytes)
        self._workers: list[_Worker] = []
        try:
            self._at, self._requests, self.pixels = layout.parts(mmap.mmap(handle, layout.bytes))
            self._at[:] = _NOWHERE
            for number in range(count):
                self._workers.append(_started(number, handle))
            first = json.dumps({"layout": asdict(layout), "stored": asdict(stored)}).encode()
            for worker in self._workers:
                self._send(worker, first)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(handle)
        self._waiting: deque[tuple[int, int]] = deque()
        self._undone = np.zeros(rows, bool)
        self._failed: dict[int, str] = {}  # row: why

    @property
    def processes(self) -> tuple[int, ...]:
        """Their ids."""
        return tuple(worker.process.pid for worker in self._workers)

    def decode(self, start: int, requests: NDArray[np.void]) -> None:
        """Begin to decode images into ``pixels[start:]``."""
        stop = start + len(requests)
        assert not self._undone[start:stop].any()
        self._requests[start:stop] = requests
        self._undone[start:stop] = True
        self._failed = {row: why for row, why in self._failed.items() if not start <= row < stop}
        step = min(_MOST_ROWS, -(-len(requests) // len(self._workers)))
        self._waiting += [(row, min(row + step, stop)) for row in range(start, stop, step)]
        self._hand_out()

    def wait(self, start: int, stop: int) -> None:
        """Come back when rows ``start`` to ``stop`` are decoded.

        Raises:
            UndecodedError: If one of them cannot be decoded, or a worker died or hangs.
            OSError: If a worker died while it decoded nothing.
        """
        while self._undone[start:stop].any():
            self._listen()
            self._hand_out()
        for row, why in self._failed.items():
            if start <= row < stop:
                raise UndecodedError(row, why)

    def drain(self) -> None:
        """Come back when nothing is being decoded any more.

        Raises:
            UndecodedError: If a worker died or hangs.
        """
        for start, stop in self._waiting:
            self._undone[start:stop] = False
        self._waiting.clear()
        while any(worker.tasks for worker in self._workers):
            self._listen()

    def forget(self, shards: Sequence[int]) -> None:
        """Have all workers close these shards, after what they are told to decode now."""
        message = struct.pack(f"<B{len(shards)}I", _FORGET, *shards)
        for worker in self._workers:
            self._send(worker, message)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.connection.close()
        deadline = time.monotonic() + END_SECONDS
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # not even that: it waits for a disk
                    worker.process.wait(END_SECONDS)

    def _hand_out(self) -> None:
        while self._waiting:
            worker = min(self._workers, key=lambda worker: len(worker.tasks))
            if len(worker.tasks) == _TASKS_EACH:
                return
            start, stop = self._waiting.popleft()
            worker.tasks.append((start, stop))
            self._send(worker, struct.pack("<BQQ", _DECODE, start, stop))

    def _listen(self) -> None:
        """Take at least one answer of those that are due."""
        due = {worker.connection: worker for worker in self._workers if worker.tasks}
        connections = list(due)  # again after a job was suspended: workers had no more time than this process
        answers = wait(connections, timeout=SILENCE_SECONDS) or wait(connections, timeout=END_SECONDS)
        if not answers:
            hung = next(iter(due.values()))
            row = max(hung.tasks[0][0], int(self._at[hung.number]))
            raise UndecodedError(row, f"has not been read in {SILENCE_SECONDS:.0f} seconds", is_readable=False)
        for connection in answers:
            assert isinstance(connection, Connection)
            self._receive(due[connection])

    def _send(self, worker: _Worker, message: bytes) -> None:
        try:
            worker.connection.send_bytes(message)
        except OSError:
            raise self._death(worker) from None

    def _receive(self, worker: _Worker) -> None:
        try:
            answer = worker.connection.recv_bytes()
        except (EOFError, OSError):
            raise self._death(worker) from None
        start, stop = worker.tasks.popleft()
        if answer:
            failure = json.loads(answer)
            self._failed[failure["row"]] = failure["why"]
        self._undone[start:stop] = False

    def _death(self, worker: _Worker) -> Exception:
        """What to raise for a worker that has died."""
        try:
            code: int | str = worker.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            code = "unknown"
        if isinstance(code, int) and code < 0:
            how = f"was killed by {signal.Signals(-code).name} (out of memory?)"
        else:
            how = f"ended with code {code}"
        row = int(self._at[worker.number])
        if row == _NOWHERE:
            return OSError(f"worker process {worker.process.pid} {how} while it decoded nothing")
        why = f"was being decoded when worker process {worker.process.pid} {how}"
        return UndecodedError(row, why, is_readable=False)


def _started(number: int, memory: int) -> _Worker:
    """A new worker process; the numbers are its place and its memory's file descriptor."""
    ours, theirs = Pipe()
    arguments = json.dumps({"number": number, "memory": memory, "connection": theirs.fileno()})
    code = f"import sys; sys.path.insert(0, {_PARENT!r}); from dcgan_dist.data.workers import serve; serve(sys.argv[1])"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK_SIGNALS)  # the new process begins with this mask
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            pass_fds=(memory, theirs.fileno()),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return _Worker(number, process, ours)


def serve(arguments: str) -> None:
    """The life of a worker process."""
    given = json.loads(arguments)
    cv2.setNumThreads(1)
    connection = Connection(given["connection"])
    try:
        first = json.loads(connection.recv_bytes())
        stored = Stored(**first["stored"] | {"paths": tuple(first["stored"]["paths"])})
        layout = _Layout(**first["layout"] | {"shape": tuple(first["layout"]["shape"])})
        at, requests, pixels = layout.parts(mmap.mmap(given["memory"], layout.bytes))
        os.close(given["memory"])
        with contextlib.closing(Decoder(stored)) as decoder:
            while True:
                message = connection.recv_bytes()
                if message[0] == _FORGET:
                    decoder.forget(struct.unpack(f"<{(len(message) - 1) // 4}I", message[1:]))
                    continue
                start, stop = struct.unpack("<QQ", message[1:])
                row = start
                answer = b""
                try:
                    for row in range(start, stop):
                        at[given["number"]] = row
                        decoder.decode(requests[row], pixels[row])
                except Exception as error:
                    why = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
                    answer = json.dumps({"row": row, "why": why}).encode()
                at[given["number"]] = _NOWHERE
                connection.send_bytes(answer)
    except (EOFError, OSError):  # the trainer has gone
        return
