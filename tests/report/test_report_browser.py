"""The page in a real browser: hostile text, no request, the keyboard, both colour schemes, wide and narrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Page, browser
from report_runs import HOSTILE, a_run, train

from weighted_stream import WeightStore
from weighted_stream.cli.report import write_page
from weighted_stream.report.build import Options, build

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of one run, with hostile texts and names."""
    folder = tmp_path_factory.mktemp("one")
    store, shards = a_run(folder, hostile=True)
    write_page(build(store, options=Options(data=shards)), folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two runs without texts."""
    folder = tmp_path_factory.mktemp("two")
    train(folder / "one", np.arange(200), seed=0)
    train(folder / "<i>other", np.arange(200), seed=1)
    write_page(build(folder / "one", folder / "<i>other"), folder / "report.html")
    return folder / "report.html"


def test_hostile_text_is_shown_as_text_and_nothing_is_fetched(chromium: Any, one: Path) -> None:
    with Page(chromium, one) as page:
        tab = page.tab
        for _ in range(20):
            if not tab.is_visible("#more"):
                break
            tab.click("#more")
        shown = page.shown()
        assert len(shown) == 300
        for hostile in (HOSTILE[1], HOSTILE[2], HOSTILE[8]):
            assert hostile in shown
        assert any("null ␀ bell ␇ escape ␛[31m red␍\nreturn ␡ delete ⟨0085⟩ next" in text for text in shown)
        assert any("⟨202E⟩gnp.exe⟨202C⟩ and שלום مرحبا" in text for text in shown)
        assert any("line ⟨2028⟩ and paragraph ⟨2029⟩" in text for text in shown)
        assert max(map(len, shown)) == 600
        assert tab.evaluate("window.broken") is None
        assert tab.evaluate("document.querySelectorAll('img, iframe, link, b.x, script').length") == 2
        assert page.errors == []
        assert page.requests == [one.as_uri()]
        assert tab.evaluate("performance.getEntriesByType('resource').length") == 0
        long = tab.locator("tr", has_text="one long line")
        assert "the beginning of 1,000,014 characters" in long.inner_text()
        long.get_by_role("button").click()
        assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_the_policy_stops_what_is_not_ours(chromium: Any, one: Path) -> None:
    with Page(chromium, one) as page:
        page.tab.evaluate(
            """() => {
                const script = document.createElement('script');
                script.textContent = 'window.broken = 1';
                document.body.append(script);
                const image = document.createElement('img');
                image.src = 'http://127.0.0.1:9/x.png';
                document.body.append(image);
            }"""
        )
        for _ in range(300):
            if len(page.errors) >= 2:
                break
            page.tab.wait_for_timeout(100)
        assert page.tab.evaluate("window.broken") is None
        assert len(page.errors) == 2
        assert all("Content Security Policy" in error for error in page.errors)


def test_search_filter_and_sort_by_keyboard(chromium: Any, one: Path) -> None:
    with Page(chromium, one) as page:
        tab, keyboard = page.tab, page.tab.keyboard
        keyboard.press("/")
        assert tab.evaluate("document.activeElement.id") == "search"
        keyboard.type("TEXT 12 words")
        assert {text.split()[1] for text in page.shown()} == {str(n) for n in range(225) if "12" in str(n)}
        assert "samples are shown" in tab.inner_text("#status")
        keyboard.press("Control+A")
        keyboard.type("nothing like it")
        assert page.shown() == []
        assert tab.inner_text("#status") == "No sample fits."
        tab.focus("#clear")
        keyboard.press("Enter")
        tab.wait_for_selector("#body tr:nth-child(25)")
        weights = page.column("mean weight")
        assert len(weights) == 25
        assert weights == sorted(weights, reverse=True)

        tab.focus("#head button >> nth=0")
        keyboard.press("Enter")
        weights = page.column("mean weight")
        assert weights == sorted(weights)
        assert tab.get_attribute("#head th >> nth=1", "aria-sort") == "ascending"
        keyboard.press("Space")
        assert tab.get_attribute("#head th >> nth=1", "aria-sort") == "descending"
        tab.focus("#sort")
        keyboard.type("change of")
        changes = page.column("change")
        assert changes == sorted(changes, reverse=True)
        tab.focus("#direction")
        keyboard.press("Enter")
        changes = page.column("change")
        assert changes == sorted(changes)

        tab.focus("#lists input:checked")
        keyboard.press("ArrowRight")
        assert "highest mean" in tab.inner_text("#rule").lower()
        tab.focus("#group")
        keyboard.type("code")
        assert all("code ·" in text for text in tab.locator("#body .about").all_inner_texts())
        tab.focus("#more")
        keyboard.press("Enter")
        assert len(page.shown()) > 25
        assert page.errors == []


def test_charts_are_read_by_keyboard_and_lead_to_samples(chromium: Any, one: Path) -> None:
    with Page(chromium, one) as page:
        tab, keyboard = page.tab, page.tab.keyboard
        names = tab.eval_on_selector_all("svg", "all => all.map(one => [one.getAttribute('role'), one.ariaLabel])")
        assert len(names) >= 7
        assert all(role == "img" and name for role, name in names)
        tab.focus("#weight-charts svg >> nth=0")
        keyboard.press("ArrowRight")
        keyboard.press("ArrowRight")
        assert "median" in tab.inner_text("#weight-charts .readout >> nth=0")
        tab.locator("#weight-charts summary").first.click()
        rows = tab.locator("#weight-charts figure").first.locator("tbody tr")
        rows.first.wait_for()
        assert rows.count() == 4
        tab.focus("#scatter-charts svg >> nth=0")
        keyboard.press("ArrowRight")
        keyboard.press("Enter")
        tab.wait_for_selector("#body tr:only-child")
        assert len(page.shown()) == 1
        tab.check("#group-charts input[value=mean]")
        assert "×" in tab.inner_text("#group-charts")
        assert tab.evaluate("document.activeElement.value") == "mean"
        assert page.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_both_schemes_and_widths(chromium: Any, one: Path, two: Path, scheme: str, width: int) -> None:
    for path in (one, two):
        with Page(chromium, path, width=width, height=844, scheme=scheme) as page:
            tab = page.tab
            assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            beyond = tab.evaluate(
                """() => [...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll, .text, thead'))
                    .filter(one => one.getClientRects().length && !one.closest('.hidden, .chips input'))
                    .map(one => [one.tagName, one.className, one.getBoundingClientRect().right])
                    .filter(([,, right]) => right > innerWidth + 1)"""
            )
            assert beyond == []
            assert _contrast(tab, "body") > 12
            assert _contrast(tab, ".lead") > 4.5
            assert _contrast(tab, ".answer p") > 4.5
            dark = sum(_colour(tab, "body", "backgroundColor")) < 3 * 128
            assert dark == (scheme == "dark")
            assert page.errors == []


def _colour(tab: Any, selector: str, what: str) -> list[int]:
    found = tab.eval_on_selector(selector, f"one => getComputedStyle(one).{what}")
    return [int(part) for part in found[found.index("(") + 1 : -1].split(",")[:3]]


def _contrast(tab: Any, selector: str) -> float:
    """Of text on the page, as WCAG 2 has it."""

    def light(colour: list[int]) -> float:
        parts = [part / 255 for part in colour]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted([light(_colour(tab, selector, "color")), light(_colour(tab, "body", "backgroundColor"))])
    return (high + 0.05) / (low + 0.05)


def test_two_runs(chromium: Any, two: Path) -> None:
    with Page(chromium, two) as page:
        tab = page.tab
        assert tab.inner_text("#title") == "one and <i>other"
        assert tab.is_visible("#compared svg")
        assert tab.locator("#lists").inner_text().count("differ") == 2
        assert "mean weight, <i>other" in tab.inner_text("#head").replace("\n", " ")
        assert page.errors == []


@pytest.mark.parametrize("kind", ["empty", "no journal"])
def test_pages_of_stores_that_lack_something(chromium: Any, tmp_path: Path, kind: str) -> None:
    if kind == "empty":
        WeightStore(tmp_path / "store").close()
    else:
        train(tmp_path / "store", np.arange(50), journal=False, names=False)
    write_page(build(tmp_path / "store"), tmp_path / "report.html")
    with Page(chromium, tmp_path / "report.html") as page:
        said = page.tab.inner_text("main")
        assert "journal" in said
        assert "Nothing yet" in said if kind == "empty" else "named no groups" in said
        assert page.tab.inner_text("#status") == (
            "No sample fits." if kind == "empty" else "25 of 50 samples are shown."
        )
        assert page.errors == []
