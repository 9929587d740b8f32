"""A compiled backend, called through the C functions of `interface.h`.

Calling C through ctypes instead of PyTorch's C++ headers lets a backend compile in seconds rather
than half a minute, with whatever compiler there is, for whatever version of PyTorch runs.
"""

import ctypes
from contextlib import nullcontext
from ctypes import POINTER, byref, c_char_p, c_double, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

MAX_TAPS = 256  # as in interface.h
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


class _Fir(ctypes.Structure):
    _fields_ = (
        *[(name, c_int64) for name in ("outer", "in_h", "in_w", "inner", "out_h", "out_w")],
        *[(name, c_int32) for name in ("up_y", "up_x", "down_y", "down_x", "pad_y", "pad_x")],
        *[(name, c_int32) for name in ("taps_y", "taps_x", "separable")],
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *[(name, c_int64) for name in ("n", "channels", "pixels")],
        *[(name, c_int32) for name in ("channels_last", "noise_n")],
        ("splits", c_int64),
        *[(name, c_double) for name in ("negative_slope", "scale")],
    )


class Filter:
    """The taps of a FIR filter as kernels want them: on the host, flipped, factored if possible.

    Attributes:
        shape: (kh, kw).
        taps, column, row: C arrays; the latter two are None where the filter is no product of two.
    """

    _known = WeakIdKeyDictionary()  # so that a filter on a GPU is copied from there only once

    def __init__(self, taps: Tensor, tolerance: float):
        self._values, self._tolerance = taps, tolerance
        self._flipped: Filter | None = None
        self.shape: tuple[int, int] = (taps.shape[0], taps.shape[1])
        self.taps = _array(taps)
        factors = _factors(taps, tolerance)
        self.column = _array(factors[0]) if factors else None
        self.row = _array(factors[1]) if factors else None

    @classmethod
    def of(cls, kernel: Tensor) -> "Filter":
        """The filter that a tensor [kh, kw] describes; remembered until the tensor changes."""
        version = None if kernel.is_inference() else kernel._version
        known = cls._known.get(kernel)
        if known is None or version is None or known[0] != version:
            taps = kernel.detach().to("cpu", torch.float64).flip(0, 1)
            known = version, cls(taps, 4 * torch.finfo(kernel.dtype).eps)
            cls._known[kernel] = known
        return known[1]

    def flipped(self) -> "Filter":
        if self._flipped is None:
            self._flipped = Filter(self._values.flip(0, 1), self._tolerance)
            self._flipped._flipped = self
        return self._flipped


def _array(values: Tensor) -> ctypes.Array:
    return (c_double * values.numel())(*values.flatten().tolist())


def _factors(taps: Tensor, tolerance: float) -> tuple[Tensor, Tensor] | None:
    """column [kh], row [kw] whose outer product is `taps`, or None."""
    largest = taps.abs().max()
    if largest == 0:
        return torch.zeros(taps.shape[0]), torch.zeros(taps.shape[1])
    y, x = divmod(int(taps.abs().argmax()), taps.shape[1])
    column, row = taps[:, x] / taps[y, x], taps[y]
    exact = (taps - column.outer(row)).abs().max() <= tolerance * largest
    return (column, row) if exact else None


class Library:
    """The functions of one shared library, on tensors of one kind of device.

    Args:
        path: of the shared library.
        device_type: "cpu" or "cuda", where its functions expect their tensors.
        dtypes: what it computes with.

    Raises:
        OSError: the library cannot be loaded.
    """

    def __init__(self, path: Path | str, device_type: str, dtypes: tuple[torch.dtype, ...]):
        self.path, self.device_type, self.dtypes = Path(path), device_type, dtypes
        library = ctypes.CDLL(str(path))
        end = [c_int32, c_void_p]  # dtype, stream
        taps = [POINTER(c_double)] * 3
        self._fir = _function(library.op_upfirdn2d, [c_void_p] * 2, taps, [POINTER(_Fir)], end)
        layer = [POINTER(_Layer)]
        self._forward = _function(library.op_styled_leaky_relu, [c_void_p] * 6, layer, end)
        self._backward = _function(
            library.op_styled_leaky_relu_backward, [c_void_p] * 8, layer, end
        )
        self._splits = _function(library.op_splits, layer, returns=c_int64)
        self._error = _function(library.op_error, [c_int32], returns=c_char_p)

    def upfirdn2d(
        self,
        x: Tensor,
        filter: Filter,
        up: tuple[int, int],
        down: tuple[int, int],
        pad: tuple[int, int, int, int],
    ) -> Tensor:
        """Arguments as those of `reference.upfirdn2d`, but for the filter."""
        x, channels_last = _dense(x)
        n, c, height, width = x.shape
        kh, kw = filter.shape
        out_h = (height * up[1] + pad[2] + pad[3] - kh) // down[1] + 1
        out_w = (width * up[0] + pad[0] + pad[1] - kw) // down[0] + 1
        out = _empty(x, (n, c, out_h, out_w), channels_last)
        outer, inner = (n, c) if channels_last else (n * c, 1)
        fir = _Fir(outer, height, width, inner, out_h, out_w)
        fir.up_x, fir.up_y = up
        fir.down_x, fir.down_y = down
        fir.pad_x, fir.pad_y, fir.taps_y, fir.taps_x = pad[0], pad[2], kh, kw
        fir.separable = filter.row is not None
        arrays = (filter.taps, filter.column, filter.row)
        self._call(self._fir, x, out.data_ptr(), x.data_ptr(), *arrays, byref(fir), work=out)
        return out

    def styled_leaky_relu(
        self,
        x: Tensor,
        bias: Tensor | None,
        demodulation: Tensor | None,
        noise: Tensor | None,
        strength: Tensor | None,
        slope: float,
        scale: float,
    ) -> Tensor:
        """Arguments as those of `reference.styled_leaky_relu`."""
        x, channels_last = _dense(x)
        out = torch.empty_like(x)
        layer = _layer(x, channels_last, noise, slope, scale)
        parts = _parts(x, demodulation, noise, strength, bias)
        pointers = map(_pointer, (out, x, *parts))
        self._call(self._forward, x, *pointers, byref(layer), work=x)
        return out

    def styled_leaky_relu_backward(
        self,
        grad: Tensor,
        x: Tensor,
        bias: Tensor | None,
        demodulation: Tensor | None,
        noise: Tensor | None,
        strength: Tensor | None,
        slope: float,
        scale: float,
        sums: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The gradient of x, and if `sums` is true [3, N, C]: of demodulation, strength and bias
        (the latter two still to be added up over images, and the strength over channels)."""
        x, channels_last = _dense(x)
        grad = grad.to(x.dtype).contiguous(memory_format=_format(channels_last))
        to_x = torch.empty_like(x)
        layer = _layer(x, channels_last, noise, slope, scale)
        layer.splits = self._splits(layer)
        parts = _parts(x, demodulation, noise, strength, bias)
        shape = (3, layer.splits, layer.n, layer.channels)
        each = x.new_zeros(shape, dtype=_wide(x)) if sums else None
        pointers = map(_pointer, (to_x, each, grad, x, *parts))
        self._call(self._backward, x, *pointers, byref(layer), work=x)
        return to_x, None if each is None else each.sum(1)

    def _call(self, function: Any, x: Tensor, *arguments: Any, work: Tensor) -> None:
        """Call a function of the library for `x`, unless there is nothing to do."""
        if work.numel() == 0:
            return
        on_gpu = x.device.type == "cuda"
        with torch.cuda.device(x.device) if on_gpu else nullcontext():
            stream = torch.cuda.current_stream().cuda_stream if on_gpu else None
            code = function(*arguments, DTYPES[x.dtype], stream)
        if code != 0:
            raise RuntimeError(f"{self.path.name}: {self._error(code).decode()} (code {code}).")


def _function(function: Any, *groups: list, returns: Any = c_int32) -> Any:
    function.argtypes, function.restype = [kind for group in groups for kind in group], returns
    return function


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """`x` without gaps, and whether it is channels_last; other strides become contiguous."""
    last = x.ndim == 4 and not x.is_contiguous()
    last = last and x.is_contiguous(memory_format=torch.channels_last)
    return (x if last else x.contiguous()), last


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _empty(like: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=_format(channels_last)
    )


def _layer(
    x: Tensor, channels_last: bool, noise: Tensor | None, slope: float, scale: float
) -> _Layer:
    n, channels = x.shape[:2]
    pixels = x.shape[2:].numel()
    noise_n = 1 if noise is None else noise.shape[0]
    return _Layer(n, channels, pixels, channels_last, noise_n, 1, slope, scale)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _parts(x: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
    """Each on the device of `x`, without gaps, and in the type that sums are in."""
    return [None if t is None else t.to(x.device, _wide(x)).contiguous() for t in tensors]


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
