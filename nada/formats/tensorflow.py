"""The generators of NVIDIA's TensorFlow pickles: StyleGAN2, and StyleGAN2-ADA's first version.

Such a file holds the tuple (G, D, Gs) of `dnnlib.tflib.Network`, Gs being the moving average. A
network's state has its options (`static_kwargs`), its parts (`components`: mapping and synthesis)
and its variables, names with arrays; its source code, which the original runs, is not looked at.
Each variable is used exactly once, or it is known to change no image; anything else is refused.

TensorFlow's layout differs in this: kernels are [h, w, in, out], matrices [in, out]; a kernel that
doubles the resolution is that of a convolution over pixels with zeros between them, so the one of
the transposed convolution is it turned by 180 degrees; a modulation's bias is counted from 1.

Sources of the names: `training/networks_stylegan2.py` of stylegan2, `training/networks.py` of
stylegan2-ada.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from nada.formats.arrays import lazy_array
from nada.formats.files import CheckpointError
from nada.formats.messages import brief, is_small_int
from nada.formats.nvidia import Translated
from nada.formats.pickles import ForeignObject
from nada.formats.remarks import Remark, remark
from nada.formats.slices import LazyTensor
from nada.generator import MAPPING_LR, MOST_LEVELS

NETWORK = "dnnlib.tflib.network.Network"
OLDER_NETWORK = "tfutil.Network"  # of the progressive GAN's program
MOST_PARTS = 8  # networks in a network; NVIDIA's have two
INSTEAD = "give one such as NVIDIA's stylegan2-ffhq-config-f.pkl"
FIXED = {
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "normalize_latents": True,
}  # options that our generator always has at these values
SEEN_TO = """nonlinearity mapping_nonlinearity normalize_latents num_channels label_size label_fmaps
    mapping_lrmul resample_kernel use_noise conv_clamp architecture latent_size dlatent_size
    dlatent_broadcast resolution mapping_layers mapping_fmaps fmap_base fmap_decay fmap_min fmap_max
    fmap_const num_fp16_res dtype fused_modconv randomize_noise structure truncation_psi
    truncation_cutoff truncation_psi_val truncation_cutoff_val dlatent_avg_beta w_avg_beta
    style_mixing_prob mapping_func synthesis_func""".split()  # or said by shapes, or without effect


@dataclass(frozen=True)
class TensorFlowNetwork:
    """A network, its parts put together.

    Args:
        name: "Gs" for the average, else "G".
        function: what built it.
        options: its own, and those of its parts that it does not have itself.
        variables: arrays by names such as "synthesis/4x4/Conv/weight".
    """

    name: str
    function: str
    options: dict[str, object]
    variables: dict[str, object]


def holds_networks(contents: object) -> bool:
    """Whether `contents` is what NVIDIA's programs for TensorFlow write."""
    return bool(_networks(contents))


def translate(contents: object) -> Translated:
    """The averaged generator in our names.

    Raises:
        CheckpointError: a conditional generator, another architecture, or a damaged file.
    """
    network = _read(_taken(_networks(contents)))
    _refuse_others(network)
    theirs = {key: lazy_array(value, key) for key, value in network.variables.items()}
    mean = theirs.pop("dlatent_avg", None)
    theirs, notes = _completed(theirs)
    rate = _positive(network.options, "mapping_lrmul", MAPPING_LR) / MAPPING_LR
    ours = {}
    for their_name, our_name, turn in list(_names(theirs, rate)):
        if their_name not in theirs:
            raise CheckpointError(
                f"Not a StyleGAN2 generator as it should be: {their_name!r} is missing from "
                f"NVIDIA's pickle for TensorFlow: {INSTEAD}."
            )
        ours[our_name] = _turned(theirs.pop(their_name), their_name, turn)
    _refuse_rest(theirs)
    if rate != 1:
        notes.append(remark("mapping_rate"))
    unknown = [brief(name) for name in network.options if name not in SEEN_TO]
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    doubt = remark("unknown_options", options=", ".join(unknown[:5]) + more)
    clamp = None
    if network.options.get("conv_clamp") is not None:
        clamp = _positive(network.options, "conv_clamp", math.inf)
    used = remark("tensorflow", name=network.name, variables=len(network.variables))
    return Translated(ours, mean, clamp, used, tuple(notes), (doubt,) if unknown else ())


def others(contents: object) -> tuple[str, ...]:
    """What the networks are called that are not taken."""
    networks = _networks(contents)
    taken = _taken(networks)
    names = [_text(network, "name") for network in networks if network is not taken]
    return tuple(name[:60] or "a network" for name in names[:8])


# Networks


def _networks(contents: object) -> list[ForeignObject]:
    if type(contents) is dict:
        contents = list(contents.values())
    candidates = contents if type(contents) in (list, tuple) else [contents]
    known = (NETWORK, OLDER_NETWORK)
    return [item for item in candidates if isinstance(item, ForeignObject) and item.name in known]


def _taken(networks: list[ForeignObject]) -> ForeignObject:
    """The network called "Gs", which is the average; without it, the last generator."""
    if any(network.name == OLDER_NETWORK for network in networks):
        raise CheckpointError(
            "This is a progressive GAN (2017), which has no styles; a StyleGAN2 generator was "
            f"expected: {INSTEAD}."
        )
    generators = [n for n in networks if not _text(n, "build_func_name").startswith("D_")]
    if not generators:
        raise CheckpointError(f"It holds a discriminator and no generator: {INSTEAD}.")
    averaged = [network for network in generators if _text(network, "name") == "Gs"]
    return (averaged or generators)[-1]


def _read(network: ForeignObject) -> TensorFlowNetwork:
    options: dict[str, object] = {}
    variables: dict[str, object] = {}
    for state, prefix in _parts(network, "", set()):
        options = _dict(state, "static_kwargs") | options
        for name, value in _pairs(state.get("variables")):
            full = re.sub(r"^G_(?=mapping/|synthesis/)", "", prefix + name)
            if full in variables:
                raise CheckpointError(f"It holds {brief(full)} twice: it is damaged.")
            variables[full] = value
    name = "Gs" if _text(network, "name") == "Gs" else "G"
    return TensorFlowNetwork(name, _text(network, "build_func_name"), options, variables)


def _parts(network: object, prefix: str, seen: set[int]) -> Iterator[tuple[dict, str]]:
    """The states of a network and of those in it, with what their variables' names begin with."""
    if id(network) in seen or len(seen) > MOST_PARTS:
        raise CheckpointError("Its networks have no end of parts: it is no model, or damaged.")
    seen.add(id(network))
    state = _state(network)
    yield state, prefix
    for name, part in _dict(state, "components").items():
        yield from _parts(part, f"{prefix}{name}/", seen)


def _state(network: object) -> dict:
    if not isinstance(network, ForeignObject) or type(network.state) is not dict:
        raise CheckpointError("One of its networks holds nothing: it is cut off or damaged.")
    return network.state


def _text(network: ForeignObject, key: str) -> str:
    value = _state(network).get(key)
    return value if isinstance(value, str) else ""


def _dict(state: dict, key: str) -> dict:
    value = state.get(key)
    if isinstance(value, ForeignObject):  # a dict of a class of its own
        value = value.items
    return value if type(value) is dict else {}


def _pairs(variables: object) -> Iterator[tuple[str, object]]:
    items = variables.items() if type(variables) is dict else variables
    for item in items if type(items) is list or type(variables) is dict else ():
        if type(item) is not tuple or len(item) != 2 or not isinstance(item[0], str):
            raise CheckpointError("Its variables have no names: it is no model, or damaged.")
        yield item


# What a generator of another kind is refused for


def _refuse_others(network: TensorFlowNetwork) -> None:
    names, options = network.variables, network.options
    labels = _option(options, "label_size", 0)
    if labels or any(name.startswith("mapping/Label") for name in names):
        raise CheckpointError(
            f"This generator is conditional ({brief(labels) if labels else 'several'} classes): it "
            "draws what a label says, and only generators without labels can be used here."
        )
    if network.function in ("G_style", "G_paper") or any("/StyleMod/" in name for name in names):
        kind = "progressive GAN" if network.function == "G_paper" else "StyleGAN (the first)"
        raise CheckpointError(
            f"This is a {kind}, whose layers work in another way; a StyleGAN2 generator was "
            f"expected: {INSTEAD}."
        )
    sides = (re.fullmatch(r"synthesis/(\d+)x(\d+)/.*", name) for name in names)
    if any(match[1] != match[2] for match in sides if match):
        raise CheckpointError(
            "This generator draws images that are not square, and only square ones can be used "
            f"here: {INSTEAD}."
        )
    if _option(options, "num_channels", 3) != 3:
        raise CheckpointError(
            f"This generator draws {brief(_option(options, 'num_channels', 3))} channels; red, "
            "green and blue were expected: it cannot be used here."
        )
    if _option(options, "architecture", "skip") == "resnet":
        raise CheckpointError(
            "This generator is of the 'resnet' architecture; one of the 'skip' architecture was "
            f"expected, as all but the experimental ones are: {INSTEAD}."
        )
    for name, expected in FIXED.items():
        if _option(options, name, expected) != expected:
            raise CheckpointError(
                f"Its option {name!r} is {brief(_option(options, name, expected))}; {expected} was "
                "expected: it cannot be used here."
            )
    if _taps(options.get("resample_kernel", [1, 3, 3, 1])) != [1, 3, 3, 1]:
        raise CheckpointError(
            "This generator blurs with another filter than [1, 3, 3, 1], the standard one of "
            "StyleGAN2: it cannot be used here."
        )


def _option(options: dict[str, object], name: str, default: object) -> object:
    """A number, a text or a truth value as itself; of anything else the type's name."""
    value = options.get(name, default)
    if isinstance(value, ForeignObject) and value.name.endswith(".scalar"):
        return lazy_array(value, name).read().item()
    if value is None or isinstance(value, float) or is_small_int(value):
        return value
    return value[:60] if isinstance(value, str) else brief(value)


def _taps(kernel: object) -> list[float]:
    """A filter's numbers, as multiples of the first; [] for what is no row of a few numbers."""
    if isinstance(kernel, ForeignObject):
        array = lazy_array(kernel, "resample_kernel")
        kernel = array.read().tolist() if len(array.shape) == 1 and array.nbytes < 256 else []
    if type(kernel) not in (list, tuple) or not 0 < len(kernel) < 32:
        return []
    if not all(isinstance(tap, float) or is_small_int(tap) for tap in kernel) or not kernel[0]:
        return []
    return [tap / kernel[0] for tap in kernel]


def _refuse_rest(rest: dict[str, LazyTensor]) -> None:
    if rest:
        names = ", ".join(brief(key) for key in list(rest)[:3])
        more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
        raise CheckpointError(
            f"Not a StyleGAN2 generator as it should be: nothing here uses {names}{more} of "
            f"NVIDIA's pickle for TensorFlow: {INSTEAD}."
        )


# Names and layouts


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(matrix: Tensor) -> Tensor:
    return matrix.permute(1, 0)  # [in, out] → [out, in]


def _scaled(tensor: Tensor, rate: float, turn: Callable[[Tensor], Tensor]) -> Tensor:
    return turn(tensor) * rate


def _plus_one(bias: Tensor) -> Tensor:
    return bias.float() + 1


def _kernel(kernel: Tensor) -> Tensor:
    return kernel.permute(3, 2, 0, 1)[None]  # [h, w, in, out] → [1, out, in, h, w]


def _upsampling_kernel(kernel: Tensor) -> Tensor:
    return _kernel(kernel.flip(0, 1))


def _one_number(number: Tensor) -> Tensor:
    return number.reshape(1)


def _rgb(bias: Tensor) -> Tensor:
    return bias[None, :, None, None]  # [1, 3, 1, 1]


Turn = Callable[[Tensor], Tensor]
MODULATION: dict[str, tuple[str, Turn]] = {
    "mod_weight": ("conv.modulation.weight", _transposed),
    "mod_bias": ("conv.modulation.bias", _plus_one),
}
CONV = {
    **MODULATION,
    "weight": ("conv.weight", _kernel),
    "bias": ("activate.bias", _same),
    "noise_strength": ("noise.weight", _one_number),
}
UPSAMPLING_CONV = {**CONV, "weight": ("conv.weight", _upsampling_kernel)}
TO_RGB = {**MODULATION, "weight": ("conv.weight", _kernel), "bias": ("bias", _rgb)}


def _names(tensors: dict[str, LazyTensor], rate: float) -> Iterator[tuple[str, str, Turn]]:
    """TensorFlow's name, ours and the way from one layout to the other, for every tensor.

    Args:
        tensors: those there are, by TensorFlow's names.
        rate: what the mapping's weights and biases are multiplied by.
    """
    for i in range(_count(tensors, r"mapping/Dense\d+/weight")):
        for part, turn in (("weight", _transposed), ("bias", _same)):
            scaled = turn if rate == 1 else partial(_scaled, rate=rate, turn=turn)
            yield f"mapping/Dense{i}/{part}", f"style.{i + 1}.{part}", scaled
    yield "synthesis/4x4/Const/const", "input.input", _same
    layers = [("4x4/Conv", "conv1", CONV), ("4x4/ToRGB", "to_rgb1", TO_RGB)]
    for j, side in enumerate(_sides(tensors)[1:]):
        layers += [
            (f"{side}x{side}/Conv0_up", f"convs.{2 * j}", UPSAMPLING_CONV),
            (f"{side}x{side}/Conv1", f"convs.{2 * j + 1}", CONV),
            (f"{side}x{side}/ToRGB", f"to_rgbs.{j}", TO_RGB),
        ]
    for theirs, ours, parts in layers:
        for part, (name, turn) in parts.items():
            yield f"synthesis/{theirs}/{part}", f"{ours}.{name}", turn
    quiet = isinstance(tensors.get("synthesis/4x4/Conv/noise_strength"), _Zeros)
    if not quiet:  # else our loader draws some, which have no effect
        for n in range(2 * len(_sides(tensors)) - 1):
            yield f"synthesis/noise{n}", f"noises.noise_{n}", _same


def _sides(tensors: dict[str, LazyTensor]) -> list[int]:
    """The resolutions that the generator goes through: 4, 8, ..."""
    levels = _count(tensors, r"synthesis/(\d+)x\1/Conv0_up/weight")
    return [4 * 2**i for i in range(1 + min(levels, MOST_LEVELS))]


def _count(tensors: dict[str, LazyTensor], pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, key)) for key in tensors)


def _turned(tensor: LazyTensor, name: str, turn: Turn) -> LazyTensor:
    try:
        shape = turn(torch.empty(tensor.shape, device="meta")).shape
    except (RuntimeError, IndexError) as error:
        raise CheckpointError(
            f"Not a StyleGAN2 generator as it should be: {name!r} is {list(tensor.shape)}."
        ) from error
    return replace(tensor, shape=tuple(shape), read=lambda: turn(tensor.read()).contiguous())


def _positive(options: dict[str, object], name: str, default: float) -> float:
    number = _option(options, name, default)
    if not isinstance(number, int | float) or not 1e-6 <= number <= 1e6:
        raise CheckpointError(
            f"Its option {name!r} is {brief(number)}; a number from 1e-6 to 1e6 was expected: it "
            "cannot be used here."
        )
    return float(number)


# Kinds that lack a part of ours, which then has zeros


def _completed(tensors: dict[str, LazyTensor]) -> tuple[dict[str, LazyTensor], list[Remark]]:
    """With zeros for the parts that the generator does without, and what they are."""
    remarks = []
    tensors = _without_growing(dict(tensors))
    layers = [f"synthesis/{side}x{side}" for side in _sides(tensors)]
    convs = ["synthesis/4x4/Conv"]
    convs += [f"{layer}/{conv}" for layer in layers[1:] for conv in ("Conv0_up", "Conv1")]
    if not any(key.endswith("/noise_strength") for key in tensors):
        remarks.append(remark("no_noise"))
        tensors |= {f"{conv}/noise_strength": _zeros() for conv in convs}
    if f"{layers[-1]}/ToRGB/weight" in tensors and _count(tensors, r".*/ToRGB/weight") == 1:
        remarks.append(remark("last_rgb"))
        for layer, conv in zip(layers[:-1], convs[::2]):
            width, w_dim = (_width(tensors, f"{conv}/{part}") for part in ("bias", "mod_weight"))
            tensors |= {
                f"{layer}/ToRGB/weight": _zeros(1, 1, width, 3),
                f"{layer}/ToRGB/mod_weight": _zeros(w_dim, width),
                f"{layer}/ToRGB/mod_bias": _zeros(width),
                f"{layer}/ToRGB/bias": _zeros(3),
            }
    return tensors, remarks


def _without_growing(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """What a progressively grown generator (configurations b to d) uses when it has grown."""
    lods = [tensors.pop(key) for key in ("lod", "synthesis/lod") if key in tensors]
    last = f"synthesis/{_sides(tensors)[-1]}x{_sides(tensors)[-1]}/ToRGB"
    kept = {}
    for key, value in tensors.items():
        match = re.fullmatch(r"synthesis/ToRGB_lod(\d+)/(.*)", key)
        if match and lods and lods[0].shape == () and lods[0].read().item() != 0:
            raise CheckpointError(
                "This generator has not grown to its full size: give a later snapshot of its "
                f"training, or {INSTEAD.removeprefix('give ')}."
            )
        if not match:
            kept[key] = value
        elif match[1] == "0":
            kept[f"{last}/{match[2]}"] = value
    return kept


def _width(tensors: dict[str, LazyTensor], name: str) -> int:
    """The first number of a tensor's shape; 1 if there is none, which is then complained of."""
    return (*tensors[name].shape, 1)[0] if name in tensors else 1


class _Zeros(LazyTensor):
    @property
    def nbytes(self) -> int:
        """Of the file; in memory no more than the next layer's modulation, which is in it."""
        return 0


def _zeros(*shape: int) -> LazyTensor:
    return _Zeros(shape, torch.float32, lambda: torch.zeros(shape))
