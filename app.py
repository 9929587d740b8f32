"""The page and its API: two prompts in, an adapted generator out, watched while it trains.

A visitor's run trains in a thread of its own, one device step at a time, and the callbacks only
look at it: so Stop, a closed tab and a lost client all mean the same, a flag that the thread reads
between two steps. What visitors share (the base generator, CLIP) is never written to.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by gradio when a page is built

import argparse
import functools
import html
import logging
import secrets
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import op
from nada.adapt import PRESETS, DivergedError, Preset
from nada.checkpoint import fingerprint, load_generator, pick_device
from nada.clip import PromptError, load_clips
from nada.delta import Delta, DeltaError, blend
from nada.layers import SELECTORS, candidates
from nada.runs import KEEP_SECONDS, Job, Models, Run, Runs
from nada.sample import image_grid, parse_seeds, sample

TICK = 0.4  # seconds between two looks at a run, which bounds how long Stop takes
MAX_SAMPLES = 36
MAX_QUEUE = 20  # visitors who may wait
PICTURE = 880  # pixels, about how wide the page shows a picture
PICTURES = {
    "format": "png", "interactive": False, "show_label": False,
    "buttons": ["download", "fullscreen"],
}  # fmt: skip
FILLERS = frozenset("a an and as at by for from in is of on or the to with".split())
PRIVATE = {"api_visibility": "private"}
UNSEEN = {**PRIVATE, "preprocess": False, "show_progress": "hidden"}


# What can be asked for


@dataclass(frozen=True)
class Range:
    """A number that a visitor may set: its name on the page, its bounds, what it does."""

    label: str
    low: float
    high: float
    step: float
    info: str

    @property
    def whole(self) -> bool:
        return isinstance(self.step, int)

    def check(self, name: str, value) -> int | float:
        """The value as a number; BadInput if it is none or lies outside the bounds."""
        kind = "a whole number" if self.whole else "a number"
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or value != value:
            raise BadInput(name, f"{self.label} is {shorten(value)}; {kind} was expected.")
        if not self.low <= value <= self.high:
            bounds = f"choose from {self.low:.10g} to {self.high:.10g}."
            raise BadInput(name, f"{self.label} is {shorten(value)}; {bounds}")
        if self.whole and value != int(value):
            raise BadInput(name, f"{self.label} is {shorten(value)}; {kind} was expected.")
        return int(value) if self.whole else float(value)


RANGES = {
    "steps": Range("Steps", 1, 2000, 1, "More steps move further from the source."),
    "k": Range("Layers k", 0, 26, 1, "How many layers train; 0 trains them all."),
    "select_every": Range("Select every n steps", 0, 2000, 1, "0 selects once, at the start."),
    "seed": Range("Seed", 0, 2**32 - 1, 1, "Same seed and settings, same result."),
    "batch": Range("Batch", 1, 16, 1, "Pictures in a step."),
    "lr": Range("Learning rate", 1e-5, 0.2, 1e-5, "Of Adam, at the start."),
    "directional": Range("Directional loss", 0.0, 10.0, 0.05, "Weight: along source → target."),
    "global_": Range("Global loss", 0.0, 10.0, 0.05, "Weight: likeness to the target."),
    "in_domain": Range("In-domain loss", 0.0, 10.0, 0.05, "Weight: keeps people different."),
    "truncation": Range("Truncation", 0.0, 1.5, 0.05, "Variety of the pictures trained on."),
}
SETTINGS_ROWS = (
    ("select_every", "seed", "batch", "lr"),
    ("directional", "global_", "in_domain", "truncation"),
)
METHODS = [("Gradient norm", "gradient"), ("W+ shift", "w_shift")]
STRENGTH = Range("Strength", 0.0, 1.0, 0.05, "0 is the source, 1 the adapted domain.")
TRUNCATION = Range("Truncation of samples", 0.0, 1.5, 0.05, "Lower is safer, higher more varied.")

# Prompts to start from, and what differs from the base's own settings (published ones for FFHQ).
EXAMPLES = {
    "demo": [
        {"source": "photo", "target": target}
        for target in (
            "pencil sketch", "anime painting", "Pixar character", "zombie", "Shrek", "the joker",
            "vampire", "devil", "white walker", "robot", "elf", "bronze statue", "neon lights",
        )
    ],
    "ffhq": [
        {"source": "photo", "target": "sketch", "steps": 300, "k": 10},
        {"source": "face", "target": "anime painting", "steps": 300, "k": 10},
        {"source": "photo", "target": "Pixar cartoon", "steps": 300, "k": 10},
        {"source": "face", "target": "zombie", "steps": 300, "k": 5},
        {"source": "face", "target": "Shrek", "steps": 150, "k": 3},
        {"source": "human", "target": "white walker", "steps": 200, "k": 12},
        {"source": "human", "target": "The Joker", "steps": 250, "k": 12},
    ],
}  # fmt: skip


class BadInput(ValueError):
    """Something a visitor asked for that cannot be done; the message is a sentence for them."""

    def __init__(self, field: str, sentence: str):
        super().__init__(sentence)
        self.field = field


def shorten(value) -> str:
    """What a visitor sent, quoted for a sentence: one line, at most 40 characters."""
    text = " ".join(str(value).split())
    return f"“{text if len(text) <= 40 else text[:39] + '…'}”"


SPOKEN = (BadInput, PromptError, DeltaError, DivergedError)  # errors that are sentences


@contextmanager
def sentences():
    """Let every error reach the visitor as a sentence; what nobody foresaw is logged by number."""
    try:
        yield
    except gr.Error:
        raise
    except SPOKEN as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error
    except Exception as error:
        number = secrets.token_hex(4)
        logging.exception("error %s", number)
        raise gr.Error(
            f"Something went wrong that should not have (error {number} in the server's log). "
            "Try again, or with other settings.",
            print_exception=False,
        ) from error


# What a server holds


@dataclass(frozen=True)
class Options:
    """What to serve; the command line sets it."""

    generator: str = "demo"
    clip: str = "demo"
    device: str = "auto"

    @property
    def base(self) -> str:
        """The key of PRESETS and EXAMPLES that fits the generator."""
        return "demo" if self.generator == "demo" else "ffhq"


_loaded: dict[Options, Models] = {}
_loading = threading.Lock()  # two visitors who come at once load the models once


def load_models(options: Options) -> Models:
    """The models of a server, loaded by whoever asks first."""
    with _loading:
        if options not in _loaded:
            device = pick_device(options.device)
            generator = load_generator(options.generator, device)
            _loaded[options] = Models(generator, load_clips(options.clip, device))
        return _loaded[options]


@functools.lru_cache(maxsize=2)
def opening(options: Options, turn: threading.Lock) -> Image.Image:
    """What the base generator draws for the preview seeds, for a page that just opened."""
    config = PRESETS[options.base].config
    with turn:
        pictures = sample(
            load_models(options).generator, config.preview_seeds, config.preview_psi
        )
    return draw(pictures, len(pictures))


# A visitor's request, checked


def check_job(models: Models, base: Preset, settings: dict) -> tuple[Job, str]:
    """The job that the settings of `/adapt` describe and a hint, or BadInput for the first bad."""
    hints = [check_prompt(models, name, settings[name]) for name in ("source", "target")]
    source, target = (" ".join(settings[name].split()) for name in ("source", "target"))
    if source.casefold() == target.casefold():
        raise BadInput("target", "Source and target are the same: say how they should differ.")
    numbers = {name: limits.check(name, settings[name]) for name, limits in RANGES.items()}
    if settings["method"] not in list(SELECTORS):  # a list takes what cannot be hashed
        names = " or ".join(SELECTORS)
        raise BadInput("method", f"Method is {shorten(settings['method'])}; choose {names}.")
    if not isinstance(settings["to_rgb"], bool):
        raise BadInput("to_rgb", f"RGB layers is {shorten(settings['to_rgb'])}; use true or false.")
    most = len(candidates(models.generator, settings["to_rgb"]))
    if numbers["k"] == base.k:  # the preset's own number, made for larger generators
        numbers["k"] = min(base.k, most)
    if numbers["k"] > most:
        raise BadInput("k", f"This generator has {most} layers to train: choose k up to {most}.")
    if not any(numbers[name] for name in ("directional", "global_")):
        raise BadInput("directional", "Nothing guides: weigh the directional or the global loss.")
    if numbers["in_domain"] and numbers["batch"] < 2:
        raise BadInput("batch", "The in-domain loss compares pictures: choose a batch from 2 on.")
    return Job(target, _preset(base, source, settings, numbers)), " ".join(filter(None, hints))


def _preset(base: Preset, source: str, settings: dict, numbers: dict) -> Preset:
    """The base's preset with the visitor's numbers in it."""
    final_lr = base.config.final_lr and numbers["lr"] * base.config.final_lr / base.config.lr
    names = ("steps", "batch", "seed", "select_every", "lr")
    config = replace(
        base.config,
        **{name: numbers[name] for name in names},
        final_lr=final_lr,
        truncation_psi=numbers["truncation"],
        train_to_rgb=settings["to_rgb"],
    )
    weights = {name: numbers[name] for name in ("directional", "global_", "in_domain")}
    return Preset(
        config, {**base.guidance, **weights}, source, settings["method"], numbers["k"]
    )


def check_prompt(models: Models, field: str, prompt) -> str:
    """A hint about words that CLIP never saw, "" if there are none; BadInput if it knows none."""
    try:
        for clip in models.clips:
            clip.check_prompt(prompt)
    except PromptError as error:
        raise BadInput(field, str(error)) from error
    clip = models.clips[0]  # those of an ensemble learnt the same words
    spoken, unknown = clip.spoken_words(prompt), clip.unknown_words(prompt)
    listed = ", ".join(map(shorten, unknown[:5])) + (" and more" if len(unknown) > 5 else "")
    if clip.words is not None and not set(spoken) - set(unknown) - FILLERS:
        raise BadInput(
            field,
            f"The small CLIP was never shown {listed or 'this'}: use words like those of the "
            "examples, or serve this page with a larger CLIP.",
        )
    return f"The small CLIP was never shown {listed} and can only guess." if unknown else ""


def check_seeds(text) -> list[int]:
    """The seeds of "1-8" or "3, 7, 20-22"; BadInput unless they are 1 to MAX_SAMPLES numbers."""
    try:
        return parse_seeds(str(text), MAX_SAMPLES)
    except ValueError as error:
        raise BadInput("seeds", str(error)) from error


# What a run looks like


def pairs_of(run: Run) -> str | None:
    """The preview seeds of the frozen generator above those of the adapted one, as a PNG file."""
    rows = [row for row in (run.before, run.after) if row is not None]
    if not rows:
        return None
    path = Path(run.folder.name) / "pairs.png"  # gradio copies it before the next is drawn
    draw(torch.cat(rows), len(rows[0])).save(path)
    return str(path)


def draw(pictures: Tensor, columns: int) -> Image.Image:
    """[N, 3, H, W] in [-1, 1] as one picture about PICTURE pixels wide."""
    scale = round(PICTURE / (columns * pictures.shape[-1]))
    if scale > 1:  # small ones one by one: smooth inside, sharp where two meet
        pictures = F.interpolate(pictures, scale_factor=scale, mode="bicubic")
    grid = image_grid(pictures, columns)
    if grid.width > PICTURE * 1.5:
        grid = grid.resize((PICTURE, round(grid.height * PICTURE / grid.width)), reducing_gap=2.0)
    return grid


def status(run: Run, hint: str = "") -> dict:
    """What `/adapt` tells scripts of a run, and `chart` people."""
    progress, steps = run.progress, run.job.preset.config.steps
    return {
        "state": run.state,
        "step": progress.step if progress else 0,
        "steps": steps,
        "seconds": round(progress.seconds if progress else time.monotonic() - run.born, 2),
        "eta": round(progress.eta, 2) if progress and run.state == "running" else None,
        "loss": progress.loss if progress else None,
        "terms": dict(progress.terms) if progress else {},
        "layers": list(progress.layers) if progress else [],
        "message": " ".join(filter(None, (message(run), hint))),
    }


def message(run: Run) -> str:
    """How a run stands, in a sentence."""
    step, steps = (run.progress.step if run.progress else 0), run.job.preset.config.steps
    kept = "the domain file holds what was trained" if step else "nothing has changed"
    reason = f"{run.error} " if isinstance(run.error, SPOKEN) else ""
    return {
        "starting": "Getting ready.",
        "running": f"Training: step {step} of {steps}.",
        "finished": f"Done: {steps} steps. The domain file is yours to keep.",
        "stopped": f"Stopped after {step} of {steps} steps; {kept}.",
        "failed": f"{reason}Failed after {step} of {steps} steps; {kept}.",
    }[run.state]


def chart(now: dict, losses: list[float]) -> str:
    """A run as HTML: its sentence, a bar, the loss curve, the layers that train."""
    done = 100 * now["step"] / now["steps"]
    facts = [f"{now['seconds']:.0f} s"]
    facts += [f"{now['eta']:.0f} s to go"] if now["eta"] is not None else []
    facts += [f"loss {now['loss']:.3f}"] if now["loss"] is not None else []
    chips = "".join(f"<li>{html.escape(name)}</li>" for name in now["layers"])
    return f"""<div class="run {now["state"]}">
<p>{html.escape(now["message"])}</p>
<div class="bar" role="progressbar" aria-valuenow="{done:.0f}">
<div style="width:{done:.1f}%"></div></div>
<p class="facts">{" · ".join(facts)}</p>
{curve(losses, now["steps"])}
{f"<h4>Layers in training</h4><ul>{chips}</ul>" if chips else ""}</div>"""


def curve(losses: list[float], steps: int) -> str:
    """The loss over the steps as an SVG drawing, "" for fewer than two points."""
    if len(losses) < 2:
        return ""
    low, high = min(losses), max(losses)
    height = high - low or 1.0
    stride = max(1, len(losses) // 400)  # more points than pixels only cost time
    points = " ".join(
        f"{600 * i / max(1, steps - 1):.1f},{4 + 112 * (high - losses[i]) / height:.1f}"
        for i in [*range(0, len(losses), stride), len(losses) - 1]
    )
    return f"""<h4>Loss</h4><div class="curve"><span>{high:.2f}</span><span>{low:.2f}</span>
<svg viewBox="0 0 600 120" preserveAspectRatio="none" role="img" aria-label="loss curve">
<polyline points="{points}" /></svg></div>"""


# The page


class Studio:
    """The callbacks of one server, with what all its visitors share."""

    def __init__(self, options: Options):
        self.options, self.preset = options, PRESETS[options.base]
        self.turn, self.runs = threading.Lock(), Runs()

    def models(self) -> Models:
        return load_models(self.options)

    def problem(self, settings: dict) -> BadInput | None:
        """What is wrong with the settings of `/adapt`, if the models are there to tell."""
        models = _loaded.get(self.options)  # a client's first request must not time out on loading
        try:
            if models:
                check_job(models, self.preset, settings)
        except BadInput as error:
            return error
        return None

    def validate(self, visitor: str | None, **settings) -> list[dict]:
        """Refuse a bad request before it queues, at the field that is wrong."""
        wrong = self.problem(settings)
        names = ["visitor", *settings]
        return [gr.validate(not wrong or name != wrong.field, str(wrong)) for name in names]

    def unfold(self, **settings):
        """Open the folded settings where one of them is what is wrong."""
        wrong = self.problem(settings)
        hidden = wrong and wrong.field not in ("source", "target")
        return gr.update(open=True) if hidden else gr.skip()

    def adapt(self, visitor: str | None, **settings):
        """Train the generator towards the target prompt and stream how it goes.

        Each message has a picture (above the frozen generator, below the adapted one, the same
        seeds), the status, the domain file (safetensors with the changed weights, at the end) and
        a chart of the loss as HTML.
        """
        with sentences():
            models = self.models()
            job, hint = check_job(models, self.preset, settings)
            visitor = visitor or secrets.token_urlsafe(16)
            run = self.runs.start(visitor, job, models, self.turn)
            try:
                drawn = pairs = None
                tick = 0.0  # the first look is at once
                while not run.finished.wait(tick):
                    tick = TICK
                    if run.after is not drawn:
                        drawn, pairs = run.after, pairs_of(run)
                    yield visitor, pairs, *self.look(run, hint)
                if run.error and not run.domain:
                    raise run.error
                yield visitor, pairs_of(run), *self.look(run, hint)
            finally:
                run.stop.set()

    def look(self, run: Run, hint: str = "") -> tuple:
        """A run as the outputs of `/adapt` beside its picture: status, domain file, chart."""
        now = status(run, hint)
        return now, str(run.domain) if run.domain else None, chart(now, run.losses)

    def keep(self, visitor: str | None):
        """After a run, also a stopped one: what there is of it."""
        run = self.runs.get(visitor)
        if run is None:
            return [gr.skip()] * 4
        run.stop.set()
        run.finished.wait(120)
        return pairs_of(run), *self.look(run)

    def sample(self, seeds, domain_file=None, strength=1.0, truncation=0.7) -> Image.Image:
        """Pictures of the seeds, by the base generator or by a domain file at some strength.

        seeds: "1-8" or "3, 7, 12". strength: 0 the source, 1 the domain. truncation: 0.7 usually.
        """
        with sentences():
            wanted = check_seeds(seeds)
            strength = STRENGTH.check("strength", strength)
            psi = TRUNCATION.check("truncation", truncation)
            delta = Delta.load(domain_file["path"]) if domain_file else None
            with self.turn:
                generator = self.models().generator
                if delta:
                    generator = blend(generator, [(delta, strength)])
                pictures = sample(generator, wanted, psi)
            return draw(pictures, columns_for(len(wanted)))

    def info(self) -> dict:
        """What this server runs: generator, CLIP, device, and what may be asked for."""
        with sentences():
            models = self.models()
            generator = models.generator
            return {
                "generator": Path(self.options.generator).name,
                "size": generator.size,
                "parameters": sum(p.numel() for p in generator.parameters()),
                "fingerprint": fingerprint(generator),
                "clip": [clip.name for clip in models.clips],
                "device": str(generator.mean_latent.device),
                "threads": torch.get_num_threads(),
                "operations": op.BACKEND,
                "torch": torch.__version__,
                "layers": list(candidates(generator, to_rgb=True)),
                "methods": list(SELECTORS),
                "limits": {name: [r.low, r.high] for name, r in RANGES.items()},
                "examples": EXAMPLES[self.options.base],
            }

    def greet(self):
        """When a page opens: its last line, how many layers there are, what the base draws."""
        facts = self.info()
        line = (
            f"Generator {facts['generator']} ({facts['size']} px, "
            f"{facts['parameters'] / 1e6:.1f} M parameters) · CLIP {' + '.join(facts['clip'])} · "
            f"{facts['device']}, {facts['threads']} threads · {facts['operations']} operations · "
            f"torch {facts['torch']}"
        )
        generator = self.models().generator
        k = min(self.preset.k, len(candidates(generator)))
        most = len(candidates(generator, to_rgb=True))
        line = f'<p class="facts">{html.escape(line)}</p>'
        return line, gr.update(maximum=most, value=k), opening(self.options, self.turn)


def columns_for(count: int) -> int:
    """Columns of a grid that is a little wider than high."""
    return next((n for n in (4, 5, 6) if count <= 2 * n), 6) if count > 4 else count


WELCOME = """<div class="run"><p>Choose an example or type two texts, then press Adapt.</p>
<p class="facts">A copy of the generator is trained while you watch: the same faces before and
after, step by step. Stop whenever you like what you see; the domain file keeps it.</p></div>"""
CAPTION = """<p class="facts">Above the generator as it was, below the adapted one, each with the
same seeds.</p>"""
CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#title h1 { margin: .2em 0 0; } #title p { color: var(--body-text-color-subdued); margin: 0; }
.gradio-container .html-container { padding: 0; }
#chart .pending { opacity: 1; }
.run p { margin: 0 0 .5em; font-weight: 600; } .run h4 { margin: 1em 0 .3em; }
.run .bar { height: 8px; border-radius: 4px; background: var(--border-color-primary); }
.run .bar div { height: 100%; border-radius: 4px; background: var(--color-accent);
  transition: width .4s linear; }
.run p.facts, p.facts { font-weight: 400; font-size: .85em; margin-top: .4em;
  color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.run.failed p:first-child { color: var(--error-text-color); }
.run ul { list-style: none; padding: 0; margin: 0; display: flex; flex-wrap: wrap; gap: .35em; }
.run li { padding: .1em .6em; border-radius: 1em; font: .8em var(--font-mono); margin: 0;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }
.curve { position: relative; border: 1px solid var(--border-color-primary); border-radius: 6px; }
.curve svg { display: block; width: 100%; height: 120px; }
.curve polyline { fill: none; stroke: var(--color-accent); stroke-width: 2px;
  vector-effect: non-scaling-stroke; }
.curve span { position: absolute; right: .3em; top: .2em; padding: 0 .2em; font-size: .75em;
  color: var(--body-text-color-subdued); background: var(--body-background-fill); }
.curve span + span { top: auto; bottom: .2em; }
"""
THEME = gr.themes.Default(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    font=("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"),
    font_mono=("ui-monospace", "Consolas", "monospace"),
)


def build(options: Options = Options()) -> gr.Blocks:
    """The page for a generator and a CLIP. Models load when they are first needed."""
    studio = Studio(options)
    with gr.Blocks(
        title="StyleGAN-NADA", analytics_enabled=False, delete_cache=(600, 6 * KEEP_SECONDS)
    ) as page:
        visitor = gr.State(time_to_live=KEEP_SECONDS, delete_callback=studio.runs.forget)
        gr.HTML(
            "<h1>StyleGAN-NADA</h1><p>Move a face generator to a new domain with two texts, "
            "and not one picture of it.</p>",
            elem_id="title",
        )
        settings, start, stop, folded = adapt_part(options.base)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                pairs = gr.Image(label="Pairs", elem_id="pairs", **PICTURES)
                gr.HTML(CAPTION)
            with gr.Column(scale=2, min_width=320):
                drawn = gr.HTML(WELCOME, label="Chart", elem_id="chart")
                with gr.Accordion("Status as JSON", open=False):
                    now = gr.JSON(label="Status", show_label=False)
        wanted, again, pictures = sample_part()
        foot = gr.HTML(elem_id="foot")

        shown = [pairs, now, wanted["domain_file"], drawn]
        # Before the run: a click goes no further than the first refusal.
        start.click(studio.unfold, inputs_kwargs=settings, outputs=folded, queue=False, **UNSEEN)
        run = start.click(
            studio.adapt,
            inputs=[visitor],
            inputs_kwargs=settings,
            outputs=[visitor, *shown],
            api_name="adapt",
            preprocess=False,  # check_job is the only judge, and it speaks in sentences
            validator=studio.validate,
            show_progress="minimal",
            show_progress_on=drawn,
        )
        run.then(studio.keep, visitor, shown, **UNSEEN)
        stop.click(None, cancels=[run])
        again.click(
            studio.sample,
            inputs_kwargs=wanted,
            outputs=pictures,
            api_name="sample",
            preprocess=False,
        )
        wanted["strength"].release(
            studio.sample, inputs_kwargs=wanted, outputs=pictures, preprocess=False, **PRIVATE
        )
        page.load(studio.greet, outputs=[foot, settings["k"], pairs], **UNSEEN)
        gr.api(studio.info, api_name="info")
    return page.queue(max_size=MAX_QUEUE, default_concurrency_limit=1, api_open=False)


def adapt_part(base: str) -> tuple:
    """Prompts, buttons, examples and folded settings: the inputs of `/adapt` by name, the rest."""
    preset = PRESETS[base]
    config = preset.config
    values = {
        **{name: getattr(config, name) for name in ("steps", "batch", "lr", "seed")},
        **{"directional": 0.0, "global_": 0.0, "in_domain": 0.0, **preset.guidance},
        "k": preset.k,
        "select_every": config.select_every,
        "truncation": config.truncation_psi,
    }
    inputs = {}
    with gr.Row(equal_height=True):
        inputs["source"] = gr.Textbox(
            preset.source, label="Source", info="What the generator shows now.", scale=3
        )
        inputs["target"] = gr.Textbox(
            EXAMPLES[base][0]["target"], label="Target", info="What it should show.", scale=3
        )
        with gr.Column(scale=2, min_width=160):
            start = gr.Button("Adapt", variant="primary")
            stop = gr.Button("Stop")
    chips = gr.Row()
    with gr.Accordion("Settings", open=False) as folded:
        with gr.Row():
            for name in ("steps", "k"):
                inputs[name] = number(RANGES[name], values[name])
            inputs["method"] = gr.Radio(
                METHODS, value=preset.method, label="Selection method", info="What ranks layers."
            )
            inputs["to_rgb"] = gr.Checkbox(
                config.train_to_rgb, label="RGB layers", info="Let the RGB outputs train as well."
            )
        for names in SETTINGS_ROWS:
            with gr.Row():
                for name in names:
                    inputs[name] = number(RANGES[name], values[name])
    with chips:
        columns = ("source", "target", "steps", "k")
        rows = [[{**values, **row}[name] for name in columns] for row in EXAMPLES[base]]
        labels = [f"{row['source']} → {row['target']}" for row in EXAMPLES[base]]
        gr.Examples(
            rows, [inputs[name] for name in columns], label="Examples", example_labels=labels,
            examples_per_page=20, **PRIVATE,
        )  # fmt: skip
    return inputs, start, stop, folded


def sample_part() -> tuple:
    """What draws new samples: the inputs of `/sample` by name, its button, its picture."""
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            domain = gr.File(label="Domain file", file_types=[".safetensors"], height=150)
            gr.HTML(
                '<p class="facts">The file of your run, to download; or drop one that you kept. '
                "Without one the base generator is sampled.</p>"
            )
            seeds = gr.Textbox("1-8", label="Seeds", info="A picture each: 1-8 or 3, 7, 12.")
            inputs = {
                "seeds": seeds,
                "domain_file": domain,
                "strength": number(STRENGTH, 1.0),
                "truncation": number(TRUNCATION, 0.7),
            }
            again = gr.Button("Sample")
        with gr.Column(scale=3, min_width=320):
            pictures = gr.Image(label="Samples", elem_id="samples", **PICTURES)
    return inputs, again, pictures


def number(limits: Range, value: float) -> gr.components.Component:
    """A slider for a range that a hand can set, a field for any other."""
    fine = (limits.high - limits.low) / limits.step > 500
    return (gr.Number if fine else gr.Slider)(
        value=value, label=limits.label, info=limits.info, minimum=limits.low,
        maximum=limits.high, step=limits.step, min_width=200,
    )  # fmt: skip


def launch(page: gr.Blocks, **options) -> tuple:
    """Serve a page; `options` are gradio's, such as server_port."""
    return page.launch(
        theme=THEME, css=CSS, show_error=True, max_file_size="200mb", run_history=False,
        enable_monitoring=False, footer_links=["api", "settings"], **options,
    )  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve the page of StyleGAN-NADA.")
    parser.add_argument("--generator", default="demo", help='"demo", or a .pt or .safetensors file')
    parser.add_argument("--clip", default="demo", help='"demo", a file, "ViT-B/32", or A+B')
    parser.add_argument("--device", default="auto", help='"auto", "cpu", or another of torch\'s')
    parser.add_argument("--host", default=None, help="address to listen on")
    parser.add_argument("--port", type=int, default=None, help="port to listen on")
    return parser.parse_args(arguments)


def main(page: gr.Blocks, options: Options, host: str | None, port: int | None) -> None:
    """Open the page, then load the models, so that the page is there at once."""
    launch(page, server_name=host, server_port=port, prevent_thread_lock=True)
    try:
        load_models(options)
    except ValueError as error:
        page.close()
        raise SystemExit(str(error)) from error
    page.block_thread()


if __name__ == "__main__":
    arguments = parse()
    chosen = Options(arguments.generator, arguments.clip, arguments.device)
    demo = build(chosen)
    main(demo, chosen, arguments.host, arguments.port)
else:
    demo = build()
