"""Runs a function in several gloo processes at once, quickly enough for a test."""

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

LIMIT_SECONDS = 60.0
PRELOADED = ["pytest", "torch", "torch._dynamo", "torch.distributed.tensor", "dcgan_dist.loop"]
"""What a rank would take seconds to import, some of it only when a network is wrapped."""
Result = TypeVar("Result")


class RankError(Exception):
    """A rank raised, died or did not end in time."""


def run_ranks(
    function: Callable[..., Result], world_size: int, *args: Any, limit_seconds: float = LIMIT_SECONDS
) -> list[Result]:
    """What ``function(*args)`` returns on each of ``world_size`` ranks of one process group, by rank.

    The processes are forked from a server that has torch imported; they have one thread each and the environment
    that torchrun would give them. One process has no process group, like bare python.

    Args:
        function: One that can be pickled: at the top of a module.
        world_size: How many processes.
        args: The same for every rank; they and the results are pickled.
        limit_seconds: When the processes are killed.

    Raises:
        RankError: With the traceback of the first rank that failed; the other ranks have been killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    job = pickle.dumps((function, args))
    with tempfile.TemporaryDirectory() as scratch:
        ranks = [_start(context, rank, world_size, Path(scratch) / "store", job) for rank in range(world_size)]
        try:
            return _results(ranks, time.monotonic() + limit_seconds)
        finally:
            for process, connection in ranks:
                process.kill()  # does nothing to one that has ended
                process.join()
                connection.close()


def _start(
    context: ForkServerContext, rank: int, world_size: int, store: Path, job: bytes
) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_rank, args=(rank, world_size, store, job, sender), daemon=True)
    process.start()
    sender.close()
    return process, receiver


def _results(ranks: list[tuple[multiprocessing.process.BaseProcess, Connection]], deadline: float) -> list[Any]:
    numbers = {connection: rank for rank, (_, connection) in enumerate(ranks)}
    results: dict[int, Any] = {}
    while len(results) < len(ranks):
        ready = wait([c for c, rank in numbers.items() if rank not in results], max(0, deadline - time.monotonic()))
        if not ready:
            raise RankError(f"ranks {sorted(set(numbers.values()) - set(results))} did not end in time")
        for connection in ready:
            assert isinstance(connection, Connection)
            rank = numbers[connection]
            try:
                error, result = pickle.loads(connection.recv_bytes())
            except EOFError:
                raise RankError(f"rank {rank} died") from None
            if error:
                raise RankError(f"rank {rank} raised\n{error}")
            results[rank] = result
    return [results[rank] for rank in range(len(ranks))]


def _rank(rank: int, world_size: int, store: Path, job: bytes, sender: Connection) -> None:
    """What runs in the process of a rank."""
    try:
        warnings.simplefilter("error")  # as pytest does in its own process
        torch.set_num_threads(1)
        if world_size > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            os.environ |= {name: str(value) for name, value in names.items()}
            os.environ |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
            dist.init_process_group("gloo", init_method=store.as_uri(), rank=rank, world_size=world_size)
            assert dist.get_world_size() == world_size
        else:
            assert not dist.is_initialized()
        function, args = pickle.loads(job)
        result = function(*args)
        if dist.is_initialized():
            dist.barrier()  # nobody leaves while another still talks to it
            dist.destroy_process_group()
        answer = pickle.dumps(("", result))
    except BaseException:
        answer = pickle.dumps((traceback.format_exc(), None))
    sender.send_bytes(answer)
    sender.close()
