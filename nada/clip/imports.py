"""Packages that are imported on first use, so that `import nada` stays cheap: clip and open_clip.

Both import torchvision, for image transforms that nothing here needs. A torchvision built for
another torch (PyPI's beside a CPU build from pytorch.org, the usual pair on a free Space) has no
compiled operators and fails on import while it describes two of them. Declaring those two, without
a kernel, lets the import pass; where torchvision is sound nothing is declared.
"""

import functools
import importlib
import importlib.util
import warnings
from typing import Any

import torch

PACKAGE = "pip install open_clip_torch"
TRANSFORMERS = "pip install transformers sentencepiece"


class NotInstalled(ValueError):
    """A package that is optional and not here; the message says how to get it."""


def _import_torchvision() -> None:
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for op in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{op}", schema)


@functools.cache
def openai_clip() -> Any:
    """OpenAI's `clip` package."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        _import_torchvision()
        import clip

    return clip


def has_open_clip() -> bool:
    """Whether the optional package open_clip is installed."""
    return importlib.util.find_spec("open_clip") is not None


def need_transformers() -> None:
    """Refuse what some of open_clip's models need, for their text towers or tokenizers.

    Raises:
        NotInstalled: it is not here.
    """
    if importlib.util.find_spec("transformers") is None:
        raise NotInstalled(f"This CLIP model needs the package transformers: `{TRANSFORMERS}`.")


@functools.cache
def open_clip() -> Any:
    """The package open_clip, whose image towers from timm need torchvision too.

    Raises:
        NotInstalled: it is not here.
    """
    _import_torchvision()
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise NotInstalled(f"This CLIP model needs the package open_clip: `{PACKAGE}`.") from error
