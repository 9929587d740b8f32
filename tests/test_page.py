"""The page as people use it: in Chromium, at the width of a desk and of a phone."""

import base64
import re
import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from nada.checkpoint import fingerprint, load_generator
from nada.delta import Delta, diff
from nada.serve.view import texts
from tests.helpers import quick_first, styled, trained_on
from tests.page import (
    PAUSE,
    WIDTHS,
    adapt,
    begin,
    button,
    changes,
    field,
    fits,
    load,
    picture,
    reload,
    shoot,
    tab,
    unfold,
    unfold_strengths,
    visits,
)
from tests.served import serve


def test_a_visit(page, tmp_path, server):
    """An example, a run that is stopped, its file, and another run at once."""
    assert fits(page)
    expect(page.locator("#chart .run")).to_contain_text("press Adapt")
    expect(page.locator(".thumbs button")).to_have_count(8)
    shoot(page, "open", tmp_path)

    page.get_by_text("face → zombie").click()
    expect(field(page, "Target")).to_have_value("zombie")
    expect(field(page, "Source")).to_have_value("face")
    unfold(page)
    field(page, "Steps").fill("2000")

    field(page, "Target").press("Enter")
    expect(page.locator(".run.running")).to_contain_text("/2000")
    page.wait_for_function("location.search.includes('source=face&target=zombie')")
    bar = page.locator(".run .bar div")
    width, source = bar.get_attribute("style"), picture(page)
    expect(bar).not_to_have_attribute("style", width)
    expect(page.locator(".compare img.after")).not_to_have_attribute("src", source)
    expect(page.locator(".run polyline")).to_be_visible()
    expect(page.locator(".run li")).to_have_count(5)
    shoot(page, "running", tmp_path)

    page.keyboard.press("Escape")
    expect(page.locator(".run.stopped")).to_contain_text("The domain file holds")
    with page.expect_download() as download:
        page.locator("a[download$='.safetensors']").click()
    told = Delta.load(download.value.path()).metadata
    assert (told["source"], told["target"]) == ("face", "zombie") and told["steps_done"] < 2000
    expect(page.locator(".card")).to_have_count(1)

    field(page, "Steps").fill("3")
    button(page, "Adapt").click()
    expect(page.locator(".run.finished")).to_contain_text("Done: step 3/3")
    expect(page.locator(".card")).to_have_count(2)
    assert fits(page)
    shoot(page, "done", tmp_path)


def test_a_result_is_explored(page, tmp_path):
    adapt(page, steps=16)
    page.locator(".thumbs button").nth(3).click()
    expect(page.locator(".tag.right")).to_contain_text("4")
    whole, source = picture(page), picture(page, "before")
    assert whole != source

    slider = page.locator(".compare input")
    slider.focus()
    slider.press("Home")
    assert page.locator(".compare").evaluate("node => node.style.getPropertyValue('--x')") == "0"

    began = time.monotonic()
    none = changes(page, lambda: field(page, "Strength").fill("0"))
    assert time.monotonic() - began < 5  # a busy machine; under a second on a free one
    assert none == source  # strength 0 is the base itself
    beyond = changes(page, lambda: field(page, "Strength").fill("1.5"))
    assert len({none, beyond, whole}) == 3
    assert changes(page, lambda: field(page, "Strength").fill("1")) == whole

    expect(page.locator("#snapshot")).to_contain_text("2 · 4 · 6 · 8 · 10 · 12 · 14 · 16")
    early = changes(page, lambda: field(page, "Snapshot").fill("2"))
    assert early not in (whole, source)
    last = page.locator("#snapshot input[type=range]")
    last.focus()
    assert changes(page, lambda: last.press("End")) == whole  # by hand, all the way back
    changes(page, lambda: last.press("Home"))
    changes(page, lambda: field(page, "Truncation of samples").fill("0.3"))
    button(page, "More seeds").click()
    expect(page.locator(".tag.right")).to_contain_text("9")
    expect(field(page, "Seeds")).to_have_value("9-16")

    tab(page, "From 0 to 1")
    button(page, "Draw the strip").click()
    expect(page.locator("#strip img")).to_be_visible()
    tab(page, "Film")
    button(page, "Make a film").click()
    expect(page.locator("#film video")).to_be_visible()
    wait = "node => node.readyState >= 2 && node.videoWidth >= 256"
    page.wait_for_function(wait, arg=page.locator("#film video").element_handle())
    shoot(page, "explored", tmp_path)
    assert fits(page)


def test_strength_is_set_by_resolution_and_found_again(page, tmp_path):
    """One slider sets all three; each of them redraws; what is shown can be kept."""
    adapt(page, steps=4)
    whole, source = picture(page), picture(page, "before")
    strengths = [field(page, name) for name in ("Strength", "Coarse", "Middle", "Fine")]
    expect(strengths[1]).not_to_be_visible()
    unfold_strengths(page)
    coarse = changes(page, lambda: strengths[1].fill("0"))
    expect(strengths[0]).to_have_value("0.67")  # the mean
    assert coarse not in (whole, source)
    assert changes(page, lambda: strengths[2].fill("0")) == source  # it has no fine layers
    changes(page, lambda: strengths[0].fill("0.5"))
    for strength in strengths:
        expect(strength).to_have_value("0.5")
    changes(page, lambda: strengths[0].fill("1"))
    seen = changes(page, lambda: strengths[2].fill("0.25"))
    shoot(page, "by-resolution", tmp_path)
    assert fits(page)

    reload(page)
    for strength, value in zip(strengths, ("0.75", "1", "0.25", "1")):
        expect(strength).to_be_visible()
        expect(strength).to_have_value(value)
    expect(page.locator(".compare img.after")).to_have_attribute("src", seen)

    button(page, "Keep what is shown as a domain").click()
    card = page.locator(".card.open")
    for name, value in (("coarse", "1"), ("middle", "0.25"), ("fine", "1")):
        expect(card.locator(f"dd.{name}")).to_have_text(value)
    for strength in strengths:
        expect(strength).to_have_value("1")
    field(page, "Seeds").press("Enter")
    page.wait_for_timeout(PAUSE)
    expect(page.locator(".compare img.after")).to_have_attribute("src", seen)


def test_a_stopped_run_goes_back_to_its_snapshots(visit):
    page = visit()
    unfold(page)
    field(page, "Steps").fill("2000")
    button(page, "Adapt").click()
    expect(page.locator(".run.running")).to_contain_text(re.compile(r"step [2-9]\d/2000"))
    button(page, "Stop").click()
    expect(page.locator(".run.stopped")).to_contain_text("The domain file holds")
    expect(page.locator("#snapshot")).to_contain_text(re.compile(r"^\D*(\d+ · ){7}\d+"))
    changes(page, lambda: field(page, "Snapshot").fill("1"))


def test_domains_are_kept_mixed_and_gone_on_from(visit, tmp_path):
    page = visit()
    adapt(page, 4, "zombie")
    with page.expect_download() as download:
        page.locator("a[download$='.safetensors']").click()
    adapt(page, 4, "anime")
    cards = page.locator(".card")
    expect(cards.first).to_contain_text("anime")
    expect(cards.first).to_have_class("card open")
    for fact in ("seed", "steps", "settings", "loss", "quality", "diversity", "layers", "base"):
        assert cards.first.locator(f"dd.{fact}").inner_text()
    anime = picture(page)
    zombie = changes(page, lambda: cards.last.get_by_text("Open").click())
    assert zombie != anime

    tab(page, "Mix")
    expect(button(page, "Show the mix")).to_be_visible()
    weights = page.locator("#more-part").get_by_label(re.compile("weight"))
    expect(weights).to_have_count(0)  # nothing is chosen yet
    button(page, "Show the mix").click()
    expect(page.get_by_text("Choose two or three domains")).to_be_visible()
    for title in ("zombie", "anime"):
        page.locator("#chosen label", has_text=title).locator("input").check()
    for title in ("zombie", "anime"):  # a weight of its own for each, in the order of choice
        expect(page.get_by_label(f"number input for {title}")).to_be_visible()
    expect(weights).to_have_count(0)  # nor one for nothing
    mixed = changes(page, lambda: button(page, "Show the mix").click())
    assert mixed not in (zombie, anime)
    fold = page.locator("#weight_1_fold")  # the zombie's layers by their resolution
    fold.get_by_text("By resolution").click()
    expect(field(fold, "Coarse")).to_have_value("0.5")
    page.wait_for_timeout(PAUSE)
    field(fold, "Coarse").fill("-0.5")
    expect(page.get_by_label("number input for zombie")).to_have_value("0.17")
    assert changes(page, lambda: button(page, "Show the mix").click()) != mixed
    shoot(page, "mix", tmp_path)
    assert fits(page)
    button(page, "Keep the mix").click()
    tab(page, "Kept domains")
    expect(cards).to_have_count(3)
    expect(cards.first).to_contain_text("zombie + anime")
    expect(cards.first.locator("dd.coarse")).to_have_text("-0.5 + 0.5")
    expect(cards.first.locator("dd.fine")).to_have_text("0.5 + 0.5")

    cards.last.get_by_text("Go on from").click()
    expect(page.locator("#start input")).to_have_value(re.compile("zombie"))
    adapt(page, 2, "old person")
    expect(cards).to_have_count(4)
    cards.nth(1).get_by_text("Forget").click()
    expect(cards).to_have_count(3)
    shoot(page, "library", tmp_path)

    other = visit()  # another visitor, with the file of the first one's run
    expect(other.locator(".card")).to_have_count(0)
    download.value.save_as(tmp_path / "zombie.safetensors")
    load(other, tmp_path / "zombie.safetensors")
    expect(other.locator(".card")).to_have_count(1)
    expect(other.locator(".card")).to_contain_text("zombie")
    assert picture(other) == zombie


def test_hints_come_while_typing(visit):
    page = visit()
    field(page, "Target").fill("zombie gorblax")
    expect(page.locator("#hint .hint").first).to_contain_text("never shown “gorblax”")
    page.get_by_text(re.compile(r"It knows \d+ words")).click()
    expect(page.locator("#hint .words")).to_contain_text("pencil, person, photo, sketch, zombie")
    field(page, "Target").fill("zombie")
    expect(page.locator("#hint")).not_to_contain_text("gorblax")


@pytest.mark.slow
def test_who_waits_sees_their_place_and_a_closed_page_makes_room(browser, clip_tiny, tmp_path):
    """A run that nobody follows ends after a 120th of the time for which its visitor is kept."""
    with serve(tmp_path, clip_tiny, "--keep", "4") as server, visits(browser, server) as visit:
        first, second = visit(), visit(WIDTHS["phone"])
        unfold(first)
        field(first, "Steps").fill("2000")
        field(first, "Target").press("Enter")
        expect(first.locator(".run.running")).to_contain_text("/2000")
        button(second, "Adapt").click()
        waits = second.locator(".run.waiting")
        expect(waits).to_contain_text("Waiting for your turn. Runs before yours: 1")
        shoot(second, "waiting", tmp_path)
        first.close()
        expect(second.locator(".run.running, .run.finished")).to_be_visible()
        second.keyboard.press("Escape")
        expect(second.locator(".card")).to_have_count(1)


def test_an_example_leaves_the_limits_of_the_generator(visit):
    page = visit()
    page.get_by_text("face → zombie").click()
    expect(field(page, "Source")).to_have_value("face")
    page.get_by_text("Settings").first.click()
    expect(page.get_by_label("range slider for Layers k")).to_have_attribute("max", "5")


def test_a_link_restores_the_form(visit):
    page = visit(query="/?source=old%20person&target=pencil%20%3Cb%3Esketch&seed=77&steps=x")
    expect(field(page, "Source")).to_have_value("old person")
    expect(field(page, "Target")).to_have_value("pencil <b>sketch")
    page.get_by_text("Settings").first.click()
    expect(field(page, "Seed")).to_have_value("77")


def test_russian_and_dark(visit, tmp_path):
    page = visit(WIDTHS["phone"], locale="ru-RU", color_scheme="dark")
    expect(button(page, "Обучить")).to_be_visible()
    expect(page.locator("#chart .run")).to_contain_text("Выберите пример")
    expect(page.get_by_text("Целевой текст")).to_be_visible()
    assert "__i18n__" not in page.inner_text("body") and fits(page)
    assert page.locator("footer").inner_text().strip() == "Настройки"  # and no dot before it
    assert page.evaluate("document.body.classList.contains('dark')")
    shoot(page, "russian", tmp_path)


def test_all_words_are_there_in_both_languages():
    for name in ("texts", "components"):
        english, russian = (texts(name)[language] for language in ("en", "ru"))
        assert english.keys() == russian.keys()
        assert all(english.values()) and all(russian.values())


@pytest.mark.parametrize("scheme", quick_first("light", "dark"))
def test_nothing_serious_keeps_people_out(page, scheme):
    page.emulate_media(color_scheme=scheme)
    reload(page)
    adapt(page, 2)
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    serious = {
        (one["id"], node["html"][:200])
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    }
    assert not serious


def test_what_is_wrong_stands_at_its_field(page):
    refusal = page.locator("div.validation-error:visible")
    for prompt, sentence in (
        ("", "The prompt is empty"),
        ("photo", "Source and target are the same"),
        ("<img src=x onerror=alert(1)>", "was never shown “img”"),
        ("zombie " * 1429, "The prompt has 10003 characters"),
    ):
        field(page, "Target").fill(prompt)
        button(page, "Adapt").click()
        expect(refusal).to_contain_text(sentence)
    field(page, "Target").fill("zombie")
    unfold(page)
    field(page, "Seed").click()
    field(page, "Seed").fill("-5")
    field(page, "Seed").press("Tab")
    page.wait_for_timeout(PAUSE)
    expect(field(page, "Seed")).to_have_value("-5")
    page.get_by_text("Settings").first.click()
    expect(field(page, "Seed")).not_to_be_visible()
    button(page, "Adapt").click()
    expect(refusal).to_have_text("Seed is “-5”; choose from 0 to 4294967295.")
    field(page, "Seed").fill("5")
    field(page, "Steps").fill("2")
    button(page, "Adapt").click()
    expect(page.locator(".run.finished")).to_contain_text("Done: step 2/2")
    page.wrong[:] = [said for said in page.wrong if "status of 422" not in said]  # the refusals


def test_a_file_that_cannot_be_used_gets_a_sentence(visit, tmp_path):
    page, path = visit(), tmp_path / "given.safetensors"
    adapt(page, 2)
    with page.expect_download() as download:
        page.locator("a[download$='.safetensors']").click()
    good = download.value.path().read_bytes()
    Delta("0" * 64, {}, {}).save(path)
    for contents, sentence in (
        (b"<html>404</html>", "is not a domain file"),
        (good[:-1] + bytes([good[-1] ^ 1]), "checksum"),
        (path.read_bytes(), "was made from another generator"),
    ):
        path.write_bytes(contents)
        load(page, path)
        expect(page.get_by_text(sentence)).to_be_visible()
        expect(page.locator(".card")).to_have_count(1)


DROP = """
(zone, [name, data]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), moved = new DataTransfer();
  moved.items.add(new File([bytes], name, {type: "image/png"}));
  zone.dispatchEvent(new DragEvent("drop", {dataTransfer: moved, bubbles: true, cancelable: true}));
}
"""
COPY = """
(data) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const blob = new Blob([bytes], {type: "image/png"});
  return navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
}
"""


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_pictures_are_dropped_pasted_removed_and_trained_towards(visit, width, tmp_path):
    page = visit(width, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_text("Pictures of the target").click()
    shown = page.locator("#pictures .thumbnail-lg img, #pictures .thumbnail-item img")
    page.wait_for_timeout(PAUSE)
    files = {}
    for name in ("red", "crimson", "darkred"):
        Image.new("RGB", (40, 30), name).save(tmp_path / f"{name}.png")
        files[name] = base64.b64encode((tmp_path / f"{name}.png").read_bytes()).decode()
    zone = page.get_by_label("Click to upload or drop files")
    zone.evaluate(DROP, ["red.png", files["red"]])
    expect(shown).to_have_count(1)
    page.evaluate(COPY, files["crimson"])
    page.get_by_label("Paste from Clipboard").click()
    expect(shown).to_have_count(2)
    page.locator("#pictures input[type=file]").first.set_input_files(tmp_path / "darkred.png")
    expect(shown).to_have_count(3)
    page.locator("#pictures").get_by_label("Delete image").first.click()
    expect(shown).to_have_count(2)
    assert fits(page)
    field(page, "Target").fill("")
    begin(page, 2)
    expect(page.locator(".run.finished")).to_contain_text("Done: step 2/2")
    expect(page.locator(".card")).to_contain_text("photo → 2 pictures")
    shoot(page, "pictures", tmp_path)

    page.locator("#pictures").get_by_label("Clear").click()
    expect(shown).to_have_count(0)
    page.locator("#adapt").click()
    expect(page.locator("#target").get_by_text("The prompt is empty")).to_be_visible()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    page.locator("#pictures input[type=file]").first.set_input_files(tmp_path / "bad.png")
    expect(shown).to_have_count(1)
    page.locator("#adapt").click()
    expect(page.get_by_text("“bad.png” is no picture")).to_be_visible()
    expect(page.locator(".card")).to_have_count(1)
    page.wrong[:] = [said for said in page.wrong if "status of 422" not in said]  # the refusals


def test_a_domain_of_styles_is_carried_over_with_a_tick(page, server, tmp_path):
    parent = trained_on(load_generator(server.log.parent / "generator.safetensors"))
    path = tmp_path / "ghost.safetensors"
    diff(parent, styled(parent), {"source": "photo", "target": "ghost"}).save(path)
    tab(page, "Kept domains")
    load(page, path)
    expect(page.get_by_text("ask for it to be carried over")).to_be_visible()
    expect(page.locator(".card")).to_have_count(0)
    page.wait_for_timeout(PAUSE)
    page.get_by_label("Carry over").check()
    load(page, path)
    card = page.locator(".card.open")
    expect(card.locator("dd.holds")).to_have_text(re.compile(r"^\d KB, styles of 8 layers$"))
    expect(card.locator("dd.carried_from")).to_have_text(fingerprint(parent)[:12])
    expect(card.locator("dd.family")).to_have_text(re.compile(r"^(9\d|100)%$"))
    assert fits(page)


def test_a_source_may_be_left_empty(page):
    field(page, "Source").fill("")
    adapt(page, 4)
    expect(page.locator(".card h3").first).to_have_text("zombie")
