"""The page and its API: two prompts in, an adapted generator out, watched while it trains.

Wiring only: what is done stands in `nada.serve.service`, what it looks like in `nada.serve.view`
and `nada/serve/page`. The page's own events are private; scripts have endpoints of their own,
whose names do not follow the page's.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by gradio when a page is built
if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # has to come before torch
else:
    spaces = None

import argparse
import html
import inspect
import logging
import secrets
from collections.abc import Sequence
from contextlib import closing, contextmanager
from types import SimpleNamespace

import gradio as gr

from nada.presets import PRESETS, SERVED, examples
from nada.serve.api import Api
from nada.serve.events import SAME, SETTINGS, Change, PageEvents
from nada.serve.generators import GeneratorChoices, offered
from nada.serve.service import Service
from nada.serve.sessions import KEEP_SECONDS
from nada.serve.validate import SPOKEN, STRENGTH, TRUNCATION, WEIGHT
from nada.serve.view import PAGE, UNFORESEEN, asset, texts
from nada.serve.worker import Options, choose_options
from nada.settings import Setting

MAX_QUEUE = 20  # visitors who may wait
I18N = gr.I18n(  # gradio has words of its own under plain names
    **{language: {f"nada_{key}": text for key, text in told.items()}
       for language, told in texts().items()}
)  # fmt: skip
SEEDS = "1-8"
TRAIN = {"concurrency_id": "train", "concurrency_limit": 1}
PRIVATE = {"api_visibility": "private", "preprocess": False}
UNSEEN = {**PRIVATE, "show_progress": "hidden"}
LIVE = {**UNSEEN, "trigger_mode": "always_last", "concurrency_id": "draw", "concurrency_limit": 2}
IN_ROW = 4  # settings side by side
FIRST_ROW = ("steps", "k", "method", "to_rgb")
NAMES = ("source", "target", *SETTINGS)  # the settings of a run
TITLES = {"gradient": "Gradient norm", "w_shift": "W+ shift"}  # of choices


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
        logging.exception("error %s", number := secrets.token_hex(4))
        raise gr.Error(UNFORESEEN.format(number), print_exception=False) from error


def answered(desk) -> SimpleNamespace:
    """The methods of an object as gradio calls them; see `answering`."""
    methods = inspect.getmembers(desk, inspect.ismethod)
    return SimpleNamespace(**{n: answering(m) for n, m in methods if not n.startswith("_")})


def answering(method):
    """A method of (owner, …) as gradio calls it: the owner is the session, errors are sentences.

    A parameter `event` gets what the browser sent along with an event.
    """
    kinds = {"owner": gr.Request, "event": gr.EventData}
    given = inspect.signature(method)
    asked = [p.replace(annotation=kinds.get(name, p.empty)) for name, p in given.parameters.items()]

    def answer(*args, **kwargs):
        with sentences():
            return outside(method(*map(inside, args), **kwargs))

    def stream(*args, **kwargs):
        with sentences(), closing(method(*map(inside, args), **kwargs)) as told:
            yield from map(outside, told)

    call = stream if inspect.isgeneratorfunction(method) else answer
    call.__doc__, call.__name__ = method.__doc__, method.__name__
    call.__signature__ = inspect.Signature(asked)
    call.__annotations__ = {p.name: p.annotation for p in asked if p.annotation is not p.empty}
    return call


def inside(value):
    """What gradio gives, as the library takes it."""
    if isinstance(value, gr.Request):
        return value.session_hash
    return value._data if isinstance(value, gr.EventData) else value


def outside(value):
    """What the library tells, as gradio takes it."""
    if isinstance(value, tuple):
        return tuple(map(outside, value))
    if isinstance(value, Change):
        return gr.update(**value.props)
    return gr.skip() if value is SAME else value


def validator(studio_of):
    """Refuses a bad request before it queues, at the field that is wrong."""

    def validate(owner: gr.Request, **given) -> list[dict]:
        wrong = studio_of(inside(owner)).problem({name: given.get(name) for name in NAMES})
        return [gr.validate(not wrong or name != wrong.field, str(wrong)) for name in given]

    return validate


def build(
    options: Options | None = None, keep_seconds: float = KEEP_SECONDS, sources: Sequence[str] = ()
) -> gr.Blocks:
    """The page for a generator and a CLIP, or for a choice between the generators of `sources`.
    Models load when they are first needed."""
    studio = Service(options or Options(), spaces and spaces.GPU, keep_seconds)
    offers = GeneratorChoices(studio, sources)
    page = answered(PageEvents(offers))
    with gr.Blocks(
        title="StyleGAN-NADA", analytics_enabled=False, delete_cache=(600, 6 * KEEP_SECONDS)
    ) as blocks:
        gr.HTML(f"<h1>StyleGAN-NADA</h1><p>{words('tagline')}</p>", elem_id="title")
        which, going = choice_part(offers)
        settings, start, stop, folded, chips = adapt_part(offers)
        hint = gr.HTML(elem_id="hint")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                shown = component("pairs", elem_id="pairs")
            with gr.Column(scale=4, min_width=320):
                drawn = component("run", elem_id="chart")
                view = explore_part()
                file = gr.File(label=words("file"), interactive=False, visible=False)
                with gr.Accordion(words("status"), open=False):
                    now = gr.JSON(show_label=False)
        with gr.Tabs(elem_id="more-part"):
            kept, made = library_part(), film_part()
        line = gr.HTML(elem_id="foot")
        look = [view["seeds"], view["strength"], view["psi"]]
        library = [kept["cards"], settings["start"], kept["chosen"], file]

        form = {name: settings[name] for name in NAMES}
        go = [start.click, settings["source"].submit, settings["target"].submit]
        gr.on(
            go, page.unfold, inputs_kwargs=form, outputs=folded, queue=False, js=asset("link.js"),
            **UNSEEN,
        )  # fmt: skip
        run = gr.on(
            go, page.train, outputs=[shown, now, drawn], validator=validator(offers.of),
            inputs_kwargs={**settings, "seeds": view["seeds"], "psi": view["psi"]},
            show_progress="minimal", show_progress_on=drawn, **TRAIN, **PRIVATE,
        )  # fmt: skip
        ended = [now, drawn, view["back"], view["strength"], shown, *library]
        run.then(page.settle, look[::2], ended, **UNSEEN)
        stop.click(None, cancels=[run])
        link = [*(prompts := [settings["source"], settings["target"]]), settings["seed"]]
        for prompt in prompts:
            prompt.change(page.hint, inputs_kwargs=form, outputs=hint, **LIVE)

        changed = [view["strength"].input, view["psi"].input, view["seeds"].submit]
        gr.on(changed, page.look, look, shown, **LIVE)
        view["more"].click(page.more, look, [view["seeds"], shown], **LIVE)
        view["back"].input(page.back, [view["back"], *look], shown, **LIVE)
        kept["cards"].act(page.act, look, [shown, *library], **UNSEEN)
        kept["load"].upload(page.load, [kept["load"], *look], [shown, *library], **UNSEEN)
        kept["chosen"].change(page.weigh, kept["chosen"], kept["weights"], **LIVE)
        weighed = [*look, kept["chosen"], *kept["weights"]]
        kept["mix"].click(page.mix, weighed, [shown, *library], **UNSEEN)
        kept["keep"].click(page.keep_mix, None, library, **UNSEEN)
        made["strip_draw"].click(page.strip, look[::2], made["strip"], **PRIVATE)
        made["film_draw"].click(page.film, look, made["film"], **PRIVATE)

        arrived = [going, which, line, drawn, view["back"], view["strength"], shown, *library]
        arrived += [made["strip"], made["film"], *(settings[n] for n in SETTINGS), *chips]
        which.input(page.choose, [which, *look[::2]], arrived, **UNSEEN)
        blocks.load(None, link, link, js=asset("page.js"))
        blocks.load(page.greet, look[::2], [line, settings["k"], shown], **UNSEEN)
        blocks.unload(page.leave)
        api_part(studio)
    blocks.studio = studio
    return blocks.queue(max_size=MAX_QUEUE, default_concurrency_limit=4, api_open=False)


def component(name: str, **options) -> gr.HTML:
    """A component of the page's own, from `nada/serve/page`; its words are in components.json."""
    template, script = asset(f"{name}.html"), asset(f"{name}.js")
    words = texts("components")
    return gr.HTML("", html_template=template, js_on_load=script, texts=words, **options)


def choice_part(offers: GeneratorChoices) -> tuple:
    """The generators to choose from, where there are several, and how far one is that loads."""
    which = gr.Radio(
        offers.choices, value=offers.first.options.generator, label=words("generator"),
        info=words("generator_info"), visible=len(offers.choices) > 1, elem_id="generator",
    )  # fmt: skip
    return which, gr.HTML(elem_id="loading")


def adapt_part(offers: GeneratorChoices) -> tuple:
    """Prompts, buttons, folded settings, examples of each base: the inputs of a run, the rest."""
    inputs, first = {}, offers.first
    preset, rows = first.device.preset, examples(first.options.base)
    values = preset.served()
    with gr.Row(equal_height=True, elem_id="prompts"):
        for name, value in (("source", preset.source), ("target", rows[0]["target"])):
            inputs[name] = gr.Textbox(value, label=words(name), info=words(f"{name}_info"), scale=3,
                                      max_lines=1, elem_id=name)  # fmt: skip
        with gr.Column(scale=2, min_width=160):
            start = gr.Button(words("adapt"), variant="primary", elem_id="adapt")
            stop = gr.Button(words("stop"), elem_id="stop")
    chips = [gr.Row(visible=base == first.options.base) for base in offers.bases]
    with gr.Accordion(words("settings"), open=False, elem_id="settings") as folded:
        others = [name for name in SERVED if name not in FIRST_ROW]
        rows = [FIRST_ROW, *(others[i : i + IN_ROW] for i in range(0, len(others), IN_ROW))]
        for names in rows:
            with gr.Row():
                for name in names:
                    inputs[name] = field(name, SERVED[name], values[name])
        inputs["start"] = gr.Dropdown([("—", "")], value="",
                                      label=words("start_from"), info=words("start_from_info"),
                                      elem_id="start")  # fmt: skip
    columns = ("source", "target", "steps", "k")
    for base, chip in zip(offers.bases, chips):
        preset, rows = PRESETS[base], examples(base)
        values = {**preset.served(), "source": preset.source}
        with chip:
            rows = gr.Examples(
                [[{**values, **row}[name] for name in columns] for row in rows],
                [inputs[name] for name in columns], label=words("examples"),
                example_labels=[f"{row['source']} → {row['target']}" for row in rows],
                examples_per_page=20, api_visibility="private",
            )  # fmt: skip
            rows.input_component_props = [{}] * len(columns)  # or k's limit would be undone
    return inputs, start, stop, folded, chips


def explore_part() -> dict:
    """What changes the pictures without training."""
    with gr.Group(elem_id="explore"):
        part = {
            "strength": number("strength", STRENGTH, 1.0),
            "psi": number("psi", TRUNCATION, 0.7),
            "back": gr.Slider(1, 2, 1, step=1, label=words("snapshot"), visible=False,
                              info="", elem_id="snapshot"),
        }  # fmt: skip
    with gr.Row(equal_height=True, elem_id="who"):
        part["seeds"] = gr.Textbox(SEEDS, label=words("seeds"), info=words("seeds_info"), scale=2,
                                   max_lines=1, elem_id="seeds")  # fmt: skip
        part["more"] = gr.Button(words("more"), elem_id="more", min_width=120)
    return part


def library_part() -> dict:
    """Kept domains, and mixes of them."""
    part = {}
    with gr.Tab(words("domains")):
        part["cards"] = component("cards")
        gr.HTML(f'<p class="facts">{words("domains_note")}</p>')
        part["load"] = gr.UploadButton(words("load"), file_types=[".safetensors"], elem_id="load")
    with gr.Tab(words("mix")):
        part["chosen"] = gr.CheckboxGroup([], label=words("mix_choose"), elem_id="chosen")
        with gr.Row():
            part["weights"] = [number(f"weight_{i}", WEIGHT, 0.5, visible=False) for i in (1, 2, 3)]
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
            part[name] = made(interactive=False, show_label=False, elem_id=name, visible=False,
                              **options)  # fmt: skip
    return part


def field(name: str, known: Setting, value, **options):
    """A field of the form or of the API for a setting; see `number` for the options."""
    if known.kind in (int, float):
        return number(name, known, value, **options)
    if known.kind is bool:
        return gr.Checkbox(value, **labelled(name, known, **options))
    choices = [(TITLES.get(choice, choice), choice) for choice in known.choices]
    return gr.Radio(choices, value=value, **labelled(name, known, **options))


def number(name: str, known: Setting, value: float, plain: bool = False, visible: bool = True):
    """A slider for a range that a hand can set, a field for any other; `plain` in English."""
    limits = known.served
    fine = (limits.high - limits.low) / limits.step > 500
    return (gr.Number if fine else gr.Slider)(
        value=value, minimum=limits.low, maximum=limits.high, step=limits.step, min_width=200,
        **labelled(name, known, plain, visible),
    )  # fmt: skip


def labelled(name: str, known: Setting, plain: bool = False, visible: bool = True) -> dict:
    """What every field of a setting has: its words, in the reader's language or `plain`."""
    has_info = f"{name}_info" in texts()["en"]
    return {
        "label": known.label if plain else words(name),
        "info": None if plain or not has_info else words(f"{name}_info"),
        "visible": visible,
    }


def upload(**options) -> gr.File:
    """A file that an endpoint takes. What is none gets a sentence of ours, not gradio's.

    No subclass: gradio writes a stub file beside the source of each, wherever that is.
    """
    field = gr.File(**options)
    words = {"additional_description": "A .safetensors file that an adaptation made."}
    told = {**field.api_info(), **words}
    field.api_info, field.data_model = lambda: told, None
    return field


def api_part(studio: Service) -> None:
    """The endpoints, over components that no page shows."""
    api, preset = answered(Api(studio)), studio.device.preset
    values = preset.served()
    with gr.Row(visible=False):
        settings = {
            "source": gr.Textbox(preset.source, label="Source"),
            "target": gr.Textbox(examples(studio.options.base)[0]["target"], label="Target"),
            **{n: field(n, known, values[n], plain=True) for n, known in SERVED.items()},
        }
        domain, file = upload(label="Domain file"), gr.File(label="Domain file")
        several = upload(label="Domain files", file_count="multiple")
        seeds, weights = gr.Textbox(SEEDS, label="Seeds"), gr.Textbox("", label="Weights")
        strength = number("strength", STRENGTH, 1.0, True)
        psi = number("psi", TRUNCATION, 0.7, True)
        pairs, samples = (gr.Image(label=label, format="png") for label in ("Pairs", "Samples"))
        now, told, info = (gr.JSON(label=label) for label in ("Status", "Domain", "Info"))
        job = {**settings, "domain_file": domain}
        drawing = {"seeds": seeds, "truncation": psi}
        train = {**TRAIN, "validator": validator(lambda _: studio)}
        paint = {"concurrency_id": "draw"}
        mixed = {"domain_files": several, "weights": weights, **drawing}
        for name, inputs, outputs, options in (
            ("adapt", job, [pairs, now, file], train),
            ("adapt_once", job, [pairs, now, file], train),
            ("sample", {**drawing, "domain_file": domain, "strength": strength}, samples, paint),
            ("blend", mixed, [samples, file], paint),
            ("domain", {"domain_file": domain}, told, paint),
            ("info", {}, info, paint),
        ):  # fmt: skip
            gr.Button().click(getattr(api, name), inputs_kwargs=inputs, outputs=outputs,
                              api_name=name, preprocess=False, **options)  # fmt: skip


def launch(blocks: gr.Blocks, **options) -> tuple:
    """Serve a page; `options` are gradio's, such as server_port."""
    theme = gr.themes.Default(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="lg",
        font=("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"),
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )  # fmt: skip
    return blocks.launch(
        theme=theme, css_paths=PAGE / "style.css", i18n=I18N, show_error=True, ssr_mode=False,
        max_file_size="200mb", run_history=False, enable_monitoring=False,
        footer_links=["api", "settings"], **options,
    )  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the server was told; `arguments` are those of the process unless given."""
    parser = argparse.ArgumentParser(description="Serve the page of StyleGAN-NADA.")
    for name, default, meaning in (
        ("--generator", "auto", '"auto", "demo", "ffhq", a file, or "org/repo:file" of the Hub'),
        ("--clip", "auto", '"auto", "demo", a file, "ViT-B/32", or A+B'),
        ("--device", "auto", '"auto", "cpu", or another of torch\'s'),
        ("--host", None, "address to listen on"),
        ("--port", None, "port to listen on"),
        ("--keep", KEEP_SECONDS / 60, "minutes for which visitors are remembered"),
    ):
        of = {"--port": int, "--keep": float}.get(name, str)
        parser.add_argument(name, default=default, type=of, help=f"{meaning} (default: {default})")
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints as MCP tools too")
    return parser.parse_args(arguments)


def main() -> None:
    """Open the page, then load the models, so that the page is there at once."""
    told = parse()
    try:
        lent = bool(spaces)
        options = choose_options(told.generator, told.clip, told.device, lent)
        blocks = build(options, told.keep * 60, offered(options, lent))
        launch(blocks, server_name=told.host, server_port=told.port, mcp_server=told.mcp,
               prevent_thread_lock=True)  # fmt: skip
        blocks.studio.device.models()
    except ValueError as error:
        raise SystemExit(str(error)) from error
    blocks.block_thread()


if __name__ == "__main__":
    main()
else:
    demo = build()
