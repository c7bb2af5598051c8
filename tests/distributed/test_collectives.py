"""What ranks tell each other is counted, and how long they wait; facts that differ between ranks are found."""

import hashlib
import os
import struct
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dcgan_dist import checkpoint
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.batch_norm import note_torchs_collectives
from tests import tiny
from tests.distributed.ranks import RankError, run_ranks


def counted_sums() -> list[tuple[int, int]]:
    found = []
    with collectives.counted() as outer:
        collectives.all_reduce(torch.zeros(5))  # 20 bytes
        with collectives.counted() as inner:
            collectives.all_gather(torch.zeros(3, dtype=torch.float64))  # 24
            features = torch.ones(2, 2, requires_grad=True)
            collectives.sum_over_ranks(features).sum().backward()  # 16 and 16
        found.append((inner.calls, inner.bytes))
    collectives.all_reduce(torch.zeros(100))  # nobody counts
    return [*found, (outer.calls, outer.bytes)]


def test_calls_and_bytes_are_counted_inside_the_block() -> None:
    assert run_ranks(counted_sums, 2) == [[(3, 56), (4, 76)]] * 2
    assert run_ranks(counted_sums, 1) == [[(0, 0), (0, 0)]]


def counted_step() -> tuple[int, int, int]:
    training = tiny.training(tiny.narrow("mnist28"), tiny.runtime())
    training.update()  # DistributedDataParallel settles its buckets after the first
    with collectives.counted() as traffic:
        training.update()
    players = (training.gan.generator, training.gan.discriminator)
    parameters = sum(parameter.numel() for player in players for parameter in player.parameters)
    return traffic.calls, traffic.bytes, parameters


def test_a_step_of_mnist28_tells_its_gradients_and_its_batch_statistics() -> None:
    """mnist28 has batch norm in G alone, and each network fits a bucket."""
    calls, size, parameters = run_ranks(counted_step, 2)[0]
    norms = [layer.num_features for layer in mnist28_norms()]
    assert norms  # else nothing of this is tested
    # alternating with the same z: one pass of G forward, one backward; a row is count, means and squares; sums of two
    gathered = sum(2 * channels + 1 for channels in norms)
    summed = sum(2 * channels for channels in norms)
    assert calls == 2 + 2 * len(norms)
    assert size == 8 * (parameters + gathered + summed)  # float64


def mnist28_norms() -> list[nn.BatchNorm2d]:
    training = tiny.training(tiny.narrow("mnist28"), tiny.runtime())
    players = (training.gan.generator, training.gan.discriminator)
    return [layer for player in players for layer in player.plain.modules() if isinstance(layer, nn.BatchNorm2d)]


LATE_SECONDS = 0.8


def waited_in_a_sum() -> float:
    dist.barrier()
    with collectives.counted() as traffic:
        time.sleep(LATE_SECONDS * collectives.rank())
        collectives.all_reduce(torch.zeros(1))
    return traffic.seconds


def waited_in_a_backward_pass() -> tuple[float, float]:
    """Of a step of mnist28, whose D tells others its gradients and nothing else; rank 1 is late there."""
    training = tiny.training(tiny.narrow("mnist28"), tiny.runtime())
    training.update()
    training.clock.begin()
    player = training.gan.discriminator
    backward = player.backward

    def late(loss: Tensor, *, retain_graph: bool = False) -> None:
        time.sleep(LATE_SECONDS * collectives.rank())
        backward(loss, retain_graph=retain_graph)

    player.backward = late  # type: ignore[method-assign]
    training.update()
    parts = training.clock.account().parts
    return parts["communication"].seconds, parts["compute"].seconds


def test_who_is_early_waits_and_who_is_late_does_not() -> None:
    early, late = run_ranks(waited_in_a_sum, 2)
    assert early > LATE_SECONDS / 3
    assert late < early
    (early, early_compute), (late, late_compute) = run_ranks(waited_in_a_backward_pass, 2)
    assert early > LATE_SECONDS / 3
    assert late < early
    assert early_compute < late_compute  # where the sleep was


def alone_under_a_launcher(store: Path) -> tuple[int, bool]:
    """Collectives of a step in the only process of a group, as torchrun --nproc_per_node 1 starts it."""
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
    os.environ |= {name: str(value) for name, value in names.items()} | {"ACCELERATE_USE_CPU": "true"}
    dist.init_process_group("gloo", init_method=store.as_uri(), rank=0, world_size=1)
    training = tiny.training(tiny.narrow("mnist28"), tiny.runtime())
    with collectives.counted() as traffic:
        training.update()
    players = (training.gan.generator, training.gan.discriminator)
    return traffic.calls, all(player.network is player.plain for player in players)


def test_one_process_under_a_launcher_exchanges_nothing_with_itself(tmp_path: Path) -> None:
    assert run_ranks(alone_under_a_launcher, 1, tmp_path / "store") == [(0, True)]


def test_torchs_own_synchronized_layers_are_counted_by_hand() -> None:
    layers = [nn.SyncBatchNorm(3), nn.SyncBatchNorm(5)]
    output = torch.ones(2, requires_grad=True) * 2
    with collectives.counted() as forward:
        note_torchs_collectives(layers, output)
    assert (forward.calls, forward.bytes) == (2, 4 * (7 + 11))  # mean and deviation a channel, and a count
    with collectives.counted() as backward:
        output.sum().backward(retain_graph=True)
        output.sum().backward()
    assert (backward.calls, backward.bytes) == (4, 2 * 4 * (6 + 10))  # two sums a channel, two backwards
    with collectives.counted() as without:
        note_torchs_collectives(layers, output.detach())
    assert without.calls == 2


def disagreeing() -> None:
    collectives.check_equal({"seed": "1", "lr": "0.1" if collectives.rank() < 2 else "0.2"})


def test_ranks_that_disagree_are_told_on_what() -> None:
    with pytest.raises(RankError, match=r"ValueError: processes disagree on lr: 0.1 on rank 0, 0.2 on rank 2"):
        run_ranks(disagreeing, 3)
    disagreeing()  # one process agrees with itself


def built_from_other_seeds() -> None:
    tiny.training(tiny.narrow("mnist28", seed=collectives.rank()), tiny.runtime())


def test_ranks_that_begin_with_other_weights_are_found() -> None:
    with pytest.raises(RankError, match=r"ValueError: processes disagree on the initial generator: \w+ on rank 0, "):
        run_ranks(built_from_other_seeds, 2)


def test_a_digest_is_of_the_bits_of_tensors_of_any_type() -> None:
    bits = torch.tensor([[0x3F80, 0x4000]], dtype=torch.int16)  # 1 and 2 in bfloat16
    numbers = bits.view(torch.bfloat16)
    assert numbers.tolist() == [[1.0, 2.0]]
    assert collectives.digest({"z": numbers}) == collectives.digest({"z": bits})
    one = hashlib.sha256(struct.pack("<f", 1.0)).hexdigest()[:16]
    assert collectives.digest({"scalar": torch.tensor(1.0)}) == one


def loaded_something_else(what: str) -> None:
    gan = tiny.training(tiny.narrow("mnist28", ema_decay=0.9), tiny.runtime()).gan
    checkpoint.check_loaded(gan)
    assert gan.average is not None
    if collectives.rank() == 1:
        network = {"generator": gan.generator.plain, "ema": gan.average.module}[what]
        with torch.no_grad():
            next(network.parameters()).view(-1)[0] += 1
    checkpoint.check_loaded(gan)


@pytest.mark.parametrize("what", ["generator", "ema"])
def test_ranks_that_loaded_other_files_are_found(what: str) -> None:
    with pytest.raises(RankError, match=rf"ValueError: processes disagree on {what}.safetensors"):
        run_ranks(loaded_something_else, 2, what)


def agreed_after_going_back() -> tuple[bool, bool, bool]:
    stop = tiny.runtime().stop
    stop.agreed(10**6)  # at the pace of a million steps in no time, the next look is far away
    stop.agreed(2 * 10**6)
    if collectives.rank() == 0:
        stop.received = "SIGTERM"
    soon = stop.agreed(5)
    stop.rewound()
    return soon, stop.agreed(5), stop.agreed(6)


def test_signals_are_heard_at_once_after_a_rollback() -> None:
    assert run_ranks(agreed_after_going_back, 2) == [(False, True, True)] * 2
