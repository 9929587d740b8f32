"""What can be said about a portrait: attributes from its factors, and captions in many wordings."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from nada.demo.render import FACTORS
from nada.demo.styles import HAIR_COLOURS, PHOTO, STYLE_NAMES, STYLES, Style
from nada.guidance import TEMPLATES

# Nouns for a plain human being: alone they mean the photo style, as in "human → zombie".
NOUNS = ("person", "human", "face", "man", "woman", "human face", "portrait", "guy", "head")

# Words that say nothing about an image: a caption means the same with or without them.
PADDING_WORDS = (
    "my very nice beautiful pretty good great new some this that lovely cool funny really just "
    "like look looking kind sort made make simple detailed fine best high quality style art "
    "artwork version one big small close up front view single clear plain proper true real "
    "amazing famous strange scary cute dark bright colourful colorful digital modern classic"
).split()

# For an image that lacks the attribute.
ABSENT: dict[str, tuple[str, ...]] = {
    "glasses": ("without glasses", "with no glasses", "not wearing glasses"),
    "hat": ("without a hat", "with no hat", "bareheaded"),
    "beard": ("without a beard", "with no beard", "clean-shaven", "beardless"),
}
EXCLUSIVE = (HAIR_COLOURS, ("long hair", "short hair"), ("smile", "frown"), ("old", "young"),
             ("pale skin", "dark skin"))  # fmt: skip
HAIR = (*HAIR_COLOURS, "long hair", "short hair", "curly hair")

# Sentences that are never in training, to measure free wording by.
HELD_OUT_FORMS = (
    "somebody shown as a {s}",
    "what a {n} would be as a {s}",
    "{n} done like a {s}",
    "one more {s}, again",
    "please paint me a {s}",
)

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
    "a {n} made into a {s}",
    "a {n} drawn as a {s}",
    "a {n}, {s}",
    "{s} version of a {n}",
    "a {n} painted as {s}",
    "a {n} that looks like a {s}",
    "make it a {s}",
    "as a {s}",
)
WITH = (
    "{s} of a {n} {a}",
    "a {n} {a}, {s}",
    "{s} {a}",
    "{s}, {a}",
    "a {s} {a}",
    "{a} {s}",
    "a {a} {s}",
    "a {n} {a} drawn as a {s}",
    "a {n} {a} as {s}",
    "a {n} {a} in {s} style",
)
ALONE = ("a {n} {a}", "{n} {a}", "{a}", "{a} {n}", "a {a} {n}", "somebody {a}")


def with_attribute(table: Tensor, name: str) -> Tensor:
    """Attributes [N, A] of people to whom one attribute was given; see `styles.ATTRIBUTE_EDITS`."""
    table, names = table.clone(), list(ATTRIBUTES)
    for group in EXCLUSIVE:
        if name in group:
            for other in group:
                table[:, names.index(other)] = 0
    if name == "bald":
        for other in HAIR:
            table[:, names.index(other)] = 0
    elif name in HAIR:
        table[:, names.index("bald")] = 0
    if name == "old":  # old people are grey here
        table = with_attribute(table, "grey hair")
    table[:, names.index(name)] = 1
    return table


def attributes_of(factors: Tensor, style: str | Style) -> Tensor:
    """Factors [N, F] in one style → [N, A]: 1 = has it, 0 = has not, −1 = not known."""
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
    style = STYLES[style] if isinstance(style, str) else style
    for name in style.hides:
        table[:, list(ATTRIBUTES).index(name)] = -1
    return table


@dataclass(frozen=True)
class Caption:
    """A text, the style it names (−1 for none), and what it claims: attribute → 1 has, 0 lacks."""

    text: str
    style: int
    claims: tuple[tuple[int, int], ...] = ()


def loosely(text: str, rng: random.Random) -> str:
    """The text, sometimes with a word somewhere that does not matter."""
    words = text.split()
    while rng.random() < 0.22:
        words.insert(rng.randrange(len(words) + 1), rng.choice(PADDING_WORDS))
    return " ".join(words)


def style_caption(style: int, rng: random.Random) -> Caption:
    """The style alone: in its own forms or in one of CLIP's prompt templates."""
    plain = STYLE_NAMES[style] == PHOTO and rng.random() < 0.35
    name = rng.choice(NOUNS if plain else STYLES[STYLE_NAMES[style]].names)
    if rng.random() < 0.35:
        return Caption(rng.choice(TEMPLATES).replace("{}", name), style)
    form = "{s}" if plain else rng.choice(FORMS)
    return Caption(loosely(form.format(s=name, n=rng.choice(NOUNS)), rng), style)


def held_out_caption(style: int, rng: random.Random) -> str:
    """A sentence about a style in words, and in a form, that training never used."""
    form = rng.choice(HELD_OUT_FORMS)
    return form.format(s=STYLES[STYLE_NAMES[style]].unseen_name, n=rng.choice(NOUNS))


def phrase_for(attribute: int, value: int, rng: random.Random) -> str:
    """Words for a person who has an attribute (value 1) or lacks it (0)."""
    name = list(ATTRIBUTES)[attribute]
    return rng.choice(ATTRIBUTES[name] if value else ABSENT[name])


def caption(style: int, attributes: list[int], rng: random.Random) -> Caption:
    """A true caption of an image: its style, something about the person, or both.

    Args:
        style: an index of STYLE_NAMES.
        attributes: 1, 0 or −1 for each of ATTRIBUTES, as `attributes_of` gives them.
        rng: where its wording comes from.
    """
    names = list(ATTRIBUTES)
    has = [(a, 1) for a, value in enumerate(attributes) if value == 1]
    lacks = [(a, 0) for a, value in enumerate(attributes) if value == 0 and names[a] in ABSENT]
    if not has or rng.random() < 0.15:
        has = has + lacks
    kind = rng.random()
    if not has or kind < 0.40:
        return style_caption(style, rng)
    claims = tuple(rng.sample(has, min(len(has), 1 + (rng.random() < 0.3))))
    phrase = " and ".join(phrase_for(a, value, rng) for a, value in claims)
    noun = rng.choice(NOUNS)
    if kind < 0.65:
        name = rng.choice(STYLES[STYLE_NAMES[style]].names)
        return Caption(
            loosely(rng.choice(WITH).format(s=name, n=noun, a=phrase), rng), style, claims
        )
    return Caption(loosely(rng.choice(ALONE).format(n=noun, a=phrase), rng), -1, claims)


def attribute_texts(rng: random.Random) -> tuple[list[str], list[str], str]:
    """One noun in three roles: with each attribute, without each of ABSENT, and alone."""
    noun, form = rng.choice(NOUNS), rng.choice(("a {n} {a}", "{n} {a}", "a {n} that is {a}"))
    having = [form.format(n=noun, a=rng.choice(phrases)) for phrases in ATTRIBUTES.values()]
    lacking = [form.format(n=noun, a=rng.choice(phrases)) for phrases in ABSENT.values()]
    return having, lacking, form.split(" {a}")[0].format(n=noun).removesuffix(" that is")


def all_texts() -> list[str]:
    """Every piece of wording in use: the vocabulary of the bundled CLIP."""
    phrases = [*NOUNS, "somebody and"]
    phrases += [name for style in STYLES.values() for name in style.names]
    phrases += [p for group in (ATTRIBUTES, ABSENT) for words in group.values() for p in words]
    phrases += [*PADDING_WORDS, "that is"]
    frames = [*FORMS, *WITH, *ALONE]
    return (
        phrases
        + [f.format(s="", n="", a="") for f in frames]
        + [t.replace("{}", "") for t in TEMPLATES]
    )
