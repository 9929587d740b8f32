"""NumPy's arrays and numbers out of a pickle, as tensors that stay in the file.

NumPy pickles an array as `_reconstruct` and a state (version, shape, dtype, whether in Fortran's
order, bytes), from protocol 5 on as `_frombuffer` of (bytes, dtype, shape, order), and a number as
`scalar` of (dtype, bytes). Sources: `numpy/core/src/multiarray/methods.c`, `numpy/core/numeric.py`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nada.formats.files import CheckpointError
from nada.formats.messages import brief, is_small_int
from nada.formats.pickles import ForeignObject
from nada.formats.slices import FileSlice, LazyTensor, TextSlice

DTYPES = {
    "f8": torch.float64,
    "f4": torch.float32,
    "f2": torch.float16,
    "i8": torch.int64,
    "i4": torch.int32,
    "i2": torch.int16,
    "i1": torch.int8,
    "u1": torch.uint8,
    "b1": torch.bool,
}


@dataclass(frozen=True)
class _Array:
    """What a pickle says of an array, unchecked; `data` holds the bytes, however they are spelt."""

    shape: object
    dtype: object
    fortran: bool
    data: object


def lazy_array(value: object, name: str) -> LazyTensor:
    """The array or the number of NumPy's that `value` stands for.

    Args:
        value: what the reader of pickles made of it.
        name: what to call it in a sentence.

    Raises:
        CheckpointError: it is none, it is not of numbers, or its shape and its bytes disagree.
    """
    array = _described(value)
    if array is None:
        raise CheckpointError(f"{brief(name)} is {brief(value)}; an array of numbers was expected.")
    dtype, shape = _dtype(array.dtype, name), array.shape
    if not _is_shape(shape):
        raise CheckpointError(f"{brief(name)} has a shape that no array has: the file is damaged.")
    size, there = math.prod(shape) * dtype.itemsize, _length(array.data)
    # of a text's characters, each of which is a byte of the array, some take two in the file
    if not size <= there <= (2 * size if isinstance(array.data, TextSlice) else size):
        raise CheckpointError(
            f"{brief(name)} should be {list(shape)}, in {size} bytes, and {there} are there: the "
            "file is damaged."
        )

    def read() -> Tensor:
        flat = _numbers(array.data, size // dtype.itemsize, dtype)
        if not array.fortran:
            return flat.reshape(shape)
        return flat.reshape(shape[::-1]).permute(*reversed(range(len(shape)))).contiguous()

    return LazyTensor(shape, dtype, read)


def _described(value: object) -> _Array | None:
    if not isinstance(value, ForeignObject) or not value.name.startswith("numpy."):
        return None
    maker, state, args = value.name.rpartition(".")[2], value.state, value.args
    if maker == "_reconstruct" and type(state) is tuple and len(state) == 5:
        _, shape, dtype, fortran, data = state
        return _Array(shape, dtype, fortran in (True, 1), data)
    if maker == "_frombuffer" and len(args) == 4:
        data, dtype, shape, order = args
        return _Array(shape, dtype, order == "F", data)
    if maker == "scalar" and len(args) == 2:
        return _Array((), args[0], False, args[1])
    return None


def _dtype(description: object, name: str) -> torch.dtype:
    """The type of `numpy.dtype(code)` with the state (version, order of bytes, ...)."""
    code = order = None
    if isinstance(description, ForeignObject) and description.name == "numpy.dtype":
        code, state = (description.args or (None,))[0], description.state
        order = state[1] if type(state) is tuple and len(state) > 1 else "<"
    if not isinstance(code, str) or code not in DTYPES:
        raise CheckpointError(f"{brief(name)} is an array of {brief(code)}, not of numbers.")
    if order == ">":
        raise CheckpointError(
            f"{brief(name)} was written on a big-endian machine: save the file on a usual one."
        )
    return DTYPES[code]


def _is_shape(shape: object) -> bool:
    if type(shape) is not tuple or len(shape) > 8:
        return False
    return all(is_small_int(n) and n >= 0 for n in shape) and is_small_int(math.prod(shape))


def _length(data: object) -> int:
    if isinstance(data, FileSlice | TextSlice):
        return data.length
    return len(data) if isinstance(data, bytes | str) else -1


def _numbers(data: object, count: int, dtype: torch.dtype) -> Tensor:
    if isinstance(data, FileSlice):
        return data.numbers(0, count, dtype)
    try:
        plain = data if isinstance(data, bytes) else _encoded(data)
    except UnicodeError:
        plain = b""
    if len(plain) != count * dtype.itemsize:
        raise CheckpointError("It holds a text where numbers should be: the file is damaged.")
    return torch.frombuffer(bytearray(plain), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _encoded(text: str | TextSlice) -> bytes:
    return text.encoded() if isinstance(text, TextSlice) else text.encode("latin1")
