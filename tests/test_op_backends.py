"""Every backend against the reference: the same numbers, types, memory formats and derivatives.

The kernels for the GPU run here even without one: a C++ compiler takes them as they are, with a
stand-in for CUDA's threads, grids and barriers (tests/gpu_on_host).
"""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import op
from op import backends, reference
from op.build import BACKENDS, build, missing
from op.native import DTYPES, Filter, Library
from tests.helpers import golden, quick_first, randn

HERE = Path(__file__).parent
STAND_IN = HERE / "gpu_on_host"
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1.6e-2},
}
ALL = tuple(TOLERANCE)
FOUR = torch.tensor([1.0, 3.0, 3.0, 1.0])
KERNELS = {
    "four": FOUR.outer(FOUR) / 16,
    "lopsided": torch.tensor([1.0, 2.0, 0.5, -1.0]).outer(torch.tensor([0.3, 1.0, 2.0, 1.0])) / 4,
    "mixed": randn("kernel", (3, 5)) / 4,
    "single": torch.tensor([[2.0]]),
}


def compile_for_host(folder: Path, *settings: str) -> Path:
    """binding.cu and kernels.cuh as a library for the CPU."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++ to run the GPU's kernels on the CPU with")
    path = folder / "gpu_on_host.so"
    command = [compiler, "-x", "c++", "-std=c++17", "-O1", "-fPIC", "-shared"]
    command += ["-Wno-unknown-pragmas", f"-I{STAND_IN}", "-include", "cuda_fp16.h", *settings]
    command += [str(HERE.parent / "op" / "cuda" / "binding.cu"), "-o", str(path)]
    subprocess.run(command, check=True, timeout=280)
    return path


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """The backends by name, each built when the first test wants it."""
    known = {}

    def library(name: str) -> Library:
        if name not in known:
            known[name] = make(name)
        return known[name]

    def make(name: str) -> Library:
        if name == "gpu on host":
            return Library(compile_for_host(tmp_path_factory.mktemp("host")), "cpu", ALL)
        if name == "gpu on host, small limits":  # 64-bit indices, grids that go round
            limits = ("-DOP_INDEX_LIMIT=64", "-DOP_GRID_LIMIT=2")
            return Library(compile_for_host(tmp_path_factory.mktemp("small"), *limits), "cpu", ALL)
        backend = BACKENDS[name]
        if reason := missing(backend):  # a build that fails is no reason
            pytest.skip(reason)
        return Library(build(backend), backend.device_type, backend.dtypes)

    return library


LIBRARIES = {
    **{name: backend.dtypes for name, backend in BACKENDS.items()},
    **dict.fromkeys(("gpu on host", "gpu on host, small limits"), ALL),
}  # and the types that they work on
OF_ALL_TYPES = pytest.mark.parametrize(
    "library, dtype",
    [
        pytest.param(name, dtype, marks=[] if name == "cpp" else pytest.mark.slow)
        for name, types in LIBRARIES.items()
        for dtype in types
    ],
    indirect=["library"],
    ids=str,
)


@pytest.fixture(params=quick_first(*LIBRARIES), ids=LIBRARIES)
def library(request, libraries, monkeypatch):
    """A compiled backend that the public functions go through, for the types it works on."""
    chosen = libraries(request.param)
    monkeypatch.setitem(backends._libraries, chosen.device_type, chosen)
    return chosen


def on(library: Library, x: torch.Tensor) -> torch.Tensor:
    return x.to(library.device_type)


def same(got: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, factor: float = 1) -> None:
    assert got.shape == expected.shape
    limits = {key: factor * value for key, value in TOLERANCE[dtype].items()}
    torch.testing.assert_close(got.cpu().double(), expected.double(), **limits)


def images(shape, dtype, memory_format="contiguous") -> torch.Tensor:
    x = randn("images", shape).to(dtype)
    if memory_format == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if memory_format == "strided":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x


def fir_both(library, x, kernel, up, down, pad):
    """upfirdn2d by the backend, and by the reference in float64, each with the gradient of x."""
    results = []
    for source, run in (
        (on(library, x), lambda v: op.upfirdn2d(v, on(library, kernel), up, down, pad)),
        (x.double(), lambda v: reference.upfirdn2d(v, kernel.double(), up, down, pad)),
    ):
        source = source.detach().requires_grad_()
        out = run(source)
        out.backward(randn("probe", out.shape).to(out))
        results.append((out.detach(), source.grad))
    return results


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "up, down", [((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 1), (2, 2)), ((3, 1), (2, 4))]
)
@pytest.mark.parametrize("pad", [(1, 1, 1, 1), (2, 1, 3, 0), (-1, 4, 3, -2)])
def test_upfirdn2d(library, kernel, up, down, pad):
    x = images((2, 3, 7, 6), torch.float32)
    (out, grad), (out_, grad_) = fir_both(library, x, KERNELS[kernel], up, down, pad)
    same(out, out_, torch.float32)
    same(grad, grad_, torch.float32)


@OF_ALL_TYPES
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last", "strided"])
def test_upfirdn2d_of_all_types_and_formats(library, dtype, memory_format):
    x = images((2, 5, 9, 10), dtype, memory_format)
    for kernel, up in (("four", (1, 1)), ("four", (2, 2)), ("mixed", (1, 2))):
        (out, grad), (out_, grad_) = fir_both(library, x, KERNELS[kernel], up, (1, 1), (2, 1, 2, 1))
        same(out, out_, dtype)
        same(grad, grad_, dtype)
        last = memory_format == "channels_last"
        assert out.dtype == dtype
        assert out.is_contiguous(memory_format=torch.channels_last) == last


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 1, 1, 1), (1, 2, 1, 300)])
def test_upfirdn2d_of_odd_shapes(library, shape):
    x = images(shape, torch.float32)
    (out, grad), (out_, grad_) = fir_both(library, x, KERNELS["four"], (2, 2), (1, 1), (3, 3, 3, 3))
    same(out, out_, torch.float32)
    same(grad, grad_, torch.float32)


def layer_both(library, x, noise_n=1, leave_out=()):
    """styled_leaky_relu and all gradients, by the backend and by the reference in float64."""
    n, c, *rest = x.shape
    shapes = {"bias": (c,), "demodulation": (n, c), "noise": (noise_n, 1, *rest), "strength": (1,)}
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    parts = {k: randn(k, s).to(wide) for k, s in shapes.items() if k not in leave_out}
    results = []
    for exact in (False, True):
        tensors = {"x": x, **parts}
        for key, value in tensors.items():
            value = value.double() if exact else on(library, value)
            tensors[key] = value.detach().requires_grad_(key != "noise")
        arguments = [tensors.get(k) for k in ("x", "bias", "demodulation", "noise", "strength")]
        run = reference.styled_leaky_relu if exact else op.styled_leaky_relu
        out = run(*arguments, 0.2, 1.5)
        out.backward(randn("probe", out.shape).to(out))
        results.append((out.detach(), {k: v.grad for k, v in tensors.items() if k != "noise"}))
    return results


def same_layer(results, dtype):
    (out, grads), (out_, grads_) = results
    same(out, out_, dtype)
    for name in grads_:
        same(grads[name], grads_[name], dtype, factor=20)


@OF_ALL_TYPES
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("shape", [(2, 8, 16, 16), (2, 5, 7, 3), (3, 40, 5, 5)])
def test_styled_leaky_relu(library, dtype, memory_format, shape):
    x = images(shape, dtype, memory_format)
    same_layer(layer_both(library, x), dtype)


@pytest.mark.parametrize(
    "leave_out",
    [("demodulation",), ("noise", "strength"), ("bias",), ("demodulation", "noise", "strength")],
)
@pytest.mark.parametrize("shape", [(2, 6), (2, 3, 9), (0, 3, 4, 4), (3, 4, 1, 1), (1, 2, 70, 70)])
def test_styled_leaky_relu_with_parts_left_out(library, leave_out, shape):
    x = images(shape, torch.float32)
    same_layer(layer_both(library, x, noise_n=shape[0], leave_out=leave_out), torch.float32)


def test_other_types_are_left_to_the_reference(libraries, monkeypatch):
    x, bias = images((2, 4, 6, 6), torch.float16), randn("bias", (4,))

    def run() -> list[torch.Tensor]:
        return [op.fused_leaky_relu(x, bias), op.upfirdn2d(x, KERNELS["four"], up=2)]

    monkeypatch.setitem(backends._libraries, "cpu", None)
    plain = run()
    monkeypatch.setitem(backends._libraries, "cpu", libraries("cpp"))
    assert all(map(torch.equal, run(), plain)) and plain[0].dtype == torch.float16


def test_golden_cases(library):
    cases = golden("op")
    for number in range(8):
        case = {
            k: on(library, cases[f"upfirdn2d/{number}/{k}"])
            for k in ("input", "kernel", "output", "grad_probe", "grad_input")
        }
        settings = cases[f"upfirdn2d/{number}/up_down_pad"].tolist()
        x = case["input"].requires_grad_()
        out = op.upfirdn2d(x, case["kernel"], settings[:2], settings[2:4], tuple(settings[4:]))
        (out * case["grad_probe"]).sum().backward()
        torch.testing.assert_close(out, case["output"], rtol=0, atol=1e-5)
        torch.testing.assert_close(x.grad, case["grad_input"], rtol=1e-4, atol=1e-5)


def test_derivatives_of_first_and_second_order(library):
    x = on(library, randn("x", (1, 2, 4, 3)).double()).requires_grad_()
    parts = {"bias": (2,), "demodulation": (1, 2), "noise": (1, 1, 4, 3), "strength": (1,)}
    parts = [on(library, randn(k, s).double()).requires_grad_() for k, s in parts.items()]
    assert torch.autograd.gradcheck(op.styled_leaky_relu, (x, *parts))
    assert torch.autograd.gradgradcheck(op.styled_leaky_relu, (x, *parts))
    for kernel, up, down, pad in (("four", 2, 1, (2, 1)), ("mixed", (2, 1), (1, 3), (1, 2, -1, 2))):
        taps = on(library, KERNELS[kernel].double())

        def run(v, taps=taps, up=up, down=down, pad=pad):
            return op.upfirdn2d(v, taps, up, down, pad)

        assert torch.autograd.gradcheck(run, (x,))
        assert torch.autograd.gradgradcheck(run, (x,))


def test_a_filter_changed_in_place_is_noticed(library):
    kernel = on(library, torch.ones(2, 2))
    x = on(library, images((1, 1, 4, 4), torch.float32))
    before = op.upfirdn2d(x, kernel)
    kernel.mul_(3)
    torch.testing.assert_close(op.upfirdn2d(x, kernel), 3 * before)


def test_a_filter_with_a_gradient_gets_it(library):
    x = on(library, images((1, 2, 5, 5), torch.float64))
    kernel = on(library, KERNELS["mixed"].double()).requires_grad_()
    assert torch.autograd.gradcheck(lambda k: op.upfirdn2d(x, k), (kernel,))


def test_filters_are_factored_only_where_they_are_products():
    assert Filter.of(KERNELS["four"]).row is not None
    assert Filter.of(KERNELS["mixed"]).row is None
    filter = Filter.of(KERNELS["lopsided"])
    product = torch.tensor(filter.column[:]).outer(torch.tensor(filter.row[:]))
    torch.testing.assert_close(product, KERNELS["lopsided"].flip(0, 1))


def test_an_unknown_type_is_an_error_with_a_name(libraries):
    library = libraries("cpp")
    DTYPES[torch.int32] = 99
    try:
        with pytest.raises(RuntimeError, match="does not know"):
            library.upfirdn2d(
                torch.ones(1, 1, 2, 2, dtype=torch.int32),
                Filter.of(KERNELS["single"]),
                (1, 1),
                (1, 1),
                (0, 0, 0, 0),
            )
    finally:
        del DTYPES[torch.int32]


def test_a_generator_gives_the_same_pictures_and_gradients(generator, libraries, monkeypatch):
    library = libraries("cpp")
    z = randn("z", (2, 16))
    grads = []
    for chosen in (None, library):
        monkeypatch.setitem(backends._libraries, "cpu", chosen)
        generator.requires_grad_().zero_grad()
        out = generator(z)
        out.square().mean().backward()
        grads.append((out.detach(), {k: p.grad.clone() for k, p in generator.named_parameters()}))
    torch.testing.assert_close(grads[1][0], grads[0][0], rtol=1e-4, atol=1e-4)
    for name, grad in grads[0][1].items():
        scale = grad.abs().max().item() + 1e-12
        torch.testing.assert_close(grads[1][1][name] / scale, grad / scale, rtol=0, atol=1e-3)
