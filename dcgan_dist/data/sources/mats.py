"""Numbers from MATLAB 5 files, which may have been made by anybody: scipy's reader ends the process on some of them.

A file is a header and elements: a type, a length and that many bytes. A variable is an element, compressed or not,
of elements: flags, shape, name, values. (The MathWorks, "MAT-File Format", 2019.)
"""

import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.errors import DamagedError

MAX_MAT_BYTES = 64 * 2**10
"""The originals have 502 and 14,989."""
MAX_VARIABLE_BYTES = 8 * 2**20
"""Of one variable, when it is not compressed any more."""
_HEADER_BYTES = 128
_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}  # version 1.0 and the order of bytes, where the header ends
_MATRIX, _COMPRESSED = 14, 15  # types of elements; those of numbers follow
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = range(6, 16)  # of variables that are numbers, double to uint64
_COMPLEX = 0x800


def read_mat(data: bytes, names: Sequence[str], *, where: Path) -> dict[str, NDArray[np.int64]]:
    """The vectors of whole numbers with these names.

    Args:
        data: The file.
        names: Variables that must be there.
        where: The file, for messages.

    Raises:
        ValueError: If it is no such file, a variable is missing or is not a vector of whole numbers.
    """
    if len(data) > MAX_MAT_BYTES:
        raise ValueError(f"{where}: must have at most {MAX_MAT_BYTES:,} bytes, has {len(data):,}")
    try:
        found = [(name, vector) for name, vector in _variables(data) if name in names]
        return {name: _whole(name, [vector for other, vector in found if other == name]) for name in names}
    except (ValueError, struct.error, zlib.error) as error:
        raise DamagedError(f"{where}: not the MATLAB 5 file it should be: {error}") from None


def _variables(data: bytes) -> Iterator[tuple[str, NDArray[np.generic] | None]]:
    """Name and values of each variable; None for what is not a vector or matrix of real numbers."""
    order = _ORDERS.get(data[_HEADER_BYTES - 4 : _HEADER_BYTES])
    if order is None:
        raise ValueError("it has another header")
    for kind, content in _elements(data[_HEADER_BYTES:], order):
        if kind == _COMPRESSED:
            content = zlib.decompressobj().decompress(content, MAX_VARIABLE_BYTES + 1)
            if len(content) > MAX_VARIABLE_BYTES:
                raise ValueError(f"a variable has more than {MAX_VARIABLE_BYTES:,} bytes")
            kind, content = next(_elements(content, order), (0, b""))
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} is no variable")
        yield _variable(content, order)


def _variable(content: bytes, order: str) -> tuple[str, NDArray[np.generic] | None]:
    parts = list(itertools.islice(_elements(content, order), 4))
    if len(parts) < 3:
        raise ValueError("a variable is cut short")
    (_, flags), (_, shape), (_, name), *rest = parts
    (flag,) = struct.unpack_from(order + "I", flags)
    sides = struct.unpack(f"{order}{len(shape) // 4}i", shape)
    decoded = name.decode("latin-1")
    if flag & 0xFF not in _CLASSES or flag & _COMPLEX or len(sides) != 2 or not rest or rest[0][0] not in _DTYPES:
        return decoded, None
    values = np.frombuffer(rest[0][1], order + _DTYPES[rest[0][0]])
    return decoded, values if len(values) == sides[0] * sides[1] else None


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and content of each element."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from(order + "II", data, place)
        begin = place + 8
        if kind >> 16:  # a short one: size, type and up to four bytes of content in eight bytes
            kind, size, begin = kind & 0xFFFF, kind >> 16, place + 4
            room = 4
        else:
            room = size if kind == _COMPRESSED else size + -size % 8
        if size > room or begin + size > len(data):
            raise ValueError("an element is cut short")
        yield kind, data[begin : begin + size]
        place = begin + room


def _whole(name: str, found: Sequence[NDArray[np.generic] | None]) -> NDArray[np.int64]:
    """The only vector with this name, as integers."""
    if len(found) != 1:
        raise ValueError(f"{name} must be there once, is there {len(found)} times")
    (vector,) = found
    if vector is None or not len(vector):
        raise ValueError(f"{name} must be a vector of numbers")
    if not np.all((np.abs(vector) < 2**53) & (vector == np.trunc(vector))):
        raise ValueError(f"{name} must be whole numbers")
    return vector.astype(np.int64)
