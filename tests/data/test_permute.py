import numpy as np
import pytest

from dcgan_dist.data.permute import permutation


def test_without_keys_sorts_the_published_splitmix64_numbers() -> None:
    # SplitMix64 from state 0 gives e220a839..., 6e789e6a..., 06c45d18..., f88bb8a8...
    assert permutation(4).tolist() == [2, 1, 0, 3]


def test_known_answers() -> None:
    def splitmix(state: int) -> int:  # in Python's whole numbers, which do not wrap by themselves
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        return state ^ (state >> 31)

    gamma, state = 0x9E3779B97F4A7C15, 0
    for key in (7, 2**64 - 1):
        state = splitmix(((state + gamma) % 2**64) ^ key)
    draws = [splitmix((state + gamma * i) % 2**64) for i in range(1, 11)]
    assert permutation(10, 7, 2**64 - 1).tolist() == sorted(range(10), key=draws.__getitem__)
    assert permutation(8, 0, 1).tolist() == KNOWN


KNOWN = [4, 1, 7, 5, 0, 6, 3, 2]


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_is_a_permutation(n: int) -> None:
    order = permutation(n, 3)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_keys_and_their_order_count() -> None:
    orders = {tuple(permutation(50, *keys).tolist()) for keys in [(), (0,), (1,), (0, 1), (1, 0), (0, 0)]}
    assert len(orders) == 6


@pytest.mark.parametrize("key", [-1, 2**64])
def test_refuses_a_key_out_of_range(key: int) -> None:
    with pytest.raises(ValueError, match="key must be at least 0"):
        permutation(3, key)
