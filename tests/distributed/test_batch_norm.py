"""Batch norm and batch deviation over the global batch: ranks against torch on the joined batch."""

import dataclasses
import functools

import pytest
import torch
from torch import Tensor, nn

from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.batch_deviation import batch_deviation
from dcgan_dist.distributed.batch_norm import BatchNorm2d, _GlobalBatchNorm, synchronize
from tests.distributed.counting import Calls, counted
from tests.distributed.ranks import run_ranks

MOMENTUM = 0.3
EPSILON = 1e-3


@dataclasses.dataclass
class Case:
    """Inputs of a layer for the whole batch."""

    features: Tensor
    grad: Tensor
    """Of the loss with respect to the output."""
    channels_last: bool = False

    def rows(self, tensor: Tensor) -> Tensor:
        own = tensor.chunk(collectives.world_size())[collectives.rank()].clone()
        return own.to(memory_format=torch.channels_last) if self.channels_last else own


@dataclasses.dataclass
class Outcome:
    """What a layer did."""

    output: Tensor
    grad_features: Tensor
    grad_parameters: list[Tensor] = dataclasses.field(default_factory=list)
    buffers: list[Tensor] = dataclasses.field(default_factory=list)
    forward: Calls = dataclasses.field(default_factory=Calls)
    backward: Calls = dataclasses.field(default_factory=Calls)


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


CASES = {
    "contiguous": Case(3 * random(8, 3, 4, 5, seed=0) + 1, random(8, 3, 4, 5, seed=1)),
    "channels_last": Case(3 * random(8, 3, 4, 5, seed=2) - 2, random(8, 3, 4, 5, seed=3), channels_last=True),
    "dense": Case(random(4, 6, 1, 1, seed=4), random(4, 6, 1, 1, seed=5)),
    "each rank another mean": Case(
        random(8, 2, 3, 3, seed=6) + 50 * torch.arange(8.0, dtype=torch.float64).view(8, 1, 1, 1),
        random(8, 2, 3, 3, seed=7),
    ),
}


LARGE_MEAN = Case((random(8, 3, 8, 8, seed=10) + 1e4).float().double(), random(8, 3, 8, 8, seed=11))
"""Exact in float32, whose numbers near 10,000 are 0.001 apart."""


def train_layer(layer: nn.BatchNorm2d, case: Case, dtype: torch.dtype = torch.float64) -> Outcome:
    """Two passes of a layer in training mode; the outcome of the second."""
    channels = case.features.shape[1]
    layer = layer.to(dtype).train()
    with torch.no_grad():
        layer.weight.copy_(1 + 0.5 * random(channels, seed=8))
        layer.bias.copy_(random(channels, seed=9))
    layer(case.rows(case.features.flip(0)).to(dtype))
    features = case.rows(case.features).to(dtype).requires_grad_()
    with counted() as forward:
        output = layer(features)
    with counted() as backward:
        output.backward(case.rows(case.grad).to(dtype))
    assert features.grad is not None
    return Outcome(
        output.detach(),
        features.grad,
        [parameter.grad for parameter in layer.parameters() if parameter.grad is not None],
        list(layer.buffers()),
        forward,
        backward,
    )


def train_ours(case: Case, dtype: torch.dtype = torch.float64) -> Outcome:
    return train_layer(BatchNorm2d(case.features.shape[1], eps=EPSILON, momentum=MOMENTUM), case, dtype)


def evaluate() -> tuple[Tensor, Calls]:
    layer = BatchNorm2d(3).eval()
    layer.running_mean.fill_(2.0)  # type: ignore[union-attr]
    layer.running_var.fill_(4.0)  # type: ignore[union-attr]
    with counted() as calls:
        output = layer(torch.full((1 + collectives.rank(), 3, 2, 2), 6.0))
    return output, calls


def train_half() -> tuple[Tensor, Tensor]:
    layer = BatchNorm2d(2).train()
    features = random(4, 2, 3, 3, seed=15 + collectives.rank()).bfloat16().requires_grad_()
    output = layer(features)
    output.sum().backward()
    assert features.grad is not None
    assert features.grad.dtype == torch.bfloat16
    assert layer.running_var is not None
    return output.detach(), layer.running_var


@dataclasses.dataclass
class Rank:
    """What one rank found; all of it in one start of the processes."""

    batch_norm: list[Outcome]
    """Of CASES."""
    deviation: list[Outcome]
    """Of CASES."""
    large_mean: Outcome
    evaluation: tuple[Tensor, Calls]
    half: tuple[Tensor, Tensor]


@functools.cache
def ranks_of(world_size: int) -> list[Rank]:
    return run_ranks(everything, world_size)


def everything() -> Rank:
    cases = list(CASES.values())
    return Rank(
        [train_ours(case) for case in cases],
        [train_deviation(case) for case in cases],
        train_ours(LARGE_MEAN, torch.float32),
        evaluate(),
        train_half(),
    )


def torchs_own(case: Case) -> Outcome:
    return train_layer(nn.BatchNorm2d(case.features.shape[1], eps=EPSILON, momentum=MOMENTUM), case)


def train_deviation(case: Case) -> Outcome:
    features = case.rows(case.features).requires_grad_()
    with counted() as forward:
        output = batch_deviation(features)
    with counted() as backward:
        output.backward(case.rows(case.grad)[:, :1])
    assert features.grad is not None
    return Outcome(output.detach(), features.grad, forward=forward, backward=backward)


def plain_deviation(case: Case) -> Outcome:
    """Batch deviation of the whole batch in one process, by autograd."""
    features = case.features.clone().requires_grad_()
    output = (features - features.mean(dim=0, keepdim=True)).abs().mean(dim=1, keepdim=True)
    output.backward(case.grad[:, :1])
    assert features.grad is not None
    return Outcome(output.detach(), features.grad)


def joined(outcomes: list[Outcome], field: str) -> Tensor:
    return torch.cat([getattr(outcome, field) for outcome in outcomes])


def assert_same(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_equal_torch_on_the_joined_batch(world_size: int) -> None:
    for number, case in enumerate(CASES.values()):
        ranks, expected = [rank.batch_norm[number] for rank in ranks_of(world_size)], torchs_own(case)
        assert_same(joined(ranks, "output"), expected.output)
        assert_same(joined(ranks, "grad_features"), expected.grad_features)
        summed = [sum(grads) for grads in zip(*(rank.grad_parameters for rank in ranks), strict=True)]
        assert_same(summed, expected.grad_parameters)
        for rank in ranks:
            assert_same(rank.buffers, expected.buffers)
            assert rank.buffers[2] == 2  # num_batches_tracked
            for ours, first in zip(rank.buffers, ranks[0].buffers, strict=True):
                assert torch.equal(ours, first)


def test_batch_norm_keeps_the_layout() -> None:
    outcome = ranks_of(2)[0].batch_norm[list(CASES).index("channels_last")]
    assert outcome.output.is_contiguous(memory_format=torch.channels_last)


def test_one_collective_forward_and_one_backward() -> None:
    for rank in ranks_of(2):
        for outcome in rank.batch_norm:
            assert [name[:10] for name in outcome.forward.names] == ["all_gather"]
            assert outcome.backward.names == ["all_reduce"]
        for outcome in rank.deviation:
            assert outcome.forward.names == ["all_reduce"]
            assert outcome.backward.names == ["all_reduce"]


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_large_mean_costs_no_accuracy(world_size: int) -> None:
    ranks, expected = [rank.large_mean for rank in ranks_of(world_size)], torchs_own(LARGE_MEAN)
    # means near 1e4 are rounded to within 5e-4; the mean of squares minus the square of the mean would be off by 6
    torch.testing.assert_close(joined(ranks, "output").double(), expected.output, rtol=0, atol=2e-3)
    torch.testing.assert_close(ranks[0].buffers[1].double(), expected.buffers[1], rtol=1e-4, atol=0)
    torch.testing.assert_close(ranks[0].buffers[0].double(), expected.buffers[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(joined(ranks, "grad_features").double(), expected.grad_features, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", CASES)
def test_one_process_is_torch_itself(name: str) -> None:
    case = CASES[name]
    ours, expected = train_ours(case), torchs_own(case)
    assert torch.equal(ours.output, expected.output)
    assert torch.equal(ours.grad_features, expected.grad_features)
    for one, other in zip(
        ours.grad_parameters + ours.buffers, expected.grad_parameters + expected.buffers, strict=True
    ):
        assert torch.equal(one, other)
    assert ours.forward.names == ours.backward.names == []


def test_defaults_are_torchs() -> None:
    ours, torchs = BatchNorm2d(2), nn.BatchNorm2d(2)
    assert (ours.eps, ours.momentum) == (torchs.eps, torchs.momentum)
    assert list(ours.state_dict()) == list(torchs.state_dict())


def test_gradients_are_those_of_finite_differences() -> None:
    features, weight, bias = random(4, 2, 3, 2, seed=12), random(2, seed=13), random(2, seed=14)
    inputs = [tensor.requires_grad_() for tensor in (features, weight, bias)]
    assert torch.autograd.gradcheck(lambda *given: _GlobalBatchNorm.apply(*given, EPSILON)[0], inputs)


def test_variance_is_unbiased_and_by_hand() -> None:
    features = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64).view(2, 1, 1, 2)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    output, mean, unbiased = _GlobalBatchNorm.apply(features, one, zero, 0.0)
    assert mean.item() == 3
    assert unbiased.item() == pytest.approx(14 / 3)  # squares 4 + 1 + 0 + 9
    expected = torch.tensor([-2.0, -1.0, 0.0, 3.0], dtype=torch.float64) / 3.5**0.5  # by the biased one, 14 / 4
    torch.testing.assert_close(output.flatten(), expected)


def test_evaluation_mode_uses_running_statistics_and_no_collective() -> None:
    for rank in ranks_of(2):
        output, calls = rank.evaluation
        torch.testing.assert_close(output, torch.full_like(output, 2.0), rtol=0, atol=1e-5)
        assert calls.names == []


def test_half_precision_features_have_float32_statistics() -> None:
    features = torch.cat([random(4, 2, 3, 3, seed=seed).bfloat16() for seed in (15, 16)]).float()
    expected = nn.BatchNorm2d(2)
    output = expected(features)
    ranks = [rank.half for rank in ranks_of(2)]
    assert ranks[0][0].dtype == torch.bfloat16
    assert torch.equal(torch.cat([rank[0] for rank in ranks]), output.bfloat16())
    torch.testing.assert_close(ranks[0][1], expected.running_var, rtol=1e-6, atol=0)


def test_cpu_networks_stay_as_they_are() -> None:
    network = nn.Sequential(BatchNorm2d(2))
    assert synchronize(network, torch.device("cpu")) is network


# Batch deviation


def test_batch_deviation_by_hand() -> None:
    # two images, two channels, one row of two pixels; means (2, 4) and (0, 1)
    features = torch.tensor([[[[1.0, 0.0]], [[0.0, 3.0]]], [[[3.0, 8.0]], [[0.0, -1.0]]]])
    # distances |1 - 2|, |0 - 4| and |0 - 0|, |3 - 1| in both images; averages over channels 1/2 and 6/2
    assert batch_deviation(features).tolist() == [[[[0.5, 3.0]]], [[[0.5, 3.0]]]]


def test_batch_deviation_of_equal_images_is_zero() -> None:
    image = random(1, 3, 4, 4, seed=17)
    assert batch_deviation(image.expand(4, -1, -1, -1)).abs().max() < 1e-15


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_batch_deviation_of_ranks_is_that_of_the_joined_batch(world_size: int) -> None:
    for number, case in enumerate(CASES.values()):
        ranks, expected = [rank.deviation[number] for rank in ranks_of(world_size)], plain_deviation(case)
        assert_same(joined(ranks, "output"), expected.output)
        assert_same(joined(ranks, "grad_features"), expected.grad_features)
