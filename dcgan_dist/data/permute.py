"""Permutations that are the same on every platform and with every version of numpy: random keys, sorted."""

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def permutation(n: int, *keys: int) -> NDArray[np.int64]:
    """A permutation of 0 ... n - 1, shape (n,), a pure function of ``n`` and the whole numbers ``keys``.

    The order of the keys counts. The numbers that are sorted are those of SplitMix64 (Steele, Lea and Flood 2014)
    from a state into which each key was mixed in turn; with no key, from state 0.

    Raises:
        ValueError: If a key is not in [0, 2**64).
    """
    state = np.zeros(1, np.uint64)
    for key in keys:
        if not 0 <= key < 2**64:
            raise ValueError(f"a permutation's key must be at least 0 and below 2**64, got {key}")
        state = _mix((state + _GAMMA) ^ np.uint64(key))
    draws = _mix(state + _GAMMA * np.arange(1, n + 1, dtype=np.uint64))
    return np.argsort(draws, kind="stable").astype(np.int64)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function, element by element, modulo 2**64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
