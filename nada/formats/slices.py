"""Slices of a file that bound what is read, and tensors that stay in them until they are read."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

import torch
from torch import Tensor

from nada.formats.files import CheckpointError
from nada.formats.messages import brief, is_small_int


class PickleError(CheckpointError):
    """A pickle that is damaged, or asks for more than data."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor still in its file; `read()` gives it, a new one each time."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass
class Budget:
    """The bytes that may still be read as instructions or copied by them, in the whole file."""

    left: int

    def check(self, size: int) -> None:
        """Raise a PickleError if fewer than `size` are left."""
        if size > self.left:
            raise PickleError(
                "holds more instructions than any model file needs: it is no model, or damaged."
            )

    def spend(self, size: int) -> None:
        """Take `size` of them, or raise a PickleError."""
        self.check(size)
        self.left -= size


class FileSlice(io.RawIOBase):
    """A slice of a file that ends where it ends, no matter what a length field in it claims."""

    def __init__(self, file: BinaryIO, start: int, length: int, budget: Budget):
        super().__init__()
        self.file, self.start, self.length, self.budget = file, start, length, budget
        self.position = 0
        self.window, self.window_start = b"", 0  # read ahead: most instructions are one byte

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + (0, self.position, self.length)[whence]
        if not 0 <= position <= self.length:
            raise EOFError("it ends too early")
        self.position = position
        return position

    def read(self, size: int | None = -1) -> bytes:
        left = self.length - self.position
        size = left if size is None or size < 0 else min(size, left)
        start = self._ahead(size)
        return self._spend(self.window[start : start + size])

    def readline(self, size: int | None = -1) -> bytes:
        start = self._ahead(min(1000, self.length - self.position))  # of names and small numbers
        end = self.window.find(b"\n", start) + 1
        return self._spend(self.window[start : end or start + 1000])

    def slice(self, start: int, length: int) -> "FileSlice":
        """A slice of this slice, which must be there in full."""
        if start < 0 or length < 0 or start + length > self.length:
            there = max(0, self.length - start)
            raise PickleError(
                f"ends too early, where {length} bytes should follow and {there} do: it is cut off "
                "or damaged; copy or download it again."
            )
        return FileSlice(self.file, self.start + start, length, self.budget)

    def numbers(self, first: int, count: int, dtype: torch.dtype) -> Tensor:
        """`count` numbers from number `first` on, which costs no budget."""
        flat = torch.empty(count, dtype=dtype)
        start = first * dtype.itemsize
        if start + flat.nbytes > self.length:
            raise PickleError("claims more numbers than are there.")
        self.file.seek(self.start + start)
        if self.file.readinto(flat.view(torch.uint8).numpy()) != flat.nbytes:
            raise PickleError("became shorter while it was read.")
        return flat

    def _ahead(self, size: int) -> int:
        """Have the next `size` bytes in the window; gives where they begin there."""
        start = self.position - self.window_start
        if start >= 0 and start + size <= len(self.window):
            return start
        self.budget.check(size)
        self.file.seek(self.start + self.position)
        self.window = self.file.read(min(max(size, 4096), self.length - self.position))
        self.window_start = self.position
        return 0

    def _spend(self, data: bytes) -> bytes:
        self.position += len(data)
        self.budget.spend(len(data))
        return data


@dataclass(frozen=True)
class TextSlice:
    """A long text that stays in the file.

    Args:
        data: its UTF-8.
    """

    data: FileSlice

    @property
    def length(self) -> int:
        """Bytes of its UTF-8: as many as it has characters, or more."""
        return self.data.length

    def beginning(self, size: int = 400) -> str:
        """Its first `size` bytes, for a sentence."""
        flat = self.data.numbers(0, min(size, self.length), torch.uint8)
        return flat.numpy().tobytes().decode(errors="ignore")

    def encoded(self) -> bytes:
        """The bytes whose numbers its characters are, which costs no budget."""
        flat = self.data.numbers(0, self.length, torch.uint8)
        return flat.numpy().tobytes().decode().encode("latin1")


@dataclass(frozen=True)
class Storage:
    """Consecutive numbers of one type in a file.

    Args:
        data: opens the slice that holds them.
        dtype: their type.
        length: their number.
    """

    data: Callable[[], FileSlice]
    dtype: torch.dtype
    length: int


def lazy_tensor(storage: Storage, offset, size, stride, *_) -> LazyTensor:
    """`torch._utils._rebuild_tensor_v2`, without the tensor."""
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or len(size) > 8 or not all(map(_is_index, numbers)):
        listed = ", ".join(map(brief, numbers[:9]))
        raise PickleError(f"describes a tensor by impossible numbers, {listed}.")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if count else offset
    if count > storage.length or last > storage.length or (count and last == storage.length):
        raise PickleError(f"claims a tensor {list(size)}, and {storage.length} numbers are there.")

    def read() -> Tensor:
        flat = storage.data().numbers(offset, last + 1 - offset if count else 0, storage.dtype)
        return flat.as_strided(size, stride).contiguous()

    return LazyTensor(tuple(size), storage.dtype, read)


def _is_index(number: object) -> bool:
    return is_small_int(number) and number >= 0
