"""A choice between generators, one of them from a Hub on this machine; also as a page."""

import re
import threading

import pytest
import torch
from playwright.sync_api import expect

from nada.formats import catalogue
from nada.formats.catalogue import CATALOGUE
from nada.generator import GeneratorConfig
from nada.serve.generators import GeneratorChoices, offered
from nada.serve.models import STORE, Download, Options, choose_options, gpu_of
from nada.serve.validate import BadInput
from nada.serve.view import loading, refusal
from tests.helpers import tiny_generator
from tests.hub_server import Repo, running_hub, status
from tests.page import WIDTHS, adapt, begin, fits, picture, shoot, visits
from tests.served import ROOT, serve, serve_app

LARGER = GeneratorConfig(size=32, w_dim=16, z_dim=16, mapping_layers=2, channels=(12, 8, 6, 6))
FILE = CATALOGUE["ffhq"].places[0]
PADDING = 6_000_000  # floats; the Hub's client tells of a download every ten megabytes


@pytest.fixture
def choices():
    return GeneratorChoices(Options("given/face.pt", device="cpu"), ["demo", "ffhq"])


def test_all_that_can_be_served_is_offered_once(choices):
    titles = [CATALOGUE[name].title for name in ("demo", "ffhq")]
    expected = [*zip(titles, ("demo", "ffhq")), ("face.pt", "face.pt")]
    assert choices.titles == expected
    assert choices.bases == ["ffhq", "demo"]
    assert GeneratorChoices(Options("demo"), ["demo"]).titles == expected[:1]


def test_a_file_is_known_by_its_name_alone():
    for source, name in (("/srv/secret/demo", "demo (file)"), ("C:\\secret\\face.pt", "face.pt")):
        choices = GeneratorChoices(Options(source, device="cpu"), ["demo"])
        assert choices.name_of(choices.first) == name
        assert choices.titles == [(CATALOGUE["demo"].title, "demo"), (name, name)]


def test_a_choice_is_its_visitors_own(choices, monkeypatch):
    demo, first = choices._service("demo"), choices.first
    monkeypatch.setattr(demo.worker, "models", lambda: None)
    one, two = (choices.sessions.get(name) for name in ("one", "two"))
    list(choices.choose(one, "demo"))
    assert one.service is demo and two.service is first is choices.sessions.get(None).service
    assert demo.worker.turn is first.worker.turn


@pytest.mark.parametrize("source", ["nothing", "", None, ["demo"], {"demo": 1}, "../../etc/passwd"])
def test_what_is_not_offered_gets_a_sentence(choices, source):
    with pytest.raises(BadInput, match=r"choose from demo, ffhq, face\.pt\."):
        list(choices.choose(choices.sessions.get("one"), source))


def test_what_cannot_be_had_leaves_the_choice_as_it_was(choices, monkeypatch):
    def fail():
        raise ValueError("The Hub is shut; come back later.")

    monkeypatch.setattr(choices._service("ffhq").worker, "models", fail)
    session = choices.sessions.get("one")
    with pytest.raises(BadInput, match="The Hub is shut; come back later"):
        list(choices.choose(session, "ffhq"))
    assert session.service is choices.first


def test_who_comes_back_finds_the_generator_they_chose(choices, monkeypatch):
    demo, first = choices._service("demo"), choices.first
    for service in (demo, first):
        monkeypatch.setattr(service.worker, "models", lambda: None)
    monkeypatch.setattr(STORE, "is_ready", lambda options: True)
    one, two, three = (choices.sessions.get(name) for name in ("one", "two", "three"))
    list(choices.choose(one, "demo"))
    assert one.form["generator"] == "demo"
    for session, remembered, expected in (
        (two, {"generator": "demo"}, demo),  # by a server that was started again
        (three, {"generator": "one that is not offered any more"}, first),
        (one, {}, demo),
    ):
        session.remember(remembered)
        list(choices.return_to(session))
        assert session.service is expected


def test_who_comes_back_to_what_cannot_be_had_begins_with_the_first(choices, monkeypatch):
    def fail():
        raise ValueError("The Hub is shut; come back later.")

    monkeypatch.setattr(choices._service("ffhq").worker, "models", fail)
    monkeypatch.setattr(STORE, "is_ready", lambda options: options == choices.first.options)
    session = choices.sessions.get("one")
    session.remember({"generator": "ffhq"})
    list(choices.return_to(session))
    assert session.service is choices.first


def test_a_download_is_told_in_bytes_and_as_a_bar():
    half = Download(5 * 2**20, 10 * 2**20, "a<b>.pt")
    assert str(half) == "Downloading a<b>.pt: 5.0 of 10.0 MB, 50 %."
    told = loading(half)
    assert 'aria-valuenow="50"' in told and "width:50%" in told and "<b>" not in told
    assert "5.0 MB." in loading(Download(5 * 2**20, None, "x")) and "Loading" in loading(None)
    assert "&lt;b&gt;" in refusal(ValueError("<b>"))


def test_a_reason_is_told_of_the_choice_and_of_no_other():
    options = choose_options("auto", "demo", "cpu")
    assert options.generator == "demo" and "'ffhq' would take minutes" in options.reason
    choices = GeneratorChoices(options, ["demo", "ffhq"])
    assert choices.first.options.reason and not choices._service("ffhq").options.reason
    assert choose_options("demo", "demo", "cpu").reason == ""


def test_a_lent_gpu_counts_though_this_process_has_none(monkeypatch):
    assert gpu_of("cpu") == "" and gpu_of("cpu", lent=True) == "a GPU lent for each run"
    monkeypatch.setattr(catalogue, "answers", lambda place: True)
    options = choose_options("auto", "auto", "cpu", lent=True)
    assert (options.generator, options.device) == ("ffhq", "cpu")
    assert "there is a GPU lent for each run and" in options.reason
    assert offered(options) == ["demo"] and offered(options, lent=True) == ["demo", "ffhq"]


# The page


@pytest.fixture(scope="module")
def hub():
    with running_hub() as running:
        yield running


@pytest.fixture(scope="module")
def places(hub, tmp_path_factory):
    """What the Hub has: a generator of 32 pixels under the name of FFHQ's."""
    path = tmp_path_factory.mktemp("hub") / "g.pt"
    state = tiny_generator(LARGER).state_dict()
    torch.save({"g_ema": state, "d": {"padding": torch.rand(PADDING)}}, path)
    hub.repos[FILE.repo] = Repo({FILE.file: path.read_bytes()})
    return hub.repos[FILE.repo]


def serve_offers(folder, clip, hub):
    """The app as on a machine that can serve all named generators, and a file."""
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_TOKEN": "",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_DOWNLOAD_TIMEOUT": "240",
    }
    return serve(folder, clip, environment=environment, program=("-m", "tests.offering"))


@pytest.fixture(scope="module")
def server(hub, places, tmp_path_factory, clip_tiny):
    """An app that may have downloaded FFHQ's generator already, or does so at once."""
    with serve_offers(tmp_path_factory.mktemp("offering"), clip_tiny, hub) as running:
        yield running


@pytest.fixture
def visit_new(hub, places, browser, tmp_path, clip_tiny):
    """Open the page of an app that has downloaded nothing yet."""
    with serve_offers(tmp_path, clip_tiny, hub) as running, visits(browser, running) as visit:
        yield visit
    places.faults = {}


def halting(go_on: threading.Event):
    """Half of a file, and the rest when it is told to."""

    def fault(handler, contents):
        middle = len(contents) // 2
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(contents)))
        handler.end_headers()
        handler.wfile.write(contents[:middle])
        handler.wfile.flush()
        go_on.wait(240)
        handler.wfile.write(contents[middle:])

    return fault


GIVEN, FFHQ, DEMO = "generator.safetensors", CATALOGUE["ffhq"].title, CATALOGUE["demo"].title


def radio(page, title: str):
    return page.locator("#generator").get_by_label(title)


def pick(page, title: str):
    """Choose by the keyboard: a message may lie over the choice, and a refusal undo it at once."""
    radio(page, title).focus()
    page.keyboard.press("Space")


@pytest.mark.slow
def test_a_refused_download_leaves_the_page_as_it_was_and_can_be_tried_again(visit_new, places):
    page = visit_new()
    expect(page.locator("#generator input")).to_have_count(3)
    expect(radio(page, GIVEN)).to_be_checked()
    own = picture(page, "before")
    places.faults = {"meta": [status(403), ...]}
    pick(page, FFHQ)
    expect(page.locator("#loading [role=alert]")).to_contain_text("403")
    expect(radio(page, GIVEN)).to_be_checked()
    assert picture(page, "before") == own
    expect(page.locator("#foot")).to_contain_text(GIVEN)

    go_on = threading.Event()
    places.faults = {"data": [halting(go_on)]}
    pick(page, FFHQ)
    bar = page.locator("#loading [role=progressbar]")
    expect(bar).to_have_attribute("aria-valuenow", re.compile(r"^[1-9]\d?$"))
    expect(page.locator("#loading")).to_contain_text(re.compile(r"Downloading .*of 2\d\.\d MB"))
    page.set_viewport_size({"width": WIDTHS["phone"], "height": 900})
    page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth")
    go_on.set()
    expect(page.locator("#foot")).to_contain_text(FILE.file)
    expect(radio(page, FFHQ)).to_be_checked()
    expect(page.locator("#loading")).not_to_contain_text("Downloading")


@pytest.mark.slow
def test_others_work_while_one_downloads(visit_new, places):
    go_on, page = threading.Event(), visit_new()
    places.faults = {"data": [halting(go_on)]}
    pick(page, FFHQ)
    expect(page.locator("#loading [role=progressbar]")).to_be_visible()
    other = visit_new(WIDTHS["phone"], locale="ru-RU")
    expect(other.locator("#generator")).to_contain_text("Генератор")
    begin(other, 2000, "Настройки", "Зерно", "Шаги")
    expect(other.locator(".run.running")).to_contain_text("/2000")
    go_on.set()
    expect(page.locator("#foot")).to_contain_text(FILE.file)
    expect(other.locator(".run.running")).to_be_visible()
    other.keyboard.press("Escape")
    expect(other.locator(".run.stopped")).to_be_visible()
    expect(other.locator("#foot")).to_contain_text(GIVEN)


def test_a_chosen_generator_shows_itself_and_refuses_anothers_domains(visit):
    page = visit()
    adapt(page, 3)
    own = picture(page, "before")
    pick(page, FFHQ)
    expect(page.locator("#foot")).to_contain_text("32 px")
    expect(page.locator(".compare img.before")).not_to_have_attribute("src", own)
    page.locator(".card").get_by_text("Open").click()
    expect(page.get_by_text("made from another generator")).to_be_visible()


@pytest.mark.slow
def test_a_running_run_keeps_its_generator(visit):
    page = visit()
    begin(page, 2000)
    expect(page.locator(".run.running")).to_contain_text("/2000")
    pick(page, FFHQ)
    expect(page.locator("#loading [role=alert]")).to_contain_text("Your run goes on")
    expect(radio(page, GIVEN)).to_be_checked()
    page.keyboard.press("Escape")
    expect(page.locator(".card")).to_have_count(1)


@pytest.mark.slow
def test_a_generator_comes_with_its_examples(visit, tmp_path):
    page = visit()
    pick(page, FFHQ)
    expect(page.locator("#foot")).to_contain_text("32 px")
    expect(page.get_by_text("photo → bronze statue")).to_be_hidden()
    pick(page, DEMO)
    expect(page.locator("#foot")).to_contain_text("128 px")
    expect(page.get_by_text("photo → bronze statue")).to_be_visible()
    expect(page.locator("#chart .run")).to_contain_text("press Adapt")
    assert fits(page)
    shoot(page, "demo", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("asked, told", [("auto", 1), ("demo", 0)])
def test_the_page_says_why_it_has_the_generator(browser, tmp_path, asked, told):
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    environment |= {
        "http_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "",
        "no_proxy": "",
    }  # none there
    with serve_app(tmp_path, "--generator", asked, environment=environment) as running:
        page = browser.new_page()
        page.goto(running.url)
        expect(page.locator("#foot")).to_contain_text("128 px", timeout=120_000)
        reason = page.get_by_text(
            "The bundled generator is used, since 'ffhq' would take minutes a run on a CPU and "
            "there is no GPU here; ask for it with --generator ffhq."
        )
        expect(reason).to_have_count(told)
        if told:
            expect(reason).to_be_visible()
        page.close()
