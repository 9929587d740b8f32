"""The weights of a CLIP in a file, whichever program wrote it, and what they leave open.

OpenAI's and open_clip's models of one size have the same names and shapes, but other activations,
and some of them other heads: no tensor says which. Who wrote the file does, where that shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nada.formats.contents import is_safetensors, lazy_safetensors
from nada.formats.files import refuse_stand_ins
from nada.formats.messages import brief, quote
from nada.formats.pickles import ForeignObject, reading_pickle
from nada.formats.search import list_tensors
from nada.formats.slices import LazyTensor

ANCHOR = "logit_scale"  # every CLIP has one; what stands before it stands before all its names
SCALARS = {"input_resolution", "context_length", "vocab_size"}  # in OpenAI's files; shapes tell
OPENAIS_ARCHIVES = ("__torch__.multimodal.", "__torch__.clip.")  # classes in TorchScript
OPENAI, TRANSFORMERS, OPEN_CLIP = "OpenAI's", "transformers'", "open_clip's"


@dataclass(frozen=True)
class Weights:
    """What a file holds of a CLIP.

    Args:
        state: the state dict, in float32 where it is of real numbers.
        spelling: whose names it has: OPENAI (open_clip has the same for many of its models),
            TRANSFORMERS, OPEN_CLIP.
        by_openai: whether it was surely written by OpenAI's program or by `save_clip`, so that
            shapes tell the rest.
        words: what a small model was trained on; None for a large one.
    """

    state: dict[str, Tensor]
    spelling: str
    by_openai: bool
    words: frozenset[str] | None = None


def read_weights(path: Path) -> Weights:
    """The weights in a file; nothing in it is run, and no more is read than it has bytes.

    Raises:
        ValueError: it holds no CLIP, or is damaged.
    """
    refuse_stand_ins(path)
    if is_safetensors(path):
        tensors, metadata = lazy_safetensors(path)
        if "words" in metadata:
            return _weights(tensors, True, frozenset(metadata["words"].split()))
        return _weights(tensors, False, None)
    with reading_pickle(path) as contents:
        tensors = list_tensors(contents).tensors
        own = isinstance(contents, ForeignObject) and contents.name.startswith(OPENAIS_ARCHIVES)
        taken = _taken(tensors)
        claimed, there = sum(value.nbytes for value in taken.values()), path.stat().st_size
        if claimed > there:
            raise ValueError(f"its tensors claim {claimed} bytes, and the whole file has {there}")
        return _weights(tensors, own, None)


def _weights(
    tensors: Mapping[str, LazyTensor], by_openai: bool, words: frozenset[str] | None
) -> Weights:
    taken = _taken(tensors)
    state = {
        name: copied(value.read())
        for name, value in taken.items()
        if name not in SCALARS and not name.endswith("attn_mask")  # the one that is no weight
    }
    return Weights(
        state,
        _spelling(taken),
        by_openai or "input_resolution" in taken or "token_embedding.ids" in taken,
        words,
    )


def _taken(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors of the model that lies in a file, by their names without what stands before."""
    before = sorted(
        {name.removesuffix(ANCHOR) for name in tensors if f".{name}".endswith(f".{ANCHOR}")}
    )
    if not before:
        some = ", ".join(map(brief, list(tensors)[:3])) or "no tensors"
        raise ValueError(f"it holds no CLIP model, which has a {ANCHOR!r}, but {some}")
    if len(before) > 1:
        both = " and ".join(quote(prefix.rstrip(".") or "the whole") for prefix in before[:2])
        raise ValueError(f"it holds several CLIP models, {both}: save the state dict of one alone")
    prefix = before[0]
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _spelling(names: Mapping[str, object]) -> str:
    if any(name.startswith(("text_model.", "vision_model.")) for name in names):
        return TRANSFORMERS
    custom = any(name.startswith(("text.", "visual.trunk.")) for name in names)
    return OPEN_CLIP if custom else OPENAI


def copied(tensor: Tensor) -> Tensor:
    """The tensor out of its file, in float32 if it is of real numbers."""
    return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
