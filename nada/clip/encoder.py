"""What this project asks of a CLIP, and what all CLIPs share: preprocessing, checks of prompts."""

import unicodedata
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.formats.messages import quote

MAX_CHARACTERS = 1000  # 77 tokens hold fewer; a longer "word" would keep the tokenizer busy

# Channel statistics of CLIP's training images, in [0, 1] (Radford et al. 2021, released code).
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

TOKEN_LAYER = 3  # whose tokens say how patches look, before much meaning is in them (DiFa)


class PromptError(ValueError):
    """A prompt that CLIP cannot read; the message is a sentence for the person who typed it."""


class Unclear(ValueError):
    """A file that fits several models; the message says what it leaves open and how to say it."""


@runtime_checkable
class Encoder(Protocol):
    """What guidance, metrics and measurements ask of a CLIP; another encoder has to fulfil it.

    `CLIP` and `OpenCLIP` do, and so does anything that puts images and texts into one space: to
    train with it, give it to `text_direction` and the losses. What it may say beside this, and
    what is taken for granted if it does not, say `known_words`, `english_only` and `reach_of`.
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


def known_words(clip: Encoder) -> frozenset[str] | None:
    """The words that a small CLIP was trained on, its `words`; None where it has no such list and
    knows language at large."""
    return getattr(clip, "words", None)


def unknown_words(clip: Encoder, prompt: str) -> list[str]:
    """Words of the prompt that a small CLIP never saw; [] where it knows language at large."""
    return [] if known_words(clip) is None else clip.unknown_words(prompt)  # type: ignore[attr-defined]


def english_only(clip: Encoder) -> bool:
    """Whether it learnt language at large, but from English texts: its `english`, or False."""
    return known_words(clip) is None and getattr(clip, "english", False)


def reach_of(clip: Encoder) -> float | None:
    """How far images of a domain lie from those of the source, along the text direction and as a
    share of its length: its `reach` (`nada.clip.reach`); None where nobody has measured that."""
    return getattr(clip, "reach", None)


def has_tokens(clip: Encoder) -> bool:
    """Whether it also tells how patches of an image look, by `encode_image_and_tokens`."""
    return getattr(clip, "has_tokens", False)


@dataclass(frozen=True)
class Preprocessing:
    """How images are made ready for an image tower.

    Args:
        mean, std: of each channel, in [0, 1].
        mode: of `torch.nn.functional.interpolate`, "bicubic" or "bilinear".
        crop: whether the centre of long images is taken; else they are squeezed to a square.

    Raises:
        ValueError: mean and std are not three usable numbers each.
    """

    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    mode: str = "bicubic"
    crop: bool = True

    def __post_init__(self) -> None:
        numbers = [x for x in (*self.mean, *self.std) if isinstance(x, int | float) and x < 1e3]
        if not len(self.mean) == len(self.std) == 3 == len(numbers) / 2 or min(self.std) <= 0:
            raise ValueError(
                "the mean and the deviation of its images should be three numbers each"
            )


class ClipModule(nn.Module, ABC):
    """An image and a text tower as an `Encoder`; how they read a prompt, subclasses say.

    Args:
        model: the towers in float32, used as they are.
        name: what to call it in messages.
        preprocessing: of images.

    Attributes:
        file: where its weights came from, None if from no file.
        reach: as `reach_of` has it.
    """

    model: Any  # the packages have no types
    file: Path | None = None
    reach: float | None = None
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, name: str, preprocessing: Preprocessing):
        super().__init__()
        self.model, self.name, self.preprocessing = model, name, preprocessing
        for key in ("mean", "std"):
            value = torch.tensor(getattr(preprocessing, key)).view(1, 3, 1, 1)
            self.register_buffer(key, value, persistent=False)

    @property
    @abstractmethod
    def resolution(self) -> int:
        """Side in pixels of the square images that the image tower takes."""

    @abstractmethod
    def encode_text(self, prompts: list[str]) -> Tensor:
        """Unit features [N, D] of N prompts."""

    @abstractmethod
    def check_prompt(self, prompt: str) -> object:
        """Raise a PromptError for a prompt that it cannot read."""

    def preprocess(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] → [N, 3, resolution, resolution], normalised; differentiable."""
        how = self.preprocessing
        images = (resize(images, self.resolution, how.mode, how.crop) + 1) / 2
        return (images - self.mean) / self.std

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit features [N, D] of images [N, 3, H, W] in [-1, 1] (not clamped)."""
        return F.normalize(self.model.encode_image(self.preprocess(images)).float(), dim=-1)

    @property
    def has_tokens(self) -> bool:
        """Whether the image tower is a transformer of TOKEN_LAYER blocks or more."""
        return self._token_block is not None

    @property
    def _token_block(self) -> nn.Module | None:
        transformer = getattr(self.model.visual, "transformer", None)
        blocks = getattr(transformer, "resblocks", ())
        return blocks[TOKEN_LAYER - 1] if len(blocks) >= TOKEN_LAYER else None

    def encode_image_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `encode_image` gives, and unit tokens [N, L, W] of the patches after TOKEN_LAYER
        blocks; a tower that `has_tokens`, once for both."""
        block, seen = self._token_block, []
        assert block is not None
        handle = block.register_forward_hook(lambda *called: seen.append(called[-1]))
        try:
            features = self.encode_image(images)
        finally:
            handle.remove()
        tokens = seen[0]
        if not getattr(self.model.visual.transformer, "batch_first", False):
            tokens = tokens.transpose(0, 1)
        return features, F.normalize(tokens[:, 1:].float(), dim=-1)  # the first is no patch's


def resize(images: Tensor, side: int, mode: str = "bicubic", crop: bool = True) -> Tensor:
    """[N, 3, H, W] → float32 [N, 3, side, side], antialiased.

    Values keep their scale and are not clamped; differentiable; nothing is done at the right size.

    Args:
        images: of any size and floating-point type.
        side: of the result, in pixels.
        mode: "bicubic" or "bilinear".
        crop: take the centre of long images; else squeeze them.
    """
    images, (height, width) = images.float(), images.shape[-2:]
    scale = side / min(height, width)
    size = (round(height * scale), round(width * scale)) if crop else (side, side)
    if size != (height, width):
        images = F.interpolate(images, size, mode=mode, align_corners=False, antialias=True)
    top, left = ((length - side) // 2 for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


# Prompts


def check_text(prompt: str) -> None:
    """Refuse what no CLIP can read.

    Raises:
        PromptError: it is empty, much too long, no text, or holds half a character.
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
    if not any(unicodedata.category(c)[0] in "LNPS" for c in prompt):
        raise nothing_to_read()


def nothing_to_read() -> PromptError:
    """For a prompt of which no token is left."""
    return PromptError("The prompt is empty: describe the picture in a few words.")


def too_long(prompt: str, tokens: int, room: int, name: str) -> PromptError:
    """For a prompt of more tokens than a model reads."""
    return PromptError(
        f"The prompt {quote(prompt)} takes {tokens} tokens with the words around it, and CLIP "
        f"model {name} reads {room}: shorten it."
    )
