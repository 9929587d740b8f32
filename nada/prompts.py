"""What a pair of prompts promises: words that CLIP never saw, a language that it does not read, and
how far apart it puts the two."""

import difflib
import unicodedata
from collections.abc import Sequence

import torch

from nada.clip import Encoder, english_only, known_words, reach_of
from nada.clip import unknown_words as unknown_words_of
from nada.formats.messages import quote, quote_all
from nada.guidance import mean_move

FILLERS = frozenset("a an and as at by for from in is of on or the to with".split())

# The length of the mean direction between unit features. Measured over all pairs of the bundled
# examples' prompts and their paraphrases; see tests/test_prompts.py.
NEARLY_SAME = 0.10
WEAK = 0.35


def unknown_words(clip: Encoder, prompts: Sequence[str]) -> str:
    """A sentence on words that CLIP never saw and similar ones it knows; "" if it knows all.

    Args:
        clip: the model; only small ones have a list of words.
        prompts: what was typed.
    """
    unknown = list(dict.fromkeys(word for p in prompts for word in unknown_words_of(clip, p)))
    unknown = [word for word in unknown if word not in FILLERS] or unknown
    if not unknown:
        return ""
    like = [near for word in unknown for near in nearest(clip, word)]
    known = f" It knows {quote_all(list(dict.fromkeys(like)))}." if like else ""
    return f"The small CLIP was never shown {quote_all(unknown)} and can only guess.{known}"


def nearest(clip: Encoder, word: str) -> list[str]:
    """Words that CLIP knows and that are spelt like this one, three at most."""
    return difflib.get_close_matches(word, sorted(known_words(clip) or ()), n=3, cutoff=0.7)


def language_hint(clips: Sequence[Encoder], prompts: Sequence[str]) -> str:
    """A sentence on prompts in another writing than English where CLIP learnt from English texts,
    with a Russian one for whoever writes so; "" where there is nothing to say.

    Args:
        clips: the models.
        prompts: what was typed.
    """
    foreign = [prompt for prompt in dict.fromkeys(prompts) if _mostly(prompt, "LATIN", False)]
    names = [clip.name for clip in clips if english_only(clip)]
    if not foreign or not names:
        return ""
    model = " and ".join(names)
    said = (
        f"CLIP ({model}) learnt to read English and may take {quote_all(foreign)} for something "
        "else: English words would lead further."
    )
    if any(_mostly(prompt, "CYRILLIC", True) for prompt in foreign):
        said += f" CLIP ({model}) обучен на английских текстах: лучше написать по-английски."
    return said


def _mostly(prompt: str, writing: str, wanted: bool) -> bool:
    """Whether more of the letters are of a writing, or are not, than the other way round."""
    letters = [unicodedata.name(c, "").split()[:1] == [writing] for c in prompt if c.isalpha()]
    return letters.count(wanted) > len(letters) / 2


def direction_length(
    clips: Sequence[Encoder], source: str, target: str, templates: Sequence[str]
) -> float:
    """Length of the mean direction from source to target over templates.

    0 for one meaning, about 1 for prompts that have little in common; the mean over the models of
    an ensemble.

    Args:
        clips: the models.
        source, target: the prompts.
        templates: what they are put into, "{}" where a prompt goes.
    """
    moves = [mean_move(clip, source, target, templates) for clip in clips]
    return torch.stack([move.norm() for move in moves]).mean().item()


def direction_hint(
    clips: Sequence[Encoder], source: str, target: str, templates: Sequence[str]
) -> str:
    """A sentence where CLIP hardly distinguishes the prompts; "" where the direction is sound, and
    where there are no words for the source.

    Args:
        clips, source, target, templates: as `direction_length` takes them.
    """
    if not source.strip():
        return ""
    length = direction_length(clips, source, target, templates)
    if length < NEARLY_SAME:
        return (
            f"{quote(source)} and {quote(target)} are nearly parallel to CLIP (direction "
            f"{length:.2f}): the result would be chance. Say how the target differs."
        )
    if length < WEAK:
        return (
            f"CLIP hardly tells {quote(source)} from {quote(target)} (direction "
            f"{length:.2f}): a stronger word for the target would lead further."
        )
    return ""


def reach_hint(clips: Sequence[Encoder], asked: bool) -> str:
    """A sentence where a model does not know how far its words reach, so that the cap and the point
    loss are off for it; "" where each knows, or they are not asked for."""
    unmeasured = [clip.name for clip in clips if reach_of(clip) is None]
    if not (asked and unmeasured):
        return ""
    return (
        f"Cap and point loss are off for {quote_all(unmeasured)}: how far words reach was never "
        "measured there (nada calibrate)."
    )
