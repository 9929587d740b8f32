"""The page and its API: two prompts in, an adapted generator out, watched while it trains.

Wiring only: what is done stands in `nada.serve.session` and `nada.serve.service`, what it looks
like in `nada.serve.view` and `nada/serve/page`. The page's own events are private; scripts have
endpoints of their own, whose names do not follow the page's.
"""

import os
import signal

if __name__ == "__main__":  # the imports take seconds, after which there is nothing to save yet
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by gradio when a page is built
if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # has to come before torch
else:
    spaces = None

from nada.serve.surroundings import (
    bare,
    check_address,
    ending_in_a_sentence,
    hang_up_in_forks,
    make_usable,
    reach_without_proxy,
    why_plain,
)

with ending_in_a_sentence("app.py"):  # gradio reads its surroundings when it is imported
    make_usable()
    import gradio as gr
    from starlette.middleware import Middleware

import argparse
import html
import inspect
import ipaddress
import logging
import math
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path

from nada.delta import BANDS
from nada.machine import keep_freed_memory
from nada.presets import PRESETS, SERVED, examples
from nada.serve.api import Api
from nada.serve.disk import Home, is_full, temporary_root
from nada.serve.events import (
    SETTINGS,
    WEIGHT_PARTS,
    WEIGHTS,
    WEIGHTS_BY_BAND,
    Change,
    PageEvents,
    Visit,
)
from nada.serve.generators import GeneratorChoices, in_background, offered
from nada.serve.http import DISK_FULL, PlainErrors
from nada.serve.line import TICK, address_group
from nada.serve.models import Options, choose_options
from nada.serve.presence import Presence, Unfetched
from nada.serve.service import Service
from nada.serve.session import Session
from nada.serve.sessions import KEEP_SECONDS, Sessions
from nada.serve.share import Share
from nada.serve.validate import CARRY_OVER, SPOKEN, STRENGTH, TRUNCATION, WEIGHT
from nada.serve.view import PAGE, UNFORESEEN, asset, texts
from nada.settings import Setting

MAX_QUEUE = 200  # requests that may wait; runs wait in a line of their own (`nada.serve.line`)
MAX_THREADS = 120  # most of them look on while a run goes on, and sleep
MAX_STATES = 100  # visitors for whom gradio notes what changed on its page, 0.2 MB each
I18N = gr.I18n(  # gradio has words of its own under plain names
    **{
        language: {f"nada_{key}": text for key, text in by_key.items()}
        for language, by_key in texts().items()
    }
)
SEEDS = "1-8"
INSIDE = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"  # from where a Space's proxies come
FOLLOW = {"concurrency_id": "follow", "concurrency_limit": 80}
PRIVATE = {"api_visibility": "private", "preprocess": False}
UNSEEN = {**PRIVATE, "show_progress": "hidden"}
LIVE = {**UNSEEN, "trigger_mode": "always_last", "concurrency_id": "draw", "concurrency_limit": 2}
# settings side by side; others follow in fours
ROWS = (
    ("steps", "k", "method", "parameters"),
    ("lr", "style_lr", "select_every", "to_rgb"),
    ("batch", "seed", "truncation"),
    ("directional", "global_", "in_domain"),
    ("point", "cap", "reach"),
    ("picture_weight", "token"),
)
# names of components, as inputs and outputs of events
FORM = ("source", "target", *SETTINGS)
LINK = ("source", "target", "seed")  # in the order of link.js and page.js
LOOK = ("seeds", *BANDS, "sample_truncation")
DRAWN = ("seeds", "sample_truncation")
LIBRARY = ("cards", "start", "chosen", "file")
STRENGTHS = ("strength", *BANDS)
RESULT = ("status", "run", "snapshot", *STRENGTHS, "pairs", *LIBRARY)
REMEMBERED = {*FORM, *LOOK}  # what a page has again that comes back
TITLES = {
    "gradient": "Gradient norm",
    "w_shift": "W+ shift",
    "weights": "Weights",
    "styles": "Styles",
    "both": "Both",
}  # of choices


def words(key: str):
    """Words of the page in its reader's language, put in by the browser."""
    return I18N(f"nada_{key}")


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
        if is_full(error):
            raise gr.Error(DISK_FULL, print_exception=False) from error
        logging.exception("error %s", number := secrets.token_hex(4))
        raise gr.Error(UNFORESEEN.format(number), print_exception=False) from error


def answering(method: Callable, sessions: Sessions, outside: Callable = lambda value: value):
    """A method as gradio calls it: errors are sentences, and it gets its visitor's session.

    Args:
        method: of the page's events or of the API. Its parameter `session` gets the session of the
            request, which is found here and nowhere else; `visit` the page that asks; `event` what
            the browser sent along.
        sessions: of the server.
        outside: makes what gradio takes of what the method returns.
    """
    special = {"session": gr.Request, "visit": gr.Request, "event": gr.EventData}
    signature = inspect.signature(method)
    parameters = [
        parameter.replace(annotation=special.get(name, parameter.empty))
        for name, parameter in signature.parameters.items()
    ]

    def called(args, kwargs):
        values = {**dict(zip(signature.parameters, args)), **kwargs}
        if "session" in values:
            request = values["session"]
            values["session"] = sessions.get(request.session_hash, address_of(request))
            values["session"].remember({n: v for n, v in values.items() if n in REMEMBERED})
        if "visit" in values:
            values["visit"] = Visit(values["visit"].session_hash, address_of(values["visit"]))
        if "event" in values:
            values["event"] = values["event"]._data
        return method(**values)

    def answer(*args, **kwargs):
        with sentences():
            return outside(called(args, kwargs))

    def stream(*args, **kwargs):
        with sentences(), closing(called(args, kwargs)) as results:
            yield from map(outside, results)

    call = stream if inspect.isgeneratorfunction(method) else answer
    call.__doc__, call.__name__ = method.__doc__, method.__name__
    call.__signature__ = inspect.Signature(parameters)
    call.__annotations__ = {p.name: p.annotation for p in parameters if p.annotation is not p.empty}
    return call


def address_of(request: gr.Request) -> str | None:
    """From where a request comes, as far as that is known and bounds apply to it."""
    client = getattr(request, "client", None)  # requests that come from nowhere have none
    return address_group(client.host if client else None)


def refusals(service: Service, values: dict) -> list[dict]:
    """For each value of a form whether it can be used: gradio shows why not at its field, and
    does not queue the request."""
    form = {name: values.get(name) for name in FORM}
    wrong = service.problem(form, bool(values.get("pictures")))
    return [gr.validate(not wrong or name != wrong.field, str(wrong)) for name in values]


def build(choices: GeneratorChoices) -> gr.Blocks:
    """The page of a server, and its API. Models load when they are first needed."""
    with gr.Blocks(title="StyleGAN-NADA", analytics_enabled=False) as blocks:
        parts = lay_out(choices)
        wire(blocks, parts, choices)
        api_part(choices)
    blocks.queue(max_size=MAX_QUEUE, default_concurrency_limit=4, api_open=False)
    blocks._queue.pending_messages_per_session = Unfetched(choices.sessions.listens)
    return blocks


def lay_out(choices: GeneratorChoices) -> dict:
    """The components of the page, by the names that events know them by."""
    gr.HTML(f"<h1>StyleGAN-NADA</h1><p>{words('tagline')}</p>", elem_id="title")
    parts = {**choice_part(choices), **adapt_part(choices), "hint": gr.HTML(elem_id="hint")}
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            parts["pairs"] = component("pairs", elem_id="pairs")
        with gr.Column(scale=4, min_width=320):
            parts["run"] = component("run", elem_id="chart")
            parts |= explore_part()
            parts["file"] = gr.File(label=words("file"), interactive=False, visible=False)
            with gr.Accordion(words("status"), open=False):
                parts["status"] = gr.JSON(show_label=False)
    with gr.Tabs(elem_id="more-part"):
        parts |= {**library_part(), **film_part()}
    parts |= {name: gr.Textbox(visible=False) for name in ("key", "link")}  # see page.js
    return {**parts, "taken": component("taken", elem_id="taken"), "foot": gr.HTML(elem_id="foot")}


def wire(blocks: gr.Blocks, parts: dict, choices: GeneratorChoices) -> None:
    """What happens on the page: which event, what goes in, what may change, all by name."""
    events = PageEvents(choices)
    on = partial(connect, parts, choices.sessions)
    wire_run(on, parts, events)
    wire_images(on, parts, events)
    wire_domains(on, parts, events)

    arrived = ["generator", "taken", "foot", *RESULT, "strip", "film", *SETTINGS]
    arrived += [f"examples_{base}" for base in choices.bases]
    on(parts["generator"].input, events.choose, ["generator"], ["loading", *arrived], **UNSEEN)
    found = [*arrived, *FORM[:2], *DRAWN, "by_resolution"]
    hello = on(
        blocks.load, events.greet, ["key", "link"], found, js=asset("page.js"), **UNSEEN, **FOLLOW
    )
    on(hello.then, events.watch, (), RESULT, **UNSEEN, **FOLLOW)
    forget = parts["forget_all"].click
    on(forget, events.forget_all, ["key"], arrived, js=asset("forget.js"), **UNSEEN)
    blocks.unload(lambda: None)  # a page that is not told so keeps no line open: see `Presence`


def connect(
    parts: dict,
    sessions: Sessions,
    trigger: Callable,
    event: Callable,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    **options,
):
    """Let a trigger of gradio's call an event of the page, by the names of components.

    Args:
        parts: the components.
        sessions: of the server.
        trigger: such as a button's `click`.
        event: what takes the values of `inputs`, and returns changes of some of `outputs`.
        inputs: names of components.
        outputs: names of components.
        options: of the trigger.
    """

    def outside(changes: dict | None):
        if not changes:
            return gr.skip() if outputs else None
        return {
            parts[name]: gr.update(**change.props) if isinstance(change, Change) else change
            for name, change in changes.items()
        }

    return trigger(
        answering(event, sessions, outside),
        inputs_kwargs={name: parts[name] for name in inputs},
        outputs=[parts[name] for name in outputs],
        **PRIVATE | options,
    )


def wire_run(on: Callable, parts: dict, events: PageEvents) -> None:
    """The form: hints, a run to its end."""

    def validate(session: Session, **values) -> list[dict]:
        return refusals(session.service, values)

    go = [parts["adapt"].click, parts["source"].submit, parts["target"].submit]
    start = partial(gr.on, go)
    start(None, [parts[name] for name in LINK], js=asset("link.js"))
    on(start, events.unfold, FORM, ["settings"], queue=False, **UNSEEN)
    on(
        start, events.train, [*FORM, "start", *DRAWN, "pictures"], RESULT,
        validator=answering(validate, events.choices.sessions), **UNSEEN, **FOLLOW,
    )  # fmt: skip
    on(parts["stop"].click, events.stop, queue=False, **UNSEEN)
    for prompt in ("source", "target"):
        on(parts[prompt].change, events.hint, FORM, ["hint"], **LIVE)


def wire_images(on: Callable, parts: dict, events: PageEvents) -> None:
    """What changes the images without training."""
    tie(parts["strength"], [parts[band] for band in BANDS])
    on(parts["strength"].input, events.even, ["strength", *DRAWN], ["pairs"], **LIVE)
    changes = [parts[name].input for name in (*BANDS, "sample_truncation")]
    changes.append(parts["seeds"].submit)
    on(partial(gr.on, changes), events.look, LOOK, ["pairs"], **LIVE)
    on(parts["more"].click, events.more, LOOK, ["seeds", "pairs"], **LIVE)
    on(parts["snapshot"].input, events.back, ["snapshot", *LOOK], ["pairs"], **LIVE)
    on(parts["strip_draw"].click, events.strip, LOOK, ["strip"])
    on(parts["film_draw"].click, events.film, LOOK, ["film"])


def tie(whole: gr.Slider, bands: Sequence[gr.Slider]) -> None:
    """Let a number for all resolutions set that of each, at once, and show their mean."""
    whole.input(None, [whole], bands, js="(whole) => [whole, whole, whole]")
    mean = "(...bands) => Math.round(100 * bands.reduce((a, b) => a + b) / bands.length) / 100"
    gr.on([band.input for band in bands], None, bands, [whole], js=mean)


def wire_domains(on: Callable, parts: dict, events: PageEvents) -> None:
    """Kept domains, and mixes of them."""
    weights = [name for names in WEIGHTS_BY_BAND.values() for name in names.values()]
    shown, looked = ["pairs", *LIBRARY], [*LOOK, "carry_over"]
    mixed = [*looked, "chosen", *weights]
    on(parts["cards"].act, events.act, looked, shown, **UNSEEN)
    on(parts["load"].upload, events.load, ["load", *looked], shown, **UNSEEN)
    for whole, names in WEIGHTS_BY_BAND.items():
        tie(parts[whole], [parts[name] for name in names.values()])
    on(parts["chosen"].change, events.weigh, ["chosen"], [*WEIGHTS, *WEIGHT_PARTS], **LIVE)
    on(parts["mix"].click, events.mix, mixed, shown, **UNSEEN)
    keep = partial(gr.on, [parts["keep"].click, parts["keep_shown"].click])
    on(keep, events.keep_mix, LOOK, [*STRENGTHS, *LIBRARY], **UNSEEN)


def component(name: str, **options) -> gr.HTML:
    """A component of the page's own, from `nada/serve/page`; its words are in components.json."""
    template, script = asset(f"{name}.html"), asset(f"{name}.js")
    words = texts("components")
    return gr.HTML("", html_template=template, js_on_load=script, texts=words, **options)


def choice_part(choices: GeneratorChoices) -> dict:
    """The generators to choose from, where there are several, and how far one is that loads."""
    which = gr.Radio(
        choices.titles, value=choices.name_of(choices.first), label=words("generator"),
        info=words("generator_info"), visible=len(choices.titles) > 1, elem_id="generator",
    )  # fmt: skip
    return {"generator": which, "loading": gr.HTML(elem_id="loading")}


def adapt_part(choices: GeneratorChoices) -> dict:
    """Prompts, buttons, folded settings, examples of each base."""
    inputs, first = {}, choices.first
    preset, rows = first.worker.preset, examples(first.options.base)
    values = preset.served()
    with gr.Row(equal_height=True, elem_id="prompts"):
        for name, value in (("source", preset.source), ("target", rows[0]["target"])):
            inputs[name] = gr.Textbox(value, label=words(name), info=words(f"{name}_info"), scale=3,
                                      max_lines=1, elem_id=name)  # fmt: skip
        with gr.Column(scale=2, min_width=160):
            inputs["adapt"] = gr.Button(words("adapt"), variant="primary", elem_id="adapt")
            inputs["stop"] = gr.Button(words("stop"), elem_id="stop")
    with gr.Accordion(words("pictures"), open=False, elem_id="pictures-part"):
        gr.HTML(f'<p class="facts">{words("pictures_note")}</p>')
        inputs["pictures"] = gr.Gallery(
            type="filepath", file_types=["image"], sources=["upload", "clipboard"], columns=8,
            fit_columns=False, height=220, object_fit="cover", show_label=False, buttons=[],
            interactive=True, elem_id="pictures",
        )  # fmt: skip
    rows_of = {base: gr.Row(visible=base == first.options.base) for base in choices.bases}
    with gr.Accordion(words("settings"), open=False, elem_id="settings") as folded:
        others = [name for name in SERVED if name not in chain(*ROWS)]
        for names in (*ROWS, *(others[i : i + 4] for i in range(0, len(others), 4))):
            with gr.Row():
                for name in names:
                    inputs[name] = field(name, SERVED[name], values[name])
        inputs["start"] = gr.Dropdown([("—", "")], value="",
                                      label=words("start_from"), info=words("start_from_info"),
                                      elem_id="start")  # fmt: skip
    columns = ("source", "target", "steps", "k")
    for base, row in rows_of.items():
        preset, rows = PRESETS[base], examples(base)
        values = {**preset.served(), "source": preset.source}
        with row:
            rows = gr.Examples(
                [[{**values, **row}[name] for name in columns] for row in rows],
                [inputs[name] for name in columns],
                label=words("examples"),
                example_labels=[f"{row['source']} → {row['target']}" for row in rows],
                examples_per_page=20,
                api_visibility="private",
            )
            rows.input_component_props = [{}] * len(columns)  # or k's limit would be undone
    return {**inputs, "settings": folded, **{f"examples_{b}": row for b, row in rows_of.items()}}


def explore_part() -> dict:
    """What changes the images without training."""
    with gr.Group(elem_id="explore"):
        part = {"strength": number("strength", STRENGTH, 1.0)}
        part |= banded_part("by_resolution", {band: band for band in BANDS}, STRENGTH, 1.0)
        with part["by_resolution"]:
            part["keep_shown"] = gr.Button(words("keep_shown"), size="sm", elem_id="keep-shown")
        part["sample_truncation"] = number("sample_truncation", TRUNCATION, 0.7)
        part["snapshot"] = gr.Slider(
            1, 2, 1, step=1, label=words("snapshot"), visible=False, info="", elem_id="snapshot"
        )
    with gr.Row(equal_height=True, elem_id="who"):
        part["seeds"] = gr.Textbox(SEEDS, label=words("seeds"), info=words("seeds_info"), scale=2,
                                   max_lines=1, elem_id="seeds")  # fmt: skip
        part["more"] = gr.Button(words("more"), elem_id="more", min_width=120)
    return part


def banded_part(fold: str, names: dict[str, str], known: Setting, value: float) -> dict:
    """A number by resolution, folded.

    Args:
        fold: what the folded part is called.
        names: the name of each of BANDS.
        known: the number.
        value: to begin with.
    """
    with gr.Accordion(words("by_resolution"), open=False, elem_id=fold) as folded:
        return {fold: folded, **{n: number(band, known, value) for band, n in names.items()}}


def library_part() -> dict:
    """Kept domains, and mixes of them."""
    part = {}
    with gr.Tab(words("domains")):
        part["cards"] = component("cards")
        gr.HTML(f'<p class="facts">{words("domains_note")}</p>')
        with gr.Row():
            part["load"] = gr.UploadButton(
                words("load"), file_types=[".safetensors"], elem_id="load"
            )
            part["forget_all"] = gr.Button(words("forget_all"), elem_id="forget-all")
        part["carry_over"] = gr.Checkbox(
            False, **labelled("carry_over", CARRY_OVER), elem_id="carry-over"
        )
    with gr.Tab(words("mix")):
        part["chosen"] = gr.CheckboxGroup([], label=words("mix_choose"), elem_id="chosen")
        with gr.Row():
            for name, names in WEIGHTS_BY_BAND.items():
                with gr.Column(visible=False, min_width=200) as part[f"{name}_part"], gr.Group():
                    part[name] = number(name, WEIGHT, 0.5)
                    part |= banded_part(f"{name}_fold", names, WEIGHT, 0.5)
        with gr.Row():
            part["mix"] = gr.Button(words("mix_draw"), elem_id="mix")
            part["keep"] = gr.Button(words("mix_keep"), elem_id="keep")
    return part


def film_part() -> dict:
    """The strip from 0 to 1, and the film."""
    part = {}
    for name, made, options in (
        ("strip", gr.Image, {"format": "png", "buttons": ["download", "fullscreen"]}),
        ("film", gr.Video, {"autoplay": True, "loop": True, "buttons": ["download"]}),
    ):
        with gr.Tab(words(name)):
            gr.HTML(f'<p class="facts">{words(name + "_note")}</p>')
            part[f"{name}_draw"] = gr.Button(words(f"{name}_draw"), elem_id=f"{name}-draw")
            part[name] = made(
                interactive=False, show_label=False, elem_id=name, visible=False, **options
            )
    return part


def field(name: str, known: Setting, value, **options):
    """A field of the form or of the API for a setting; see `number` for the options."""
    if known.kind in (int, float):
        return number(name, known, value, **options)
    if known.kind is bool:
        return gr.Checkbox(value, **labelled(name, known, **options))
    choices = [(TITLES.get(choice, choice), choice) for choice in known.choices]
    return gr.Radio(choices, value=value, **labelled(name, known, **options))


def number(name: str, known: Setting, value: float, plain: bool = False):
    """A slider for a range that a hand can set, a field for any other; `plain` in English."""
    limits = known.served
    fine = (limits.high - limits.low) / limits.step > 500
    return (gr.Number if fine else gr.Slider)(
        value=value, minimum=limits.low, maximum=limits.high, step=limits.step, min_width=200,
        **labelled(name, known, plain),
    )  # fmt: skip


def labelled(name: str, known: Setting, plain: bool = False) -> dict:
    """What every field of a setting has: its words, in the reader's language or `plain`."""
    has_info = f"{name}_info" in texts()["en"]
    return {
        "label": known.label if plain else words(name),
        "info": None if plain or not has_info else words(f"{name}_info"),
    }


def upload(what: str = "A .safetensors file that an adaptation made.", **options) -> gr.File:
    """A file that an endpoint takes. What is not a file gets a sentence of ours, not gradio's.

    No subclass: gradio writes a stub file beside the source of each, wherever that is.
    """
    field = gr.File(**options)
    words = {"additional_description": what}
    info = {**field.api_info(), **words}
    field.api_info, field.data_model = lambda: info, None
    return field


def by_resolution(field: gr.Slider) -> gr.Slider:
    """A number of the API that may be an object, a number each for coarse, middle and fine."""
    info, each = field.api_info(), {"type": "number"}
    bands = {"type": "object", "properties": dict.fromkeys(BANDS, each), "required": [*BANDS]}
    field.api_info = lambda: {"anyOf": [info, bands]}
    return field


def api_part(choices: GeneratorChoices) -> None:
    """The endpoints, over components that no page shows."""
    service, sessions = choices.first, choices.sessions
    api, preset = Api(service, sessions), service.worker.preset
    values = preset.served()
    with gr.Row(visible=False):
        settings = {
            "source": gr.Textbox(preset.source, label="Source"),
            "target": gr.Textbox(examples(service.options.base)[0]["target"], label="Target"),
            **{n: field(n, known, values[n], plain=True) for n, known in SERVED.items()},
        }
        domain, file = upload(label="Domain file"), gr.File(label="Domain file")
        several = upload(label="Domain files", file_count="multiple")
        pictures = upload("PNG, JPEG, WebP, GIF, BMP or TIFF pictures.", label="Pictures",
                          file_count="multiple")  # fmt: skip
        seeds, weights = gr.Textbox(SEEDS, label="Seeds"), gr.Textbox("", label="Weights")
        strength = by_resolution(number("strength", STRENGTH, 1.0, True))
        truncation = number("sample_truncation", TRUNCATION, 0.7, True)
        carry = {"carry_over": field("carry_over", CARRY_OVER, False, plain=True)}
        pairs, samples = (gr.Image(label=label, format="png") for label in ("Pairs", "Samples"))
        now, domain_info, info, forgotten = (
            gr.JSON(label=label) for label in ("Status", "Domain", "Info", "Forgotten")
        )
        job = {**settings, "domain_file": domain, **carry, "pictures": pictures}
        drawing = {"seeds": seeds, "truncation": truncation}
        train = {**FOLLOW, "validator": lambda **values: refusals(service, values)}
        paint, tell = {"concurrency_id": "draw"}, {"concurrency_id": "tell"}
        mixed = {"domain_files": several, "weights": weights, **drawing, **carry}
        drawn = {**drawing, "domain_file": domain, "strength": strength, **carry}
        for name, inputs, outputs, options in (
            ("adapt", job, [pairs, now, file], train),
            ("adapt_once", job, [pairs, now, file], train),
            ("sample", drawn, samples, paint),
            ("blend", mixed, [samples, file], paint),
            ("domain", {"domain_file": domain}, domain_info, paint),
            ("info", {}, info, tell),
            ("forget", {}, forgotten, tell),
        ):
            gr.Button().click(
                answering(getattr(api, name), sessions), inputs_kwargs=inputs, outputs=outputs,
                api_name=name, preprocess=False, **options,
            )  # fmt: skip


def launch(blocks: gr.Blocks, sessions: Sessions, **options) -> tuple:
    """Serve a page; `options` are gradio's, such as server_port."""
    theme = gr.themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"),
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )

    def hosts() -> list[str | None]:
        """From where requests came that wait or are served."""
        requests = [event.request for event in list(blocks._queue.event_ids_to_events.values())]
        return [request.client and request.client.host for request in requests]

    around = [
        Middleware(PlainErrors),
        Middleware(Presence, sessions=sessions),
        Middleware(
            Share, events=hosts, tidy=sessions.tidy_uploads, remove_parts=sessions.remove_parts
        ),
    ]
    return blocks.launch(
        theme=theme, css_paths=PAGE / "style.css", i18n=I18N, show_error=True, ssr_mode=False,
        max_file_size="200mb", run_history=False, enable_monitoring=False,
        footer_links=["api", "settings"], max_threads=MAX_THREADS,
        state_session_capacity=MAX_STATES, app_kwargs={"middleware": around},
        _frontend=False,  # no look at its own page, which a busy machine fails at, and ends
        **options,
    )  # fmt: skip


def port(text: str) -> int:
    """A port to listen on."""
    number = int(text)
    if not 0 < number < 2**16:
        raise argparse.ArgumentTypeError(f"{text} is not a port: choose from 1 to 65535.")
    return number


def minutes(text: str) -> float:
    """A time to remember visitors for."""
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a time: give minutes, such as 60.")
    return number


def root_path(text: str) -> str:
    """The path, or the whole address, under which a proxy serves the page; "" for none."""
    if re.search(r"[\s?#]", text):
        raise argparse.ArgumentTypeError(f"{text} is not a path: give one such as /nada.")
    if text.startswith(("http://", "https://")) or not text.strip("/"):
        return text.rstrip("/")
    return "/" + text.strip("/")


def networks(text: str) -> str:
    """Addresses and networks, joined by commas."""
    for part in text.split(","):
        try:
            ipaddress.ip_network(part.strip())
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"{part} is no address: give some such as 10.0.0.0/8,127.0.0.1."
            ) from error
    return text


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the server; `arguments` are those of the process unless given."""
    parser = argparse.ArgumentParser(description="Serve the page of StyleGAN-NADA.")

    def option(name: str, default, meaning: str, kind: Callable = str) -> None:
        meaning += "" if default is None else f" (default: {default})"
        parser.add_argument(name, default=default, type=kind, help=meaning)

    option("--generator", "auto", '"auto", "demo", "ffhq", a file, or "org/repo:file" of the Hub')
    option("--clip", "auto", '"auto", "demo", a file, "ViT-B/32", or A,B')
    option("--device", "auto", '"auto", "cpu", or another of torch\'s')
    host = os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    option("--host", host, "address to listen on, 0.0.0.0 for all")
    option("--port", None, "port to listen on", port)
    path = os.environ.get("GRADIO_ROOT_PATH") or None
    option("--root-path", path, "where a proxy serves the page, such as /nada", root_path)
    option("--keep", KEEP_SECONDS / 60, "minutes for which visitors are remembered", minutes)
    meaning = "where what visitors keep lies and a restart finds it (default: a temporary folder)"
    option("--folder", None, meaning, Path)
    meaning = "whose word is taken on where a request comes from, such as 10.0.0.0/8,127.0.0.1"
    option("--proxies", None, meaning, networks)
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints as MCP tools too")
    return parser.parse_args(arguments)


def open_home(args: argparse.Namespace) -> Home:
    """The server's folder, which gradio shall use for all that it writes, too.

    Raises:
        OSError: it cannot be written to.
    """
    root = args.folder or Path(os.environ.get("GRADIO_TEMP_DIR") or temporary_root())
    name = str(args.port or os.environ.get("GRADIO_SERVER_PORT", 7860))
    home = Home(root.resolve(), name, args.keep * 60)
    os.environ["GRADIO_TEMP_DIR"] = str(home.folder)
    return home


def serve(args: argparse.Namespace) -> tuple[gr.Blocks, GeneratorChoices]:
    """Open the page, which loads no models yet.

    Raises:
        ValueError: the generator or the device cannot be had, or the address not listened on.
        OSError: no port is free, or there is nowhere to write to.
    """
    lent, host = bool(spaces), bare(args.host)
    check_address(host, args.port)
    reach_without_proxy("localhost", "127.0.0.1", host)
    options = choose_options(args.generator, args.clip, args.device, lent)
    sources = offered(options, lent)
    choices = GeneratorChoices(
        options, sources, spaces and spaces.GPU, args.keep * 60, open_home(args)
    )
    # read when the server starts: whose word on the visitor's address is taken
    believed = args.proxies or (INSIDE if "SPACE_ID" in os.environ else "")
    os.environ["FORWARDED_ALLOW_IPS"] = believed
    blocks = build(choices)
    launch(blocks, choices.sessions, server_name=f"[{host}]" if ":" in host else host,
           server_port=args.port, root_path=args.root_path, mcp_server=args.mcp,
           prevent_thread_lock=True)  # fmt: skip
    hang_up_in_forks(blocks.server_port)
    return blocks, choices


def main() -> None:
    """Open the page, then load the models, so that the page is there at once; serve until told to
    end, and leave with all runs saved."""
    args, told = parse(), []  # no event, whose lock the thread may hold that a signal interrupts

    def tell(number: int, _) -> None:
        if told:
            os._exit(1)  # asked twice
        told.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, tell)
        if hasattr(os, "register_at_fork"):  # a process that lends a device just ends
            os.register_at_fork(after_in_child=partial(signal.signal, number, signal.SIG_DFL))
    keep_freed_memory()
    with ending_in_a_sentence("app.py"):
        _, choices = serve(args)
        with closing(choices.sessions):
            loading = in_background(choices.first.worker.models)
            while not (loading.done() or told):
                time.sleep(TICK)
            if loading.done():
                device = loading.result().generator.mean_latent.device
                if sentence := why_plain(device.type):
                    print(sentence, file=sys.stderr)
            while not told:
                time.sleep(TICK)
    logging.shutdown()
    os._exit(0)  # threads that compute would end the process with a crash if they were torn down


if __name__ == "__main__":
    main()
else:
    demo = build(GeneratorChoices(Options(), gpu=spaces and spaces.GPU))
