"""OpenAI's architecture: their models, the bundled ones, and the compact files of the latter.

Architecture, tokenizer and the large weights are those of OpenAI's `clip` package; this module adds
what adaptation needs around them: prompts of any kind answered by a vector or by a sentence, and
the compact file format of the bundled models.
"""

import string
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.clip.encoder import (
    ClipModule,
    Preprocessing,
    check_text,
    nothing_to_read,
    too_long,
)
from nada.clip.imports import openai_clip
from nada.formats.files import check_finite, write_safetensors

VOCABULARY = 49408
START, END = VOCABULARY - 2, VOCABULARY - 1  # the marker tokens around every prompt
LARGEST = 4096  # width and context length of the text tower; OpenAI's have 1024 and 77 at most


class CLIP(ClipModule):
    """Image and text features of one CLIP model, OpenAI's or a bundled one.

    Args:
        model: a `clip.model.CLIP` in float32, used as it is (`load_clip` freezes it, training may
            not).
        name: what to call it in messages.
        words: the words it was trained on, or None when it knows natural language at large.
        preprocessing: of images; OpenAI's by default.
    """

    english = True

    def __init__(
        self,
        model: nn.Module,
        name: str = "clip",
        words: frozenset[str] | None = None,
        preprocessing: Preprocessing | None = None,
    ):
        super().__init__(model, name, preprocessing or Preprocessing())
        self.words = words

    @property
    def resolution(self) -> int:
        """Side in pixels of the square images that the image tower takes."""
        return self.model.visual.input_resolution

    @property
    def context_length(self) -> int:
        """Most tokens in a prompt, the start and end markers included."""
        return self.model.positional_embedding.shape[0]

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
        check_text(prompt)
        # Marker strings typed by a user come back as marker tokens and would end the prompt early.
        ids = [token for token in tokenizer().encode(prompt) if token < START]
        if not ids:
            raise nothing_to_read()
        room = self.context_length - 2
        if len(ids) > room:
            raise too_long(prompt, len(ids), room, self.name)
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


def clean(prompt: str) -> str:
    """The prompt as the tokenizer sees it: repaired Unicode, single spaces, lower case."""
    module = openai_clip().simple_tokenizer
    return module.whitespace_clean(module.basic_clean(prompt)).lower()


# Weights


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


# OpenAI's package


def tokenizer() -> Any:
    """OpenAI's byte-pair tokenizer."""
    return openai_clip().clip._tokenizer
