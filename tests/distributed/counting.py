"""Counts the collectives that Python code starts (DistributedDataParallel's own are started in C++)."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch.distributed as dist

COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_single",  # its new name
    "all_gather_object",
    "broadcast",
    "broadcast_object_list",
    "reduce_scatter_tensor",
    "barrier",
)


@dataclass
class Calls:
    """Names of the collectives, in order."""

    names: list[str] = field(default_factory=list)


@contextlib.contextmanager
def counted() -> Iterator[Calls]:
    """Every call of a function of ``torch.distributed`` inside the block."""
    calls = Calls()

    def counting(name: str) -> Any:
        original = getattr(dist, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.names.append(name)
            return original(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for name in filter(lambda name: hasattr(dist, name), COLLECTIVES):
            stack.enter_context(mock.patch.object(dist, name, counting(name)))
        yield calls
