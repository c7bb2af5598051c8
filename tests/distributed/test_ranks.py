"""The harness itself: a test that starts one process instead of two would pass for the wrong reason."""

import os
import time

import pytest
import torch

from dcgan_dist.distributed import collectives
from tests.distributed.ranks import RankError, run_ranks


def where_am_i() -> tuple[int, int, int, int, float]:
    total = collectives.all_reduce(torch.tensor([float(collectives.rank() + 1)]))
    return collectives.rank(), collectives.world_size(), os.getpid(), torch.get_num_threads(), total.item()


def fails_on_rank_1() -> None:
    if collectives.rank() == 1:
        raise KeyError("the reason")
    time.sleep(50)


def dies_on_rank_1() -> None:
    if collectives.rank() == 1:
        os._exit(3)
    time.sleep(50)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_are_processes_of_one_group(world_size: int) -> None:
    ranks, sizes, pids, threads, totals = zip(*run_ranks(where_am_i, world_size), strict=True)
    assert ranks == tuple(range(world_size))
    assert set(sizes) == {world_size}
    assert len({os.getpid(), *pids}) == 1 + world_size
    assert set(threads) == {1}
    assert set(totals) == {world_size * (world_size + 1) / 2}


def test_an_error_of_one_rank_ends_all() -> None:
    begin = time.monotonic()
    with pytest.raises(RankError, match=r"rank 1 raised(.|\n)*in fails_on_rank_1(.|\n)*KeyError: 'the reason'"):
        run_ranks(fails_on_rank_1, 2)
    with pytest.raises(RankError, match="rank 1 died"):
        run_ranks(dies_on_rank_1, 2)
    assert time.monotonic() - begin < 40


def test_time_is_limited() -> None:
    with pytest.raises(RankError, match="did not end in time"):
        run_ranks(time.sleep, 2, 50, limit_seconds=1.0)
