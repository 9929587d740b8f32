"""Nobody loses what they made: the page reloaded, cut off, opened twice, and in other hands."""

import re
import signal
import time

import pytest
from playwright.sync_api import expect

from tests.cable import Cable
from tests.helpers import wait_for
from tests.page import (
    LEAVING,
    WIDTHS,
    adapt,
    begin_long,
    button,
    changes,
    field,
    fits,
    going_away,
    picture,
    reload,
    shoot,
    visits,
)
from tests.served import free_port, serve

SOON = 3.0  # seconds in which all is there again
BUSY = 5  # as much as that on a machine with other work


def is_soon(began: float) -> bool:
    print(f"there again after {time.monotonic() - began:.1f} s")
    return time.monotonic() - began < SOON * BUSY


def goes_on(page) -> int:
    """The step of the long run that the page watches, which rises."""
    line = page.locator(".run.running .said")
    expect(line).to_contain_text(re.compile(r"step \d+/2000"))
    step = int(re.search(r"(\d+)/", line.inner_text())[1])
    page.wait_for_function(
        "step => +document.querySelector('.run .said').textContent.match(/(\\d+)\\//)[1] > step",
        arg=step,
    )
    return step


def test_a_reload_loses_nothing(page, tmp_path):
    adapt(page, 4, "zombie")
    field(page, "Seeds").fill("5-8")
    field(page, "Seeds").press("Enter")
    expect(page.locator(".tag.right")).to_contain_text("5")
    changes(page, lambda: field(page, "Strength").fill("0.5"))
    field(page, "Target").fill("old person")
    before = picture(page), picture(page, "before")
    page.wait_for_timeout(1000)  # what is typed is told the server a moment later
    began = reload(page)
    expect(page.locator(".card")).to_have_count(1)
    assert is_soon(began)
    expect(page.locator(".run.finished")).to_contain_text("Done: step 4/4")
    expect(field(page, "Target")).to_have_value("old person")
    expect(field(page, "Seeds")).to_have_value("5-8")
    expect(field(page, "Strength")).to_have_value("0.5")
    assert (picture(page), picture(page, "before")) == before
    expect(page.locator("#snapshot")).to_contain_text("1 · 2 · 3 · 4")
    with page.expect_download() as download:
        page.locator("a[download$='.safetensors']").click()
    assert download.value.path().stat().st_size > 0

    begin_long(page)
    step = goes_on(page)
    began = reload(page)
    assert goes_on(page) >= step and is_soon(began)
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator(".compare img.after")).to_be_visible()
    shoot(page, "back", tmp_path)
    page.keyboard.press("Escape")
    expect(page.locator(".run.stopped")).to_contain_text("The domain file holds")
    expect(page.locator(".card")).to_have_count(2)
    assert fits(page)


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_ten_seconds_without_a_line_lose_nothing(browser, server, width):
    cable = Cable(server)
    with visits(browser, cable) as visit:
        page = visit(width)
        adapt(page, 4, "zombie")
        begin_long(page)
        step = goes_on(page)
        with going_away(page):
            cable.cut()
            page.wait_for_timeout(10_000)
            expect(page.get_by_text("Connection to the server was lost")).to_be_visible()
            with page.expect_navigation():  # gradio's own: it loads the page anew
                cable.mend()
                began = time.monotonic()
        assert goes_on(page) > step and time.monotonic() - began < 2 + SOON * BUSY
        expect(page.locator(".card")).to_have_count(1)
        page.keyboard.press("Escape")
        expect(page.locator(".card")).to_have_count(2)


@pytest.mark.slow
def test_a_run_goes_on_while_its_page_is_closed_for_a_moment(visit):
    page = visit()
    begin_long(page)
    step = goes_on(page)
    page.close()
    time.sleep(5)
    assert goes_on(visit.tab(page)) > step


def test_a_second_tab_shows_the_same(visit):
    page = visit()
    adapt(page, 4, "zombie")
    begin_long(page)
    began = time.monotonic()
    second = visit.tab(page)
    goes_on(second)
    expect(second.locator(".card")).to_have_count(1)
    assert is_soon(began)
    button(second, "Stop").click()
    for one in (page, second):
        expect(one.locator(".run.stopped")).to_be_visible()
        expect(one.locator(".card")).to_have_count(2)
    second.close()
    reload(page)
    expect(page.locator(".card")).to_have_count(2)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_server_loses_nothing(browser, tmp_path, clip_tiny, end):
    port = free_port()
    with serve(tmp_path, clip_tiny, port=port) as first, visits(browser, first) as visit:
        page = visit()
        adapt(page, 4, "zombie")
        begin_long(page)
        goes_on(page)
        first.process.send_signal(end)
        first.process.wait(20)
        with serve(tmp_path, clip_tiny, port=port):  # the page comes back by itself
            expect(page.locator(".card")).to_have_count(2)
            expect(page.locator(".card").first).to_contain_text("zombie")
            expect(page.locator(".card img").first).to_be_visible()
            expect(field(page, "Target")).to_have_value("zombie")
            adapt(page, 2, "anime")
            page.close()
        page.wrong[:] = [said for said in page.wrong if not LEAVING.search(said)]


@pytest.mark.slow
def test_who_is_on_the_page_is_not_forgotten(browser, tmp_path, clip_tiny):
    with serve(tmp_path, clip_tiny, "--keep", "0.1") as short, visits(browser, short) as visit:
        page = visit()
        adapt(page, 2, "zombie")
        page.wait_for_timeout(20_000)  # three times as long as the server remembers
        reload(page)
        expect(page.locator(".card")).to_have_count(1)
        page.close()
        time.sleep(15)
        expect(visit.tab(page).locator(".card")).to_have_count(0)
        wait_for(lambda: not list(tmp_path.glob("cache/*/visitors/*/domains")))


def key(page) -> str:
    return page.evaluate("localStorage.getItem('nada-key')")


def test_other_browsers_see_nothing_of_it(visit):
    page = visit()
    adapt(page, 2, "zombie")
    assert re.fullmatch("[0-9a-f]{64}", key(page)) and key(page) not in page.url
    guess = key(page)[:-1] + ("0" if key(page)[-1] != "0" else "1")
    for known in (None, guess, key(page).upper(), "../" + key(page)):
        other = visit()
        if known:
            other.evaluate("key => localStorage.setItem('nada-key', key)", known)
            reload(other)
        expect(other.locator(".run")).to_contain_text("Choose an example")
        expect(other.locator(".card")).to_have_count(0)
        assert key(other) != key(page)


def test_all_is_forgotten_at_once(visit, server):
    page = visit(WIDTHS["phone"])
    adapt(page, 2, "zombie")
    old = key(page)
    page.once("dialog", lambda asked: asked.dismiss())
    button(page, "Forget all of mine").click()
    page.wait_for_timeout(500)
    expect(page.locator(".card")).to_have_count(1)
    page.once("dialog", lambda asked: asked.accept())
    button(page, "Forget all of mine").click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator(".run")).to_contain_text("Choose an example")
    assert key(page) != old
    adapt(page, 2, "anime")
    reload(page)
    expect(page.locator(".card")).to_contain_text("anime")
    other = visit()
    other.evaluate("key => localStorage.setItem('nada-key', key)", old)
    reload(other)
    expect(other.locator(".card")).to_have_count(0)


def test_a_link_of_somebody_elses_fills_the_form(visit):
    page = visit()
    adapt(page, 2, "zombie")
    field(page, "Target").fill("anime")
    page.wait_for_timeout(1000)
    reload(page)  # the address says what was run, and the form what was typed since
    expect(field(page, "Target")).to_have_value("anime")
    with going_away(page):
        page.goto(page.url.split("?")[0] + "?source=face&target=old%20person&seed=7")
    expect(field(page, "Target")).to_have_value("old person")
    expect(page.locator(".card")).to_have_count(1)
