"""Numbers from MATLAB 5 files, which may have been made by anybody."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.errors import DamagedError

MAX_MAT_BYTES = 64 * 2**10
"""The originals have 502 and 14,989; zlib makes at most a thousandfold of it, which is the memory this may take."""
MAX_VALUES = 1_000_000
_KINDS = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "uint64", "single", "double")


def read_mat(data: bytes, names: Sequence[str], *, where: Path) -> dict[str, NDArray[np.int64]]:
    """The vectors of whole numbers with these names.

    Args:
        data: The file.
        names: Variables that must be there.
        where: The file, for messages.

    Raises:
        ValueError: If it is no such file, a variable is missing or is not a vector of whole numbers.
    """
    from scipy.io import loadmat, whosmat  # takes a third of a second

    if len(data) > MAX_MAT_BYTES:
        raise ValueError(f"{where}: must have at most {MAX_MAT_BYTES:,} bytes, has {len(data):,}")
    try:
        # headers first: nothing is made that is not a plain array of a size we expect
        found = {name: (shape, kind) for name, shape, kind in whosmat(io.BytesIO(data))}
        for name in names:
            shape, kind = found.get(name, ((), "missing"))
            if kind not in _KINDS or len(shape) != 2 or not 0 < shape[0] * shape[1] <= MAX_VALUES:
                raise ValueError(f"{name} must be a vector of numbers, is {kind} of shape {tuple(shape)}")  # noqa: TRY301
        values = loadmat(io.BytesIO(data), variable_names=list(names))
        vectors = {name: np.asarray(values[name]).ravel() for name in names}
        whole = {name: vector.astype(np.int64) for name, vector in vectors.items()}
        for name in names:
            if not np.array_equal(whole[name], vectors[name]):
                raise ValueError(f"{name} must be whole numbers")  # noqa: TRY301
    except MemoryError:
        raise
    except Exception as error:  # a parser fed with nonsense raises almost anything
        raise DamagedError(f"{where}: not the MATLAB 5 file it should be: {error}") from None
    return whole
