"""What a run, a domain and images look like on a page: JSON, and some HTML.

What visitors typed goes out as JSON that scripts show as text, or escaped.
"""

import html
import json
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from torch import Tensor

from nada.checkpoint import Origin
from nada.delta import BANDS
from nada.facts import blend_weight
from nada.formats.messages import size_text
from nada.formats.remarks import REMARKS, Remark
from nada.presets import SERVED
from nada.serve.domains import KeptDomain
from nada.serve.images import data_urls
from nada.serve.jobs import TrainingRun
from nada.serve.models import Download
from nada.serve.validate import SPOKEN
from nada.settings import Setting

PAGE = Path(__file__).with_name("page")
UNFORESEEN = (
    "Something went wrong that should not have (error {} in the server's log). "
    "Try again, or with other settings."
)


@cache
def texts(name: str = "texts") -> dict[str, dict[str, str]]:
    """Language → key → words: of the page, or of its own "components".

    The English words of settings and remarks are their own; a language that lacks some shows those.
    """
    words = json.loads((PAGE / f"{name}.json").read_text(encoding="utf-8"))
    own = {f"remark_{key}": text for key, text in REMARKS.items()}
    if name == "texts":
        own = {key: text for name, known in SERVED.items() for key, text in _words_of(name, known)}
    return {language: {**own, **by_key} for language, by_key in words.items()}


def _words_of(name: str, known: Setting) -> list[tuple[str, str]]:
    return [(name, known.label), (f"{name}_info", known.help)]


def asset(file: str) -> str:
    """A template or a script of the page."""
    return (PAGE / file).read_text(encoding="utf-8")


# Images


def pairs(seeds: Sequence[int], before: Tensor | None, after: Tensor | None) -> str:
    """JSON for the page's pairs: seeds, and images as data URLs, null for those it has."""
    urls = {"before": data_urls(before), "after": data_urls(after)}
    return json.dumps({"seeds": list(seeds), **urls})


# A run


def status(run: TrainingRun, state: str) -> dict:
    """How a run stands, as scripts read it.

    Args:
        run: the run.
        state: that of the run, read once for all that is said of it, since it may change.
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
        "way": progress.way if progress else None,
        "collapsing": progress.collapsing if progress else False,
        "layers": list(progress.layers) if progress else [],
        "before_it": run.before_it,
        "message": message(run, state),
        "hints": [hint for hint in (run.plan, *run.hints) if hint],
    }


def message(run: TrainingRun, state: str) -> str:
    """How a run stands, in a sentence."""
    step, steps = (run.progress.step if run.progress else 0), run.job.preset.config.steps
    left = "the domain file holds what was trained" if step else "nothing has changed"
    before = "1 run is" if run.before_it <= 1 else f"{run.before_it} runs are"
    return {
        "waiting": f"Waiting: {before} before this one.",
        "starting": "Getting ready.",
        "running": f"Training: step {step} of {steps}.",
        "finished": f"Done: {steps} steps. The domain file is yours to keep.",
        "stopped": f"Stopped after {step} of {steps} steps; {left}.",
        "failed": f"{reason(run)}Failed after {step} of {steps} steps; {left}.",
    }[state]


def reason(run: TrainingRun) -> str:
    """Why a run failed, "" where that is not a sentence for visitors."""
    return f"{run.error} " if isinstance(run.error, SPOKEN) else ""


def chart(run: TrainingRun, state: str) -> str:
    """JSON for the page's account of a run: its status and its losses, one per step."""
    more = {"losses": list(run.losses), "reason": reason(run).strip()}
    return json.dumps(status(run, state) | more)


def hint_list(hints: Sequence[str]) -> str:
    """Hints as HTML, "" for none."""
    return "".join(f'<p class="hint">{html.escape(hint)}</p>' for hint in hints)


def word_list(words: Sequence[str]) -> str:
    """All words that CLIP knows as folded HTML, "" for none."""
    if not words:
        return ""
    text = html.escape(", ".join(words))
    return f'<details class="words"><summary>It knows {len(words)} words</summary>{text}</details>'


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


def cards(domains: Sequence[KeptDomain], open_paths: Sequence[Path]) -> str:
    """JSON for the page's cards, the newest first: texts to be shown as text, images as URLs."""
    return json.dumps([_card(domain, domain.path in open_paths) for domain in reversed(domains)])


def _card(domain: KeptDomain, is_open: bool) -> dict:
    facts = domain.metadata
    base = facts.get("generator", {})
    lines = {
        "prompts": " → ".join(filter(None, [facts.get("source", ""), domain.title])),
        "seed": facts.get("config", {}).get("seed"),
        "steps": facts.get("steps_done"),
        **_weights(facts.get("blend", ())),
        "settings": _settings(facts),
        **{name: _measure(facts.get(name)) for name in ("loss", "quality", "diversity")},
        "layers": ", ".join(facts.get("layers", ())) or None,
        "explained": _share(facts.get("distilled_from", {}).get("explained")),
        "compared": facts.get("compared") or None,
        "base": domain.base_fingerprint[:12],
        "generator": base.get("name", "").strip() or None,
        "used": base.get("used", "").strip() or None,
        **_carried(facts),
    }
    return {
        "id": domain.id,
        "title": domain.title,
        "open": is_open,
        "holds": {"size": size_text(domain.size), "kind": domain.kind, "layers": domain.layers},
        "facts": {name: str(line)[:200] for name, line in lines.items() if line is not None},
        "thumbnails": list(domain.thumbnails),
    }


def _weights(parts: Sequence[dict]) -> dict[str, str]:
    """What was mixed, as far as its file has it: one line, or one each of BANDS where they
    differ."""
    weights = [weight for weight in map(blend_weight, parts) if weight is not None]
    lines = {band: " + ".join(f"{getattr(w, band):g}" for w in weights) for band in BANDS}
    if any(not weight.is_even for weight in weights):
        return lines
    return {"weights": lines["coarse"]} if weights else {}


def _carried(facts: dict) -> dict[str, str]:
    """Of a domain that was carried over: from which generator, and how far the family is known."""
    carried = facts.get("carried_from")
    if carried is None:
        return {}
    return {
        "carried_from": f"{carried.get('name', '')} {carried.get('base', '')[:12]}".strip() or "?",
        "family": _share(carried.get("agreement")) or "?",
    }


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"


def _measure(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _settings(facts: dict) -> str | None:
    """The settings of a run in a line, as far as its file has them."""
    config, weights = facts.get("config", {}), facts.get("guidance", {})
    numbers = {
        "k": facts.get("k"),
        **{name: config.get(name) for name in ("batch", "lr")},
        **{name.strip("_"): weights.get(name) for name in ("directional", "global_", "in_domain")},
    }
    parts = [f"{name} {number:g}" for name, number in numbers.items() if number]
    parts += filter(None, [facts.get("method")])
    parts += [f"from {start}" for start in [facts.get("started_from")] if start]
    return " · ".join(parts) or None


def taken(origin: Origin) -> str:
    """JSON for the page's account of its generator's file: what was taken, and what is unusual."""
    unusual = (*origin.notes, *origin.doubts)
    return json.dumps({"used": _words(origin.used), "unusual": _words(unusual)})


def _words(remarks: Sequence[Remark]) -> list[dict]:
    """Remarks as a script can put them into its reader's language."""
    return [{"key": one.key, "values": {**one.values}} for one in remarks]


def foot(info: dict) -> str:
    """What `Service.info` says, as the last lines of a page."""
    line = (
        f"{info['source']} ({info['size']} px, {info['parameters'] / 1e6:.1f} M parameters) · "
        f"CLIP {' + '.join(info['clip'])} · {info['device']}, {info['threads']} threads · "
        f"operations: {info['operations']['runs']} · torch {info['torch']}"
    )
    lines = [line, info["reason"]]
    return "".join(f'<p class="facts">{html.escape(line)}</p>' for line in lines if line)
