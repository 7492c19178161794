"""The page: what it says, that it stands alone, and that a person can use it, in a real browser too."""

import html as entities
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from alma_pipeline.report import page as pages
from alma_pipeline.report.content import Report
from alma_pipeline.store.store import Store
from helpers.browser import PHONE, started, visiting


@pytest.fixture(scope="session")
def html(report: Report) -> str:
    return pages.render(report)


@pytest.fixture(scope="session")
def file(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_nothing_on_the_page_points_outside(html: str) -> None:
    for tag, attributes in Elements(html).found:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert "@import" not in html and "url(http" not in html
    assert "default-src 'none'" in html, "the browser is told to refuse too"


def test_ids_are_unique_and_links_lead_somewhere(html: str) -> None:
    found = Elements(html).found
    ids = [attributes["id"] for _, attributes in found if attributes.get("id")]
    assert len(ids) == len(set(ids)) and len(ids) > 50
    links = {value[1:] for _, attributes in found if (value := attributes.get("href")) and value.startswith("#")}
    assert "node-g1.arpo" in links and not links - set(ids)


def test_headings_pictures_and_tables_are_named(html: str, report: Report) -> None:
    found = Elements(html).found
    levels = [int(tag[1]) for tag, _ in found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), "no level is left out"
    pictures = [attributes for tag, attributes in found if tag == "svg" and attributes.get("role") == "img"]
    assert len(pictures) == len(report.curves) == 18 and all(attributes.get("aria-label") for attributes in pictures)
    regions = [attributes for _, attributes in found if attributes.get("class") == "scroll"]
    assert regions and all(attributes.get("tabindex") == "0" and attributes.get("aria-label") for attributes in regions)


def channel(value: int) -> float:
    share = value / 255
    return share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4


def luminance(colour: str) -> float:
    red, green, blue = (channel(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("place", [0, 1, 2], ids=["light", "dark by choice", "dark by the system"])
def test_text_has_enough_contrast(place: int) -> None:
    """WCAG AA: 4.5 to 1 for text."""
    themes = re.findall(r"\{ (--bg: .*?)color-scheme", (pages.TEMPLATES / "style.css").read_text(encoding="utf-8"), re.DOTALL)
    assert len(themes) == 3
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", themes[place]))
    on = [(text, back) for text in ("ink", "muted", "accent", "good", "bad", "dev") for back in ("bg", "card")]
    on += [("good", "good-bg"), ("bad", "bad-bg"), ("extra", "extra-bg"), ("missing", "bg")]
    low = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in on}
    assert not {pair: value for pair, value in low.items() if value < 4.5}


def test_every_score_is_on_the_page(html: str, report: Report) -> None:
    for board in report.boards:
        for row in board.rows:
            for cell in row.cells:
                assert cell is None or f'data-sort="{cell.value}"' in html


def test_what_stands_in_hypotheses_is_text(report: Report, html: str) -> None:
    """A model may write anything, a script too."""
    import dataclasses

    sample = dataclasses.replace(report.samples[0], source="<script>alert(1)</script>")
    changed = pages.render(dataclasses.replace(report, samples=[sample], curves=[]))
    assert "<script>alert(1)" not in changed and "&lt;script&gt;alert(1)" in changed


def test_the_page_tells_how_to_compute_a_score_again(html: str, report: Report, finished: Store) -> None:
    """The commands it shows, run as they stand, give the number it shows."""
    script = entities.unescape(re.findall(r"<pre><code>(out=.*?)</code></pre>", html, re.DOTALL)[0])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euc", script], cwd=finished.root / "artifacts", env=os.environ | {"PATH": path}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    numbers = {
        found["signature"]: found["score"] for found in map(json.loads, re.findall(r"^\{.*?^\}", done.stdout, re.DOTALL | re.M))
    }
    source = report.sources[-1]
    board = report.boards[0]
    place = [system.label for system in board.systems].index(source.system)
    cell = next(row for row in board.rows if row.name == source.directions[0]).cells[place]
    assert cell and numbers[board.signature] == round(cell.value, 1)
    assert len(numbers) == len([board for board in report.boards if board.metric != "quality"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as found:
        yield found


@pytest.fixture
def visit(browser: Any, file: Path) -> Iterator[Any]:
    """Opens the page at a width and in a theme; complaints and requests fail the test at its end."""
    with visiting(browser, file) as open_page:
        yield open_page


def shoot(page: Any, name: str) -> None:
    """A picture for whoever wants to look, where ALMA_PIPELINE_SCREENSHOTS names a folder."""
    folder = os.environ.get("ALMA_PIPELINE_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"report-{name}.png"), full_page=True)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, PHONE])
def test_the_page_fits_its_window(visit: Any, width: int, theme: str) -> None:
    page = visit(width, theme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".tree").is_visible() == (width == PHONE) and page.locator(".graph").is_visible() == (width != PHONE)
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(255, 255, 255)" if theme == "light" else "rgb(20, 23, 27)")
    line = page.locator("figure svg path[style*='--dev']").first
    assert line.evaluate("element => getComputedStyle(element).stroke") == (
        "rgb(194, 65, 12)" if theme == "light" else "rgb(255, 154, 90)"
    ), "charts take the page's colours"
    shoot(page, f"{width}-{theme}")


def column(page: Any, place: int) -> list[float]:
    cells = page.locator(f".board:visible tbody:last-child tr td:nth-child({place})").all()
    return [float(cell.get_attribute("data-sort")) for cell in cells]


def test_tables_sort_by_any_column(visit: Any) -> None:
    page = visit()
    before = column(page, 5)
    head = page.locator(".board:visible thead th").nth(4)
    head.get_by_role("button").click()
    assert column(page, 5) == sorted(before, reverse=True) and head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").click()
    assert column(page, 5) == sorted(before) and head.get_attribute("aria-sort") == "ascending"
    page.locator(".board:visible thead th").nth(0).get_by_role("button").click()
    names = page.locator(".board:visible tbody:last-child th").all_inner_texts()
    assert names == sorted(names) and head.get_attribute("aria-sort") is None
    assert page.locator(".board:visible tbody").first.locator("th").all_inner_texts() == ["en→xx", "xx→en"], "means stay on top"


def test_metrics_are_tabs_and_p_values_are_asked_for(visit: Any) -> None:
    page = visit()
    assert page.get_by_role("tab").all_inner_texts()[0] == "chrF++" and page.locator(".board:visible").count() == 1
    page.get_by_role("tab").nth(1).click()
    assert "BLEU" in page.locator(".board:visible h3").inner_text()
    assert page.locator(".p:visible").count() == 0
    page.get_by_role("button", name="p-values").click()
    assert page.locator(".board:visible .p:visible").count() > 5


def test_samples_are_filtered_by_direction(visit: Any, report: Report) -> None:
    page = visit()
    directions = {item.get_attribute("data-direction") for item in page.locator(".sample:visible").all()}
    assert directions == {report.samples[0].direction}
    page.select_option("#direction", "en-zh")
    shown = page.locator(".sample:visible")
    assert {item.get_attribute("data-direction") for item in shown.all()} == {"en-zh"} and shown.count() > 1
    assert shown.first.locator("dd[lang=zh] ins").count() > 0, "differences are marked"
    page.select_option("#direction", "")
    assert page.locator(".sample:visible").count() == len(report.samples)


def test_the_theme_can_be_chosen_and_a_node_opens(visit: Any) -> None:
    page = visit(PHONE)
    page.get_by_role("button", name="Dark colours").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    page.locator(".tree a", has_text="cpo").click()
    assert page.locator("details[open]").get_attribute("id") == "node-cpo"


def test_without_a_script_everything_is_there(browser: Any, file: Path, report: Report) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".board:visible").count() == len(report.boards) and page.locator(".sample:visible").count() == len(
        report.samples
    )
    context.close()
