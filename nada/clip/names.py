"""What people type for a CLIP model, and what it means."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

BUNDLED = {"demo": "clip-resnet.safetensors", "demo-vit": "clip-vit.safetensors"}
FILES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".jit")
HUB = "hf-hub:"
# What spellings of one of OpenAI's models differ in, once only letters and digits are left of them
SPELT = (
    ("openai", ""),  # "openai/clip-vit-base-patch32", "ViT-B-32:openai"
    ("clip", ""),
    ("quickgelu", ""),  # "ViT-B-32-quickgelu", which OpenAI's all are
    ("patch", ""),
    ("base", "b"),
    ("large", "l"),
    ("resnet", "rn"),
    ("336px", "336"),
)


def folded(name: str) -> str:
    """A name without what people leave out or add: "ViT-B/32" → "vitb32"."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def openai_name(name: str, models: Iterable[str]) -> str | None:
    """Which of OpenAI's models a name stands for, however it is spelt; None for none."""
    before, _, after = name.partition(":")
    others = after and "openai" not in map(folded, (before, after))  # weights, or a file
    if others or name.startswith((".", "/", "~")):
        return None
    return {_canonical(model): model for model in models}.get(_canonical(name))


def _canonical(name: str) -> str:
    name = folded(name)
    for spelt, plain in SPELT:
        name = name.replace(spelt, plain)
    return name


def split_names(spec: str) -> list[str]:
    """The models of an ensemble: "ViT-B/32+ViT-B/16" or "ViT-B/32, ViT-B/16".

    A file may have a "+" or a comma in its name, but only where it is the one model.
    """
    spec = spec.strip()
    before, _, file = spec.partition(":")
    if os.path.exists(spec) or (not set(before) & set("+,") and os.path.exists(file)):
        return [spec]
    return [name.strip() for name in re.split(r"[+,]", spec)]


@dataclass(frozen=True)
class OpenClipName:
    """A model of open_clip as its users call it.

    Args:
        architecture: by open_clip's name, spelt as open_clip spells it.
        tag: which weights; None for none in particular.
        file: which file they are in; None for the one that the tag stands for.
    """

    architecture: str
    tag: str | None = None
    file: Path | None = None

    def __str__(self) -> str:
        parts = (self.architecture, self.tag, self.file and self.file.name)
        return ":".join(part for part in parts if part)


def open_clip_name(spec: str, tags: Mapping[str, Iterable[str]]) -> OpenClipName | None:
    """What "ViT-B-32:laion2b_s34b_b79k", "ViT-H-14:file.pt", "open_clip:ViT-B-32/laion2b_e16" or
    "ViT-L-14:datacomp_xl_s13b_b90k:file.pt" means; None if it begins with no architecture.

    Args:
        spec: what was typed.
        tags: architecture → its weights, of open_clip.
    """
    known = {folded(name): name for name in tags}
    words = re.sub(r"^open_?clip[:/]", "", spec, flags=re.IGNORECASE).split(":")
    path = len(words) > 1 and (os.path.exists(words[-1]) or words[-1].lower().endswith(FILES))
    file = Path(words.pop()).expanduser() if path else None
    parts = [part for word in words for part in word.split("/")]
    for count in range(len(parts), 0, -1):
        architecture = known.get(folded("/".join(parts[:count])))
        if architecture and len(parts) - count <= 1:
            wanted = "".join(parts[count:])
            own = {folded(tag): tag for tag in tags[architecture]}
            return OpenClipName(architecture, own.get(folded(wanted), wanted) or None, file)
    return None


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Names spelt like this one, three at most, the nearest first."""
    known = {folded(other): other for other in names}
    close = difflib.get_close_matches(folded(name)[:80], known, n=3, cutoff=0.6)
    return [known[key] for key in close]
