"""The page in a real browser: Debian's Chromium, driven by Playwright.

`deploy/install-system-packages soak` installs the browser; where it is absent these tests are skipped, which in CI is a
failure (tests/conftest.py). Screenshots: BAI_SCREENSHOTS=DIRECTORY.
"""

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from bai_pipeline.report import write_report
from tests.report.constructed import results

pytestmark = pytest.mark.soak
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
FIGURES = 11


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(tmp_path_factory.mktemp("report"), results()).as_uri()


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium: run deploy/install-system-packages soak as root")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


class Watched:
    """A page of the report and what went wrong on it."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.context = context
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def draw_all(self) -> None:
        """Scroll through the page: figures are drawn when they come near the window."""
        for figure in self.page.locator("figure").all():
            figure.scroll_into_view_if_needed()
            figure.locator(".plot .scatterlayer path.js-line").first.wait_for(state="attached")
        self.page.evaluate("scrollTo(0, 0)")

    def colour(self, selector: str, name: str) -> str:
        return str(
            self.page.locator(selector).first.evaluate(
                "(element, name) => getComputedStyle(element).getPropertyValue(name)", name
            )
        )

    def picture(self, name: str) -> None:
        directory = os.environ.get("BAI_SCREENSHOTS")
        if directory:
            self.page.screenshot(path=Path(directory) / f"{name}.png", full_page=True)


@pytest.fixture
def desktop(browser: Browser, address: str) -> Generator[Watched]:
    context = browser.new_context(viewport=DESKTOP, color_scheme="light")  # type: ignore[arg-type]
    yield Watched(context, address)
    context.close()


@pytest.fixture
def phone(browser: Browser, address: str) -> Generator[Watched]:
    context = browser.new_context(viewport=PHONE, is_mobile=True, has_touch=True)  # type: ignore[arg-type]
    yield Watched(context, address)
    context.close()


def test_the_page_asks_for_nothing_and_complains_of_nothing(desktop: Watched, address: str) -> None:
    desktop.draw_all()
    desktop.picture("light")
    assert desktop.complaints == []
    assert [url for url in desktop.requests if not url.startswith("data:image/png")] == [address]
    assert desktop.page.title() == "Report of the study acme <b>"  # the hostile scripts of the results did not run


def test_every_figure_is_drawn_with_its_lines(desktop: Watched) -> None:
    desktop.draw_all()
    figures = desktop.page.locator("figure")
    assert figures.count() == FIGURES
    for figure in figures.all():
        wanted = figure.evaluate("element => data[element.id].panels.flatMap(panel => panel.lines).length")
        lines = figure.locator(".plot .scatterlayer .trace:has(path.js-line)").count()
        assert lines == wanted
        assert not figure.locator("img").is_visible()


def test_the_policy_stops_scripts_that_get_into_the_page(desktop: Watched) -> None:
    desktop.page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'document.title = \"taken\"';"
        " document.body.append(s); }"
    )
    assert desktop.page.title() == "Report of the study acme <b>"
    assert "Content Security Policy" in desktop.complaints[0]


def test_a_click_sorts_numbers_as_numbers_and_another_turns_them_around(desktop: Watched) -> None:
    table = desktop.page.locator("#costs table")
    head = table.locator("th", has_text="sampled tokens")
    column = table.locator("tbody tr td:nth-child(4)")
    assert column.all_text_contents() == ["9", "100", "20", "3", "1,000", "7", "50", "8"]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column.all_text_contents() == ["3", "7", "8", "9", "20", "50", "100", "1,000"]
    head.locator("button").focus()
    desktop.page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert column.all_text_contents() == ["1,000", "100", "50", "20", "9", "8", "7", "3"]
    table.locator("th", has_text="init").first.locator("button").click()
    assert head.get_attribute("aria-sort") == "none"


def test_what_has_no_value_stays_last(desktop: Watched) -> None:
    table = desktop.page.locator("#scores-by-paradigm table")
    button = table.locator("th", has_text="average").locator("button")
    rows = table.locator("tbody th")
    for order in (["Paradigm 1", "BAI", "Paradigm 2"], ["BAI", "Paradigm 1", "Paradigm 2"]):
        button.click()
        assert rows.all_text_contents() == order


def test_a_line_is_hidden_shown_alone_and_shown_again(desktop: Watched) -> None:
    desktop.draw_all()
    figure = desktop.page.locator("#figure_4_length_all_ratios")
    lines = figure.locator(".scatterlayer path.js-line")
    all_lines = lines.count()
    button = figure.locator(".legend button", has_text="Paradigm 3")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert lines.count() < all_lines
    figure.locator(".legend button", has_text="Show all").click()
    assert lines.count() == all_lines
    button.dblclick()
    pressed = figure.locator(".legend button[aria-pressed=true]")
    assert pressed.all_text_contents() == ["Paradigm 3"]


def test_a_pointer_on_a_point_shows_its_numbers(desktop: Watched) -> None:
    desktop.draw_all()
    figure = desktop.page.locator("#figure_3b_length_paradigm_3")
    figure.scroll_into_view_if_needed()
    box = figure.locator(".plot").bounding_box()
    assert box is not None
    x, y = figure.locator(".plot").evaluate(
        """plot => {
          const { x, mean } = data[plot.parentElement.id].panels[0].lines[0], { xaxis, yaxis } = plot._fullLayout;
          return [xaxis._offset + xaxis.d2p(x[6]), yaxis._offset + yaxis.d2p(mean[6])];
        }"""
    )
    desktop.page.mouse.move(box["x"] + x - 9, box["y"] + y)
    desktop.page.mouse.move(box["x"] + x, box["y"] + y)
    label = figure.locator(".hoverlayer .hovertext").first.text_content() or ""
    assert "Paradigm 3" in label
    assert "(rollout batches): 6" in label
    assert "2 seeds" in label


def test_the_dark_changes_the_page_and_its_figures(desktop: Watched) -> None:
    desktop.draw_all()
    line = "#figure_3a_length_paradigm_1 .scatterlayer .trace:last-child path.js-line"
    light = [
        desktop.colour("body", "background-color"),
        desktop.colour(line, "stroke"),
        desktop.colour(".xtick text", "fill"),
    ]
    assert light[:2] == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    desktop.page.emulate_media(color_scheme="dark")
    desktop.draw_all()
    desktop.picture("dark")
    dark = [
        desktop.colour("body", "background-color"),
        desktop.colour(line, "stroke"),
        desktop.colour(".xtick text", "fill"),
    ]
    assert dark[:2] == ["rgb(20, 23, 28)", "rgb(242, 242, 242)"]
    assert dark[2] != light[2]
    assert desktop.complaints == []


def test_a_phone_scrolls_down_and_never_sideways(phone: Watched) -> None:
    phone.draw_all()
    phone.picture("phone")
    for summary in phone.page.locator("summary").all():
        summary.click()
    assert phone.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    boxes = phone.page.locator(".plot").evaluate_all("plots => plots.map(plot => plot.getBoundingClientRect().right)")
    assert len(boxes) == FIGURES
    assert max(boxes) <= PHONE["width"]
    wide = phone.page.locator(".scroll").evaluate_all(
        "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth).length"
    )
    assert wide > 0
    assert phone.complaints == []


def test_a_figure_follows_the_width_of_the_window(desktop: Watched) -> None:
    desktop.draw_all()
    desktop.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    plot = desktop.page.locator("#score_and_accuracy .main-svg").first
    desktop.page.wait_for_function(
        "() => document.querySelector('#score_and_accuracy .main-svg').clientWidth < 390", timeout=10_000
    )
    box = plot.bounding_box()
    assert box is not None
    assert box["height"] > box["width"]  # the two panels one above the other


def test_print_shows_the_pictures_that_were_made_for_paper(desktop: Watched) -> None:
    desktop.draw_all()
    desktop.page.emulate_media(media="print", color_scheme="dark")
    assert desktop.colour("body", "background-color") == "rgb(255, 255, 255)"
    images = desktop.page.locator("figure img")
    assert all(image.is_visible() for image in images.all())
    assert not desktop.page.locator(".plot").first.is_visible()


def test_without_scripts_the_page_still_has_its_pictures(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport=DESKTOP, java_script_enabled=False)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address)
    assert page.locator("figure img").count() == FIGURES
    assert page.locator("figure img").first.is_visible()
    context.close()
