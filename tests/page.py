"""The page as people use it: what they see of it in Chromium, and what they do."""

import contextlib
import re
import shutil
import time

from playwright.sync_api import Browser, Page, expect, sync_playwright

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = {"desk": 1280, "phone": 390}
PAUSE = 1000  # ms, about a person's: what was folded takes up typing only some time after it shows
SLOW = 60_000  # ms; a busy machine, not a slow page


@contextlib.contextmanager
def chromium():
    """A running Chromium that is installed on this machine."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    assert program, "These tests drive Chromium: install it, apt-get install chromium."
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield running
        running.close()


class Visits:
    """Visitors of a server: a page for each, and all that went `wrong` in any of them."""

    def __init__(self, browser: Browser, server):
        self.browser, self.server = browser, server
        self.contexts, self.wrong = [], []

    def __call__(self, width: int = WIDTHS["desk"], query: str = "", **options) -> Page:
        """Open the page in a window of its own; returns when the models are there."""
        context = self.browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.contexts.append(context)
        return self._open(context, query)

    def tab(self, page: Page) -> Page:
        """Another tab of a page's window."""
        return self._open(page.context, "")

    def _open(self, context, query: str) -> Page:
        page = context.new_page()
        page.set_default_timeout(SLOW)
        expect.set_options(timeout=SLOW)
        self._watch(page)
        page.goto(self.server.url + query)
        expect(page.locator("#foot")).to_contain_text("operations")
        page.wrong = self.wrong
        return page

    def _watch(self, page: Page) -> None:
        """Note errors of the page, failed requests, and any request to elsewhere."""
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", lambda said: said.type == "error" and self.wrong.append(said.text))
        page.on("request", lambda sent: self._is_external(sent.url) and self.wrong.append(sent.url))

    def _is_external(self, url: str) -> bool:
        own = self.server.url
        return not url.startswith((own, own.replace("http", "ws"), "data:", "blob:"))


@contextlib.contextmanager
def visits(browser: Browser, server):
    """Visits of a server; when they end, nothing may have gone wrong in any of them."""
    visit = Visits(browser, server)
    yield visit
    for context in visit.contexts:
        context.close()
    assert visit.wrong == [], visit.wrong


LEAVING = re.compile(r"AbortError|Connection errored|ERR_|network error|Server stopped")


@contextlib.contextmanager
def going_away(page):
    """The page goes and comes back meanwhile, and what gradio says of its cut lines is no error."""
    wrong = list(page.wrong)
    yield
    expect(page.locator("#foot")).to_contain_text("operations")
    page.wrong[:] = wrong + [said for said in page.wrong[len(wrong) :] if not LEAVING.search(said)]


def reload(page) -> float:
    """Load the page anew; the time when that began."""
    with going_away(page):
        began = time.monotonic()
        page.reload()
    return began


def button(page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def field(page, label: str):
    """The typed input of a label, which its hint follows; a slider has another beside it."""
    return page.get_by_label(re.compile(rf"^\s*(number input for )?{label}(?=\s|$)")).first


def shoot(page, name: str, folder) -> None:
    page.screenshot(path=folder / f"{name}-{page.viewport_size['width']}.png", full_page=True)


def unfold(page, settings="Settings", seed="Seed") -> None:
    """Open the settings, and wait until they take up what is typed."""
    page.get_by_text(settings).first.click()
    expect(field(page, seed)).to_be_visible()
    page.wait_for_timeout(PAUSE)


def unfold_strengths(page) -> None:
    """Open the strengths by resolution, and wait until they take up what is typed."""
    page.locator("#by_resolution > button").click()
    expect(field(page, "Coarse")).to_be_visible()
    page.wait_for_timeout(PAUSE)


def begin(page, steps: int, settings="Settings", seed="Seed", label="Steps") -> None:
    """Start a run of that many steps; the settings are open afterwards."""
    if not field(page, label).is_visible():
        unfold(page, settings, seed)
    field(page, label).fill(str(steps))
    page.locator("#adapt").click()


def begin_long(page) -> None:
    """Start a run that takes minutes, and wait for its first steps."""
    if not field(page, "Batch").is_visible():
        unfold(page)
    field(page, "Batch").fill("16")
    begin(page, 2000)
    expect(page.locator(".run.running")).to_contain_text(re.compile(r"step \d+/2000"))


def adapt(page, steps=9, target="zombie"):
    """A run from the page's form to its end; what the page shows then."""
    field(page, "Target").fill(target)
    before = page.locator(".card").count()
    begin(page, steps)
    expect(page.locator(".card")).to_have_count(before + 1)
    expect(page.locator(".run.finished")).to_contain_text(f"step {steps}/{steps}")


def picture(page, side="after") -> str:
    return page.locator(f".compare img.{side}").get_attribute("src")


def changes(page, act) -> str:
    """Do something, and wait until another picture shows."""
    source = picture(page)
    act()
    expect(page.locator(".compare img.after")).not_to_have_attribute("src", source)
    return picture(page)


def fits(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def tab(page, name: str) -> None:
    """Show a tab, on a narrow page by the menu of those that have no room."""
    tabs = page.get_by_role("tab", name=name, exact=True)
    if not tabs.count() or not tabs.first.is_visible():
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=name).click()
    else:
        tabs.first.click()


def load(page, path) -> None:
    """Give the page a domain file, as people do: by the button and the browser's dialogue."""
    with page.expect_file_chooser() as chooser:
        button(page, "Load a domain file").click()
    chooser.value.set_files(path)
