"""CLIP: images and prompts as unit vectors in one space; OpenAI's models and the bundled ones.

The architecture, the tokenizer and the large weights are those of OpenAI's `clip` package; this
module adds what adaptation needs around them: gradients through the preprocessing, prompts of any
kind answered by a vector or by a sentence, and the compact file format of the bundled models.
The package is imported on first use, so that `import nada` stays cheap and downloads nothing.
"""

import functools
import os
import string
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from nada.formats.downloads import download
from nada.formats.files import (
    bundled_file,
    check_finite,
    check_header,
    file_digest,
    write_safetensors,
)
from nada.formats.hub import Report
from nada.formats.messages import first_line, quote
from nada.formats.pickles import ForeignObject, reading_pickle
from nada.formats.slices import LazyTensor

VOCABULARY = 49408
START, END = VOCABULARY - 2, VOCABULARY - 1  # the marker tokens around every prompt
LARGEST = 4096  # width and context length of the text tower; OpenAI's have 1024 and 77 at most
MAX_CHARACTERS = 1000  # 77 tokens hold fewer; a longer "word" would keep the tokenizer busy

SCALARS = {"input_resolution", "context_length", "vocab_size"}  # in OpenAI's files; shapes tell

# Channel statistics of CLIP's training images, in [0, 1] (Radford et al. 2021, released code).
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

BUNDLED = {"demo": "clip-resnet.safetensors", "demo-vit": "clip-vit.safetensors"}


class PromptError(ValueError):
    """A prompt that CLIP cannot read; the message is a sentence for the person who typed it."""


@runtime_checkable
class Encoder(Protocol):
    """What guidance, metrics and measurements ask of a CLIP; another encoder has to fulfil it.

    `CLIP` does, and so does anything that puts images and texts into one space: to train with it,
    give it to `text_direction` and the losses.
    """

    @property
    def name(self) -> str:
        """What to call it in messages."""

    @property
    def resolution(self) -> int:
        """Side in pixels of the square images that it looks at."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit features [N, D] of images [N, 3, H, W] in [-1, 1]; differentiable."""

    def encode_text(self, prompts: list[str]) -> Tensor:
        """Unit features [N, D] of N prompts."""

    def check_prompt(self, prompt: str) -> object:
        """Raise a PromptError for a prompt that it cannot read."""


class CLIP(nn.Module):
    """Image and text features of one CLIP model, OpenAI's or a bundled one.

    Args:
        model: a `clip.model.CLIP` in float32, used as it is (`load_clip` freezes it, training may
            not).
        name: what to call it in messages.
        words: the words it was trained on, or None when it knows natural language at large.
    """

    model: Any  # OpenAI's package has no types
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, name: str = "clip", words: frozenset[str] | None = None):
        super().__init__()
        self.model, self.name, self.words = model, name, words
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @property
    def resolution(self) -> int:
        """Side in pixels of the square images that the image tower takes."""
        return self.model.visual.input_resolution

    @property
    def context_length(self) -> int:
        """Most tokens in a prompt, the start and end markers included."""
        return self.model.positional_embedding.shape[0]

    def preprocess(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] → [N, 3, resolution, resolution], normalised; differentiable."""
        images = (resize(images, self.resolution) + 1) / 2
        return (images - self.mean) / self.std

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit features [N, D] of images [N, 3, H, W] in [-1, 1] (not clamped)."""
        return F.normalize(self.model.visual(self.preprocess(images)).float(), dim=-1)

    def encode_text(self, prompts: list[str]) -> Tensor:
        """Unit features [N, D] of N prompts.

        Raises:
            PromptError: one cannot be read.
        """
        return self.encode_tokens(self.tokenize(prompts))

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Unit features [N, D] of token ids [N, L], L ≤ context_length.

        Attention is causal and the feature is read at the end marker, so what follows the marker
        cannot matter: L may be the longest prompt of the batch, with the same result as 77.
        """
        model, length = self.model, tokens.shape[1]
        x = model.token_embedding(tokens) + model.positional_embedding[:length]  # [N, L, W]
        x = x.transpose(0, 1)  # [L, N, W], the layout of the towers
        mask = x.new_full((length, length), float("-inf")).triu_(1)
        for block in model.transformer.resblocks:
            y = block.ln_1(x)
            x = x + block.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
            x = x + block.mlp(block.ln_2(x))
        ends = tokens.argmax(dim=1)  # the end marker has the highest id
        x = model.ln_final(x[ends, torch.arange(len(tokens), device=tokens.device)])  # [N, W]
        return F.normalize((x @ model.text_projection).float(), dim=-1)

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Token ids [N, L] (int64, zero-padded) on the model's device, L the longest prompt's."""
        rows = [[START, *self.check_prompt(prompt), END] for prompt in prompts]
        tokens = torch.zeros(len(rows), max(map(len, rows), default=2), dtype=torch.long)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return tokens.to(self.model.positional_embedding.device)

    def check_prompt(self, prompt: str) -> list[int]:
        """The prompt's token ids without markers.

        Raises:
            PromptError: it is empty, too long, no text, or holds half a character.
        """
        if not isinstance(prompt, str):
            raise PromptError(f"A prompt must be text, got {type(prompt).__name__}: type a phrase.")
        if len(prompt) > MAX_CHARACTERS:
            raise PromptError(
                f"The prompt has {len(prompt)} characters, more than {MAX_CHARACTERS}: "
                "shorten it to a short phrase."
            )
        if any(unicodedata.category(c) == "Cs" for c in prompt):
            raise PromptError("The prompt holds half a character (a lone surrogate): type it anew.")
        # Marker strings typed by a user come back as marker tokens and would end the prompt early.
        ids = [token for token in tokenizer().encode(prompt) if token < START]
        if not ids or not any(unicodedata.category(c)[0] in "LNPS" for c in prompt):
            raise PromptError("The prompt is empty: describe the picture in a few words.")
        room = self.context_length - 2
        if len(ids) > room:
            raise PromptError(
                f"The prompt {quote(prompt)} takes {len(ids)} tokens with the words around "
                f"it, and CLIP model {self.name} reads {room}: shorten it."
            )
        return ids

    def spoken_words(self, prompt: str) -> list[str]:
        """The prompt's words as the tokenizer splits it, each once, in order.

        Emoji and characters of any script count as words; ASCII punctuation does not.
        """
        pieces = tokenizer().pat.findall(clean(prompt))
        markers = {"<|startoftext|>", "<|endoftext|>"}
        spoken = (p for p in pieces if not p.startswith("'") and set(p) - set(string.punctuation))
        return [word for word in dict.fromkeys(spoken) if word not in markers]

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that this model never saw; [] where it knows the language."""
        if self.words is None:
            return []
        return [word for word in self.spoken_words(prompt) if word not in self.words]


def resize(images: Tensor, side: int) -> Tensor:
    """[N, 3, H, W] → float32 [N, 3, side, side]: bicubic, antialiased, the centre of long images.

    Values keep their scale and are not clamped; differentiable; nothing is done at the right size.

    Args:
        images: of any size and floating-point type.
        side: of the result, in pixels.
    """
    images, (height, width) = images.float(), images.shape[-2:]
    if min(height, width) != side:
        scale = side / min(height, width)
        size = (round(height * scale), round(width * scale))
        images = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
    top, left = ((length - side) // 2 for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def clean(prompt: str) -> str:
    """The prompt as the tokenizer sees it: repaired Unicode, single spaces, lower case."""
    module = openai_clip().simple_tokenizer
    return module.whitespace_clean(module.basic_clean(prompt)).lower()


# Loading and saving


def load_clip(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    progress: Report | None = None,
) -> CLIP:
    """A frozen CLIP in evaluation mode.

    Args:
        name_or_path: "demo" or "demo-vit" (bundled), an OpenAI name such as "ViT-B/32" (downloaded
            once, its sha256 checked), or a file: .safetensors in OpenAI's names, or OpenAI's own
            .pt.
        device: where to put it.
        progress: called while downloading, as `nada.formats.downloads.download` says.

    Raises:
        ValueError: there is no such model, or it cannot be read.
    """
    name = str(name_or_path).strip()
    path = bundled_path(name) if name in BUNDLED else Path(name)
    shown = path.name if os.path.isfile(path) and name not in BUNDLED else name  # without folders
    if path.suffix == ".safetensors":
        clip = _load_safetensors(path, shown)
    else:
        clip = CLIP(_load_openai(name, progress), shown)
    return clip.requires_grad_(False).eval().to(device)


def load_clips(
    spec: str, device: str | torch.device = "cpu", progress: Report | None = None
) -> list[CLIP]:
    """The models of an ensemble, frozen and in evaluation mode.

    Args:
        spec: names or paths as `load_clip` takes them, joined by "+": "ViT-B/32+ViT-B/16"; "demo"
            stands for all bundled ones. A file may have a "+" in its name, but only where it is
            the one model.
        device, progress: as `load_clip` takes them.

    Raises:
        ValueError: there is no such model, or it cannot be read.
    """
    names: list[str] = []
    spec = str(spec).strip()
    for name in [spec] if os.path.isfile(spec) else map(str.strip, spec.split("+")):
        names += _bundled_names() if name == "demo" else [name]
    return [load_clip(name, device, progress) for name in dict.fromkeys(names)]


def save_clip(
    model: nn.Module,
    path: str | Path,
    token_ids: Iterable[int],
    words: Iterable[str],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a small CLIP in float16, with only those rows of the token embedding that it uses.

    Args:
        model: a `clip.model.CLIP`.
        path: a .safetensors to write, whole or not at all.
        token_ids: the rows to keep.
        words: the words it was trained on.
        metadata: texts to keep in the file.
    """
    ids = torch.as_tensor(sorted({*map(int, token_ids), START, END}), dtype=torch.int32)
    tensors = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    tensors["token_embedding.weight"] = tensors["token_embedding.weight"][ids.long()].contiguous()
    tensors["token_embedding.ids"] = ids
    write_safetensors(tensors, path, {**(metadata or {}), "words": " ".join(sorted(words))})


def _bundled_names() -> list[str]:
    """The bundled models that are here; "demo" where none is, for an error that says so."""
    return [name for name in BUNDLED if bundled_path(name).is_file()] or ["demo"]


def bundled_path(name: str) -> Path:
    """Where the bundled model `name` of BUNDLED lies."""
    return bundled_file(BUNDLED[name])


def build(state: dict[str, Tensor]) -> nn.Module:
    """A `clip.model.CLIP` in float32 from a state dict in OpenAI's names, the rest from its shapes.

    The model is made without memory, so that names and shapes are compared before anything is
    allocated for them.

    Raises:
        ValueError, KeyError, RuntimeError: it is not such a state dict.
    """
    _check(state)
    state = _expand_tokens(state)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nothing is copied into what has no memory
        model = openai_clip().model.build_model(state.copy()).float()
    kinds = model.state_dict()
    state = {key: value.to(kinds[key].dtype) for key, value in state.items()}
    model.load_state_dict(state, assign=True)
    for block in model.transformer.resblocks:
        block.attn_mask = model.build_attention_mask()
    return model


def _check(state: dict[str, Tensor]) -> None:
    """Refuse nan, infinity, and a text tower so large that its tables would fill memory."""
    for key, value in state.items():
        check_finite(key, value)
    length, width = state["positional_embedding"].shape
    if max(length, width) > LARGEST:
        raise ValueError(
            f"it reads prompts of {length} tokens, {width} numbers each; at most {LARGEST} of "
            "either were expected"
        )


def _expand_tokens(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the token embedding its [49408, W] back; rows that were not stored get the mean row."""
    if "token_embedding.ids" not in state:
        return state
    state = state.copy()
    ids, rows = state.pop("token_embedding.ids"), state["token_embedding.weight"]
    _check_tokens(ids, rows, state["positional_embedding"].shape[1])
    full = rows.mean(dim=0).repeat(VOCABULARY, 1)
    return {**state, "token_embedding.weight": full.index_copy_(0, ids.long(), rows)}


def _check_tokens(ids: Tensor, rows: Tensor, width: int) -> None:
    if ids.is_floating_point() or ids.ndim != 1 or not 0 < len(ids) == len(ids.unique()):
        raise ValueError("'token_embedding.ids' should hold integers, each once")
    if rows.shape != (len(ids), width):
        raise ValueError(
            f"'token_embedding.weight' is {list(rows.shape)} instead of {[len(ids), width]}"
        )
    if not 0 <= ids.min() <= ids.max() < VOCABULARY:
        raise ValueError(
            f"'token_embedding.ids' holds {ids.min()} to {ids.max()}, and ids from 0 to "
            f"{VOCABULARY - 1} were expected"
        )


def _load_safetensors(path: Path, name: str) -> CLIP:
    if not os.path.isfile(path):
        raise ValueError(f"There is no CLIP file {quote(str(path))}: check the name or path.")
    check_header(path)
    try:
        with safe_open(path, "pt") as file:
            state = {key: _copied(file.get_tensor(key)) for key in file.keys()}
            words = (file.metadata() or {}).get("words")
        model = build(state)
    except Exception as error:  # a foreign file can be wrong in any way
        raise ValueError(
            f"{path.name} is not a sound CLIP model in OpenAI's tensor names ({_reason(error)}): "
            "get the file again or choose another."
        ) from error
    return CLIP(model, name, None if words is None else frozenset(words.split()))


def _copied(tensor: Tensor) -> Tensor:
    """The tensor out of its file, in float32 if it is of real numbers."""
    return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)


def _load_openai(name: str, progress: Report | None) -> nn.Module:
    models = openai_clip().clip._MODELS
    if name not in models and not os.path.isfile(name):
        known = ", ".join([*BUNDLED, *models])
        raise ValueError(f"There is no CLIP model {quote(name)}: use a file or one of {known}.")
    path = _downloaded(name, models[name], progress) if name in models else Path(name)
    try:
        return build(_read_torch(path))
    except Exception as error:  # a foreign file can be wrong in any way
        raise ValueError(
            f"CLIP model {name} could not be read ({_reason(error)}): get the file again."
        ) from error


def _downloaded(name: str, url: str, progress: Report | None) -> Path:
    """OpenAI's file, whose address holds its checksum; its own package may have left it here."""
    sha256, file = url.split("/")[-2:]
    left = Path.home() / ".cache" / "clip" / file
    if left.is_file() and file_digest(left) == sha256:
        return left
    return download(url, sha256, f"CLIP model {name}", progress)


def _read_torch(path: Path) -> dict[str, Tensor]:
    """The state dict in OpenAI's .pt, a TorchScript archive, or in a plain one."""
    with reading_pickle(path) as contents:
        lazy = {
            key: value
            for key, value in _tensors(contents, "")
            if key not in SCALARS and not key.endswith("attn_mask")  # the one that is no weight
        }
        claimed, there = sum(value.nbytes for value in lazy.values()), path.stat().st_size
        if claimed > there:
            raise ValueError(f"its tensors claim {claimed} bytes, and the whole file has {there}")
        return {key: _copied(value.read()) for key, value in lazy.items()}


def _tensors(contents: object, name: str) -> Iterator[tuple[str, LazyTensor]]:
    """All tensors of a state dict, or of TorchScript's modules within modules, by dotted names."""
    inside = contents.state if isinstance(contents, ForeignObject) else contents
    if name.count(".") > 9 or not isinstance(inside, dict):
        raise ValueError(f"it holds a {type(contents).__name__} and not tensors by their names")
    for key, value in inside.items():
        if isinstance(value, LazyTensor):
            yield f"{name}{key}", value
        elif isinstance(value, ForeignObject):
            yield from _tensors(value, f"{name}{key}.")


def _reason(error: Exception) -> str:
    """What an error says, in a few words; PyTorch's own begin with a line that says nothing."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    lines = str(error).splitlines()
    return (
        first_line(ValueError(lines[1]))
        if lines[1:] and lines[0].endswith(":")
        else first_line(error)
    )


# OpenAI's package


def tokenizer() -> Any:
    """OpenAI's byte-pair tokenizer."""
    return openai_clip().clip._tokenizer


@functools.cache
def openai_clip() -> Any:
    """OpenAI's `clip` package, imported on first use.

    It imports torchvision, for image transforms that nothing here needs. A torchvision built for
    another torch (PyPI's beside a CPU build from pytorch.org, the usual pair on a free Space) has
    no compiled operators and fails on import while it describes two of them. Declaring those two,
    without a kernel, lets the import pass; where torchvision is sound nothing is declared.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            for op in ("nms", "qnms"):
                schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define(f"torchvision::{op}", schema)
        import clip

    return clip
