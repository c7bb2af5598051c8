"""The plain values in a pickle that anybody may have made: text, numbers, lists, dictionaries and arrays of bytes.

Two fences, each enough against code: the file is split into its opcodes first and only those that plain values need
are let through; then an unpickler reads it that can find no class but the stand-ins below, which remember what they
are given and do nothing. numpy's own functions are never called: an array is made at the end, from bytes that are as
many as it needs. The first fence also refuses what would cost memory or time without end.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.errors import DamagedError

MAX_OPCODES = 1_000_000
"""CIFAR's files have some 30,000; each opcode may make an object."""
MAX_TUPLES = 1000
"""They have six. A hash of tuples in tuples, too deep, ends the process."""
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "NEWTRUE", "NEWFALSE")
_TEXTS = (
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_LISTS = ("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS")
_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")
_OBJECTS = ("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD")
_FRAME = ("PROTO", "FRAME", "MARK", "NONE", "STOP")
_OPCODES = frozenset((*_NUMBERS, *_TEXTS, *_TUPLES, *_LISTS, *_PUTS, *_GETS, *_OBJECTS, *_FRAME))


def plain_values(data: bytes) -> Any:
    """What a pickle holds; text of Python 2, as CIFAR's, is given as bytes.

    Raises:
        ValueError: If it is damaged, or holds anything but text, numbers, lists, dictionaries and arrays of bytes.
    """
    try:
        _check_opcodes(data)
        return _finished(_PlainUnpickler(io.BytesIO(data), encoding="bytes").load())
    except DamagedError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # an unpickler fed with nonsense raises almost anything
        raise DamagedError(f"is no pickle of plain values: {error!r:.200}") from None


def _check_opcodes(data: bytes) -> None:
    """Raise ValueError at an opcode that plain values do not need."""
    tuples: set[int] = set()
    puts = tuple_count = 0
    before = ""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if name not in _OPCODES:
            raise DamagedError(f"must hold plain values alone; the opcode {name} is refused")
        tuple_count += name in _TUPLES
        if count >= MAX_OPCODES or tuple_count > MAX_TUPLES:
            raise DamagedError(f"must have at most {MAX_OPCODES:,} opcodes, and {MAX_TUPLES:,} for tuples")
        if name in _PUTS:
            place = puts if argument is None else int(argument)
            if place > puts + 1:  # the unpickler would take memory for as many places
                raise DamagedError(f"must use memory place by place, got {place:,} as number {puts:,}")
            puts += 1
            if before in _TUPLES:
                tuples.add(place)
        elif name in _GETS and int(argument or 0) in tuples:  # tuples in tuples in tuples: a hash that never ends
            raise DamagedError("must not use a tuple twice")
        before = name


class _StandIn:
    """What a pickle may call in place of a class or function; it cannot be changed through it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise DamagedError("must give a state to arrays and types alone")


class _Array:
    """Stands in for an array under construction."""

    values: NDArray[np.uint8] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        self.fill(content, kind, shape, order="F" if fortran else "C")

    def fill(self, content: Any, kind: Any, shape: Any, *, order: str) -> None:
        """Take bytes for values."""
        if not isinstance(kind, _DType) or kind.name != "u1" or not isinstance(content, bytes | bytearray):
            raise DamagedError("must have arrays of bytes (u1) alone")
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order="F" if order == "F" else "C")


class _DType:
    """Stands in for a dtype; of a single byte only the name is of interest."""

    def __init__(self, name: str | bytes, *_: Any) -> None:
        self.name = name.decode("latin-1") if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like."""


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, kind: Any, shape: Any, order: str) -> _Array:
    array = _Array()
    array.fill(content, kind, shape, order=order)
    return array


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into a pickle of Python 2's protocol."""
    if encoding != "latin1":
        raise DamagedError(f"must encode text by latin1, got {encoding!r:.20}")
    return text.encode("latin-1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",  # only ever an argument
    ("numpy", "dtype"): _StandIn(_DType),
    ("numpy.core.multiarray", "_reconstruct"): _StandIn(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): _StandIn(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _StandIn(_from_buffer),
    ("numpy._core.numeric", "_frombuffer"): _StandIn(_from_buffer),
    ("_codecs", "encode"): _StandIn(_encode),
}


class _PlainUnpickler(pickle.Unpickler):
    """Finds the stand-ins and no other class."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _STAND_INS:
            raise DamagedError(f"must hold plain values alone; {f'{module_name}.{global_name}'!r:.100} is refused")
        return _STAND_INS[module_name, global_name]


def _finished(value: Any) -> Any:
    """``value``; if it is a dictionary, with its arrays finished and its keys as text."""
    if not isinstance(value, dict):
        return value
    finished = {}
    for key, each in value.items():
        name = key.decode("latin-1") if isinstance(key, bytes) else key
        finished[name] = each.values if isinstance(each, _Array) else each
    return finished
