"""The page as people use it: in Chromium, at the width of a desk and of a phone."""

import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from nada.delta import Delta

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = {"desk": 1280, "phone": 390}
PAUSE = 1000  # ms, about a person's: what was folded takes up typing only some time after it shows
SLOW = 60_000  # ms; a busy machine, not a slow page


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    assert program, "These tests drive Chromium: install it, apt-get install chromium."
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(params=WIDTHS.values(), ids=WIDTHS)
def page(browser, server, request):
    """The open page; fails on any request to elsewhere, any page error, any failed request."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page, wrong = context.new_page(), []
    page.set_default_timeout(SLOW)
    expect.set_options(timeout=SLOW)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("request", lambda sent: wrong.append(sent.url) if is_external(sent.url, server) else 0)
    page.goto(server.url)
    expect(page.get_by_text("reference operations")).to_be_visible()  # the models are there
    page.wrong = wrong
    yield page
    context.close()
    assert wrong == []


def is_external(url: str, server) -> bool:
    return not url.startswith((server.url, server.url.replace("http", "ws"), "data:", "blob:"))


def button(page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def field(page, label: str):
    """The typed input of a label, which its hint follows; a slider has another beside it."""
    return page.get_by_label(re.compile(rf"^\s*(number input for )?{label}\b")).first


def shoot(page, name: str, folder) -> None:
    page.screenshot(path=folder / f"{name}-{page.viewport_size['width']}.png", full_page=True)


def test_a_visit(page, tmp_path, server):
    """An example, a run that is stopped, its file, samples of it, and another run at once."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    expect(page.locator(".run")).to_contain_text("press Adapt")
    shoot(page, "open", tmp_path)

    page.get_by_text("face → zombie").click()
    expect(field(page, "Target")).to_have_value("zombie")
    expect(field(page, "Source")).to_have_value("face")
    page.get_by_text("Settings").first.click()
    expect(field(page, "Steps")).to_be_visible()
    page.wait_for_timeout(PAUSE)
    field(page, "Steps").fill("2000")

    button(page, "Adapt").click()
    expect(page.locator("#pairs img")).to_be_visible()
    expect(page.locator(".run.running")).to_contain_text("of 2000")
    bar, picture = page.locator(".run .bar div"), page.locator("#pairs img")
    width, source = bar.get_attribute("style"), picture.get_attribute("src")
    expect(bar).not_to_have_attribute("style", width)
    expect(picture).not_to_have_attribute("src", source)
    expect(page.locator(".run polyline")).to_be_visible()
    expect(page.locator(".run li")).to_have_count(5)
    shoot(page, "running", tmp_path)

    button(page, "Stop").click()
    expect(page.locator(".run.stopped")).to_contain_text("the domain file holds")
    with page.expect_download() as download:
        page.locator("a[download$='.safetensors']").click()
    told = Delta.load(download.value.path()).metadata
    assert (told["source"], told["target"]) == ("face", "zombie") and told["steps_done"] < 2000

    button(page, "Sample").click()
    samples = page.locator("#samples img")
    expect(samples).to_be_visible()
    adapted = samples.get_attribute("src")
    field(page, "Strength").fill("0")
    button(page, "Sample").click()
    expect(samples).not_to_have_attribute("src", adapted)
    shoot(page, "sampled", tmp_path)

    field(page, "Steps").fill("3")
    button(page, "Adapt").click()
    expect(page.locator(".run.finished")).to_contain_text("Done: 3 steps")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


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
    page.get_by_text("Settings").first.click()
    expect(field(page, "Seed")).to_be_visible()
    page.wait_for_timeout(PAUSE)
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
    expect(page.locator(".run.finished")).to_contain_text("Done: 2 steps")
    page.wrong[:] = [said for said in page.wrong if "status of 422" not in said]  # the refusals


def test_a_file_that_is_no_domain_gets_a_sentence(page, tmp_path):
    (tmp_path / "page.safetensors").write_text("<html>404</html>")
    page.locator("input[type=file]").set_input_files(tmp_path / "page.safetensors")
    expect(page.get_by_text("page.safetensors")).to_be_visible()
    button(page, "Sample").click()
    expect(page.get_by_text("is not a domain file")).to_be_visible()
