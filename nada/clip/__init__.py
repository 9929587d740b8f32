"""CLIP: images and prompts as unit vectors in one space.

What guidance asks of a model is `Encoder`. OpenAI's models and the bundled ones are a `CLIP`, those
of open_clip an `OpenCLIP`; `load_clip` finds out which a name or a file means.
"""

from nada.clip.encoder import (
    ClipModule,
    Encoder,
    PromptError,
    Unclear,
    check_text,
    english_only,
    has_tokens,
    known_words,
    reach_of,
    resize,
    unknown_words,
)
from nada.clip.imports import openai_clip
from nada.clip.load import bundled_path, load_clip, load_clips
from nada.clip.names import BUNDLED, split_names
from nada.clip.open_clip import OpenCLIP
from nada.clip.openai import CLIP, END, START, save_clip, tokenizer

__all__ = [
    "BUNDLED",
    "CLIP",
    "END",
    "START",
    "ClipModule",
    "Encoder",
    "OpenCLIP",
    "PromptError",
    "Unclear",
    "bundled_path",
    "check_text",
    "english_only",
    "has_tokens",
    "known_words",
    "load_clip",
    "load_clips",
    "openai_clip",
    "reach_of",
    "resize",
    "save_clip",
    "split_names",
    "tokenizer",
    "unknown_words",
]
