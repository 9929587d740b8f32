"""What can be said about a portrait: attributes from its factors, and captions in many wordings."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from nada.demo.render import FACTORS
from nada.demo.styles import STYLES
from nada.guidance import TEMPLATES

STYLE_NAMES = tuple(STYLES)

# Styles in which the colours of hair and skin are still the person's own.
TRUE_COLOURS = {"photo", "cartoon", "watercolor", "oil painting", "pixel art", "mosaic", "pixar"}
NO_BEARD = {"robot", "elf", "cat"}
WIGS = {"anime", "clown", "joker", "zombie", "vampire", "white walker", "old person", "ogre"}

# Nouns for a plain human being: alone they mean the photo style, as in "human → zombie".
NOUNS = ("person", "human", "face", "man", "woman", "human face", "portrait", "guy", "head")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "glasses": ("with glasses", "wearing glasses", "with eyeglasses", "in spectacles"),
    "hat": ("with a hat", "wearing a hat", "in a beanie", "with a cap"),
    "beard": ("with a beard", "bearded", "with facial hair"),
    "smile": ("smiling", "with a smile", "happy", "cheerful"),
    "frown": ("frowning", "sad", "unhappy", "grumpy"),
    "bald": ("bald", "without hair", "with a bald head"),
    "curly hair": ("with curly hair", "with curls", "with wavy hair"),
    "long hair": ("with long hair", "long-haired"),
    "short hair": ("with short hair", "short-haired"),
    "blond hair": ("with blond hair", "blond", "blonde", "with yellow hair"),
    "black hair": ("with black hair", "black-haired", "with dark hair"),
    "brown hair": ("with brown hair", "brown-haired", "brunette"),
    "red hair": ("with red hair", "redhead", "ginger"),
    "grey hair": ("with grey hair", "with gray hair", "with white hair"),
    "old": ("old", "elderly", "wrinkled", "aged"),
    "young": ("young", "youthful"),
    "pale skin": ("with pale skin", "with light skin", "fair-skinned"),
    "dark skin": ("with dark skin", "dark-skinned"),
}

FORMS = (
    "{s}",
    "{s}",
    "a {s}",
    "a {s} of a {n}",
    "{s} of a {n}",
    "{s} style",
    "a {n} in {s} style",
    "{n} as {s}",
    "a {n} as a {s}",
    "{s} {n}",
    "a {s} {n}",
    "the {s}",
    "portrait in the style of {s}",
    "a {n} in the style of a {s}",
    "a {n} turned into a {s}",
    "an image of a {s}",
    "this is a {s}",
)
WITH = (
    "{s} of a {n} {a}",
    "a {n} {a}, {s}",
    "{s} {a}",
    "{s}, {a}",
    "a {s} {a}",
    "{a} {s}",
    "a {a} {s}",
)
ALONE = ("a {n} {a}", "{n} {a}", "{a}", "{a} {n}", "a {a} {n}", "somebody {a}")


def attributes_of(factors: Tensor, style: str) -> Tensor:
    """Factors [N, F] in one style → [N, A]: 1 = has it, 0 = has not, −1 = cannot be told."""
    u = {name: factors[:, i] for i, name in enumerate(FACTORS)}

    def known(true: Tensor, false: Tensor) -> Tensor:
        return torch.where(true, 1, torch.where(false, 0, -1))

    def both(a: Tensor, b: Tensor) -> Tensor:
        return torch.where((a == 1) & (b == 1), 1, torch.where((a == 0) | (b == 0), 0, -1))

    bald = known(u["thinning"] > 0.91, u["thinning"] < 0.88)
    haired = torch.where(bald >= 0, 1 - bald, -1)
    grey = known(u["age"] > 0.87, u["age"] < 0.80)
    own = both(haired, torch.where(grey >= 0, 1 - grey, -1))
    colour = u["hair_colour"] * 5  # steps of the palette: 0 1 2 3 4 5

    def hair(low: float, high: float) -> Tensor:
        inside = (colour > low) & (colour < high)
        outside = (colour < low - 0.45) | (colour > high + 0.45)
        return both(own, known(inside, outside))

    length = u["hair_length"]
    truth = {
        "glasses": known(u["glasses"] > 0.71, u["glasses"] < 0.67),
        "hat": known(u["hat"] > 0.78, u["hat"] < 0.75),
        "beard": known(u["beard"] > 0.73, (u["beard"] < 0.67) & (u["moustache"] < 0.75)),
        "smile": known(u["smile"] > 0.72, u["smile"] < 0.50),
        "frown": known(u["smile"] < 0.22, u["smile"] > 0.45),
        "bald": bald,
        "curly hair": both(haired, known(u["curl"] > 0.75, u["curl"] < 0.50)),
        "long hair": both(haired, known(length > 0.65, length < 0.45)),
        "short hair": both(haired, known(length < 0.35, length > 0.55)),
        "blond hair": hair(3.6, 5.1),
        "black hair": hair(-0.1, 0.7),
        "brown hair": hair(1.1, 2.3),
        "red hair": hair(2.75, 3.25),
        "grey hair": both(haired, grey),
        "old": known(u["age"] > 0.83, u["age"] < 0.70),
        "young": known(u["age"] < 0.55, u["age"] > 0.68),
        "pale skin": known(u["skin_tone"] < 0.40, u["skin_tone"] > 0.60),
        "dark skin": known(u["skin_tone"] > 0.68, u["skin_tone"] < 0.50),
    }
    table = torch.stack([truth[name] for name in ATTRIBUTES], 1)
    hidden = set()
    if style not in TRUE_COLOURS:
        hidden |= {
            "blond hair",
            "black hair",
            "brown hair",
            "red hair",
            "grey hair",
            "pale skin",
            "dark skin",
        }
    if style in NO_BEARD:
        hidden |= {"beard"}
    if style in WIGS:
        hidden |= {"curly hair", "old", "young", "bald"}
    if style == "old person":
        hidden |= {"old", "young"}
    if style in {"mosaic", "pixel art", "clown", "joker"}:
        hidden |= {"smile", "frown"}
    for name in hidden:
        table[:, list(ATTRIBUTES).index(name)] = -1
    return table


@dataclass(frozen=True)
class Caption:
    """A text, the style it names (−1 for none) and the attributes it claims."""

    text: str
    style: int
    attributes: tuple[int, ...] = ()


def style_caption(style: int, rng: random.Random) -> Caption:
    """The style alone: in its own forms or in one of CLIP's prompt templates."""
    plain = STYLE_NAMES[style] == "photo" and rng.random() < 0.35
    name = rng.choice(NOUNS if plain else STYLES[STYLE_NAMES[style]].names)
    if rng.random() < 0.35:
        return Caption(rng.choice(TEMPLATES).replace("{}", name), style)
    form = "{s}" if plain else rng.choice(FORMS)
    return Caption(form.format(s=name, n=rng.choice(NOUNS)), style)


def caption(style: int, attributes: list[int], rng: random.Random) -> Caption:
    """A true caption of a picture: its style, an attribute that it has, or both."""
    kind = rng.random()
    if not attributes or kind < 0.45:
        return style_caption(style, rng)
    chosen = tuple(rng.sample(attributes, min(len(attributes), 1 + (rng.random() < 0.25))))
    said = " and ".join(rng.choice(ATTRIBUTES[list(ATTRIBUTES)[a]]) for a in chosen)
    noun = rng.choice(NOUNS)
    if kind < 0.70:
        name = rng.choice(STYLES[STYLE_NAMES[style]].names)
        return Caption(rng.choice(WITH).format(s=name, n=noun, a=said), style, chosen)
    return Caption(rng.choice(ALONE).format(n=noun, a=said), -1, chosen)


def all_texts() -> list[str]:
    """Every piece of wording in use: the vocabulary of the bundled CLIP."""
    phrases = [*NOUNS, "somebody and"]
    phrases += [name for style in STYLES.values() for name in style.names]
    phrases += [p for group in ATTRIBUTES.values() for p in group]
    frames = [*FORMS, *WITH, *ALONE]
    return (
        phrases
        + [f.format(s="", n="", a="") for f in frames]
        + [t.replace("{}", "") for t in TEMPLATES]
    )
