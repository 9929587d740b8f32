"""What a run, a domain and pictures look like: JSON, data URLs and images for any page.

What visitors typed goes out as JSON that scripts show as text, or escaped.
"""

import base64
import html
import io
import json
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nada.presets import SERVED
from nada.sample import image_grid, to_images
from nada.serve.jobs import TrainingRun
from nada.serve.sessions import Kept
from nada.serve.validate import SPOKEN
from nada.serve.worker import Download
from nada.settings import Setting

PICTURE = 880  # pixels, about how wide a page shows a grid
LARGE, SMALL = 384, 96  # sides in pixels of a picture alone and of one on a card
PAGE = Path(__file__).with_name("page")
UNFORESEEN = (
    "Something went wrong that should not have (error {} in the server's log). "
    "Try again, or with other settings."
)


@cache
def texts(name: str = "texts") -> dict[str, dict[str, str]]:
    """Language → key → words: of the page, or of its own "components".

    The English words of settings are their own; a language that lacks some shows those.
    """
    words = json.loads((PAGE / f"{name}.json").read_text(encoding="utf-8"))
    if name != "texts":
        return words
    own = {key: text for name, known in SERVED.items() for key, text in _words_of(name, known)}
    return {language: {**own, **told} for language, told in words.items()}


def _words_of(name: str, known: Setting) -> list[tuple[str, str]]:
    return [(name, known.label), (f"{name}_info", known.help)]


def asset(file: str) -> str:
    """A template or a script of the page."""
    return (PAGE / file).read_text(encoding="utf-8")


# Pictures


def draw(pictures: Tensor, columns: int) -> Image.Image:
    """[N, 3, H, W] in [-1, 1] as one picture about PICTURE pixels wide."""
    scale = round(PICTURE / (columns * pictures.shape[-1]))
    if scale > 1:  # small ones one by one: smooth inside, sharp where two meet
        pictures = F.interpolate(pictures, scale_factor=scale, mode="bicubic")
    grid = image_grid(pictures, columns)
    if grid.width > PICTURE * 1.5:
        grid = grid.resize((PICTURE, round(grid.height * PICTURE / grid.width)), reducing_gap=2.0)
    return grid


def columns_for(count: int) -> int:
    """Columns of a grid that is a little wider than high."""
    return next((n for n in (4, 5, 6) if count <= 2 * n), 6) if count > 4 else count


def data_urls(pictures: Tensor | None, side: int = LARGE) -> list[str] | None:
    """Pictures [N, 3, H, W] in [-1, 1] as N JPEG data URLs of `side` pixels; None for None."""
    if pictures is None:
        return None
    return [_data_url(image, side) for image in to_images(pictures)]


def _data_url(image: Image.Image, side: int) -> str:
    buffer = io.BytesIO()
    if image.width != side:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def pairs(seeds: Sequence[int], before: Tensor | None, after: Tensor | None) -> str:
    """JSON for the page's pairs: seeds, and pictures as data URLs, null for those it has."""
    urls = {"before": data_urls(before), "after": data_urls(after)}
    return json.dumps({"seeds": list(seeds), **urls})


# A run


def status(run: TrainingRun, state: str, hints: Sequence[str] = ()) -> dict:
    """What `/adapt` tells scripts of a run, and `chart` people.

    state: that of the run, read once for all that is told, since it changes at any moment.
    """
    progress, steps = run.progress, run.job.preset.config.steps
    return {
        "state": state,
        "step": progress.step if progress else 0,
        "steps": steps,
        "seconds": round(progress.seconds if progress else time.monotonic() - run.born, 2),
        "eta": round(progress.eta, 2) if progress and state == "running" else None,
        "loss": progress.loss if progress else None,
        "terms": dict(progress.terms) if progress else {},
        "layers": list(progress.layers) if progress else [],
        "message": message(run, state),
        "hints": [hint for hint in (run.plan, *hints) if hint],
    }


def message(run: TrainingRun, state: str) -> str:
    """How a run stands, in a sentence."""
    step, steps = (run.progress.step if run.progress else 0), run.job.preset.config.steps
    kept = "the domain file holds what was trained" if step else "nothing has changed"
    return {
        "starting": "Getting ready.",
        "running": f"Training: step {step} of {steps}.",
        "finished": f"Done: {steps} steps. The domain file is yours to keep.",
        "stopped": f"Stopped after {step} of {steps} steps; {kept}.",
        "failed": f"{reason(run)}Failed after {step} of {steps} steps; {kept}.",
    }[state]


def reason(run: TrainingRun) -> str:
    """Why a run failed, "" where that is no sentence for visitors."""
    return f"{run.error} " if isinstance(run.error, SPOKEN) else ""


def chart(run: TrainingRun, state: str, hints: Sequence[str] = ()) -> str:
    """JSON for the page's account of a run: its status and its losses, one per step."""
    told = status(run, state, hints) | {"losses": list(run.losses), "reason": reason(run).strip()}
    return json.dumps(told)


def hint_list(hints: Sequence[str]) -> str:
    """Hints as HTML, "" for none."""
    return "".join(f'<p class="hint">{html.escape(hint)}</p>' for hint in hints)


def word_list(words: Sequence[str]) -> str:
    """All words that CLIP knows as folded HTML, "" for none."""
    if not words:
        return ""
    told = html.escape(", ".join(words))
    return f'<details class="words"><summary>It knows {len(words)} words</summary>{told}</details>'


def loading(download: Download | None) -> str:
    """What is awaited as HTML: a download with its bar, or models that load."""
    text = html.escape(str(download or "Loading the models."))
    if not download or not download.total:
        return f'<p class="facts">{text}</p>'
    share = f"{100 * download.done / download.total:.0f}"
    bar = f'<div class="bar" role="progressbar" aria-label="{text}" aria-valuenow="{share}">'
    return f'<p class="facts">{text}</p>{bar}<div style="width:{share}%"></div></div>'


def refusal(error: Exception) -> str:
    """An error's sentence as HTML that stays."""
    return f'<p class="hint" role="alert">{html.escape(str(error))}</p>'


# Kept domains


def cards(kept: Sequence[Kept], open_paths: Sequence[Path]) -> str:
    """JSON for the page's cards, the newest first: texts to be shown as text, pictures as URLs."""
    return json.dumps([_card(entry, entry.path in open_paths) for entry in reversed(kept)])


def _card(entry: Kept, is_open: bool) -> dict:
    facts = entry.facts
    config = facts.get("config") if isinstance(facts.get("config"), dict) else {}
    layers = facts.get("layers") if isinstance(facts.get("layers"), list) else []
    lines = {
        "prompts": f"{facts['source']} → {facts['target']}" if "source" in facts else entry.title,
        "seed": config.get("seed"),
        "steps": facts.get("steps_done"),
        "settings": _settings(facts, config),
        "loss": _number(facts.get("loss")),
        "quality": _number(facts.get("quality")),
        "diversity": _number(facts.get("diversity")),
        "layers": ", ".join(map(str, layers)) or None,
        "base": entry.base_fingerprint[:12],
    }
    told = {name: str(value)[:200] for name, value in lines.items() if value is not None}
    return {"id": entry.id, "title": entry.title, "open": is_open, "facts": told,
            "faces": list(entry.faces)}  # fmt: skip


def _settings(facts: dict, config: dict) -> str | None:
    """The settings of a run in a line, as far as the file tells them."""
    weights = facts.get("guidance") if isinstance(facts.get("guidance"), dict) else {}
    told = {
        "k": facts.get("k"),
        **{name: config.get(name) for name in ("batch", "lr")},
        **{name.strip("_"): weights.get(name) for name in ("directional", "global_", "in_domain")},
    }
    parts = [f"{name} {_number(n, 'g')}" for name, n in told.items() if n and _number(n)]
    method, start = facts.get("method"), facts.get("started_from")
    parts += [str(method)] if method else []
    parts += [f"from {start}"] if start else []
    return " · ".join(parts) or None


def _number(value, form: str = ".3f") -> str | None:
    """A number as text; None for what is none, or too large to be one that we wrote."""
    return format(value, form) if isinstance(value, (int, float)) and abs(value) < 1e9 else None


def foot(facts: dict) -> str:
    """What `Service.info` tells as the last lines of a page."""
    line = (
        f"{facts['source']} ({facts['size']} px, {facts['parameters'] / 1e6:.1f} M parameters) · "
        f"CLIP {' + '.join(facts['clip'])} · {facts['device']}, {facts['threads']} threads · "
        f"operations: {facts['operations']['runs']} · torch {facts['torch']}"
    )
    lines = [line, facts["reason"]]
    return "".join(f'<p class="facts">{html.escape(line)}</p>' for line in lines if line)
