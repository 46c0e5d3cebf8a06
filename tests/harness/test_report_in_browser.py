"""The page in a real browser, as wide as a desk and as a phone: it opens, filters, and leads from a cell to a case."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from conformance.relations import RELATIONS
from conformance.report.html import html
from conformance.report.page import page
from tests.harness.chromium import Browser, browser, found
from tests.harness.versions_recorded import (
    DRAFT,
    GAP,
    PASS,
    PLAIN,
    REFUSED,
    SHORT,
    SOFTCAP,
    TWICE,
    WIDE,
    WRONG,
    written,
)

pytestmark = pytest.mark.skipif(
    found() is None, reason="no Chromium is installed: the page was not opened in a browser"
)

WIDTHS = {"desk": 1280, "phone": 390}
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of three versions, the last of which was cut short."""
    folder = tmp_path_factory.mktemp("page")
    wrong = WRONG | {"evidence": HOSTILE}
    old = {PLAIN: PASS, SOFTCAP: REFUSED, DRAFT: wrong, WIDE: GAP, TWICE: PASS}
    new = old | {WIDE: PASS}
    cut = {PLAIN: PASS, SOFTCAP: REFUSED, DRAFT: wrong}
    paths = [written(folder, "a.jsonl", old, "0.1.16"), written(folder, "b.jsonl", new, "0.1.20.post1"),
             written(folder, "c.jsonl", cut, "0.1.21.dev46", planned=[SHORT])]  # fmt: skip
    (folder / "report.html").write_text(html(page(paths)), encoding="utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture
def opened(tab: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The page, freshly opened; afterwards nothing complained, and nothing but the page was asked for."""
    tab.complaints.clear()
    tab.requests.clear()
    tab.size(WIDTHS[getattr(request, "param", "desk")], 900)
    tab.open("about:blank")
    tab.open(address)
    yield tab
    assert tab.complaints == []
    assert {request.partition("#")[0] for request in tab.requests} <= {"about:blank", address}


at_any_width = pytest.mark.parametrize("opened", WIDTHS, indirect=True)


def shown(tab: Browser) -> list[str]:
    """The ids that the list of checks shows."""
    return tab.run("[...document.querySelectorAll('#list code')].map((one) => one.textContent)")


@at_any_width
def test_it_opens_with_its_answer_and_never_wider_than_the_window(opened: Browser) -> None:
    assert opened.run("document.querySelector('h1').textContent").startswith(
        "UNEXPLAINED FAILURES From aiter 0.1.20.post1"
    )
    assert "INCOMPLETE" in opened.run("document.querySelector('[role=alert]').textContent")
    assert opened.run("document.scrollingElement.scrollWidth") <= opened.width


def test_failures_stand_first_and_filters_leave_what_fits(opened: Browser) -> None:
    assert shown(opened)[0] == DRAFT
    opened.run("document.querySelector('#filters [name=q]').value = 'NONCAUSAL p32'")
    opened.run("document.querySelector('#filters').dispatchEvent(new Event('input', {bubbles: true}))")
    assert shown(opened) == [WIDE]
    opened.open("about:blank")


def test_an_address_says_what_is_listed(opened: Browser) -> None:
    for query, ids in (
        ("state=failing", [DRAFT, WIDE]),
        ("state=failing&version=1", [DRAFT]),
        ("state=refused", [SOFTCAP]),
        ("feature=softcap", [SOFTCAP]),
        ("side=page+size%3D32", [WIDE]),
        ("side=kernel+path%3Dkvcache&version=0", [DRAFT]),
        ("q=nothing+has+this", []),
    ):
        opened.run(f"location.hash = 'checks?{query}'")
        opened.wait(f"document.querySelector('#found').textContent.startsWith('{len(ids)} of ')")
        assert shown(opened) == ids


@at_any_width
def test_a_cell_leads_to_its_checks_and_they_to_the_case(opened: Browser) -> None:
    cell = "document.querySelector('.gallery .s-unexplained').parentNode"
    assert "1 unexplained" in opened.run(f"{cell}.getAttribute('aria-label')")
    opened.run(f"{cell}.dispatchEvent(new MouseEvent('click', {{bubbles: true, cancelable: true}}))")
    opened.wait("location.hash.startsWith('#checks?')")
    assert DRAFT in shown(opened)
    opened.run(f"[...document.querySelectorAll('#list a')].find((one) => one.textContent === '{DRAFT}').click()")
    opened.wait("!document.getElementById('case').hidden")
    text = opened.run("document.getElementById('case').innerText")
    assert opened.run("document.querySelector('#case h2').textContent") == DRAFT
    assert "reads" not in text  # the evidence of this record is hostile, and is text
    assert HOSTILE in text
    assert f"python -m conformance show {DRAFT}" in text
    assert f"--aiter aiter.git@v0.1.20.post1 --case {DRAFT}" in text
    assert opened.run("document.scrollingElement.scrollWidth") <= opened.width
    opened.run("history.back()")
    opened.wait("document.getElementById('case').hidden")


def test_a_case_of_a_relation_says_what_is_compared(opened: Browser) -> None:
    opened.run(f"location.hash = 'case={TWICE}'")
    opened.wait("!document.getElementById('case').hidden")
    assert RELATIONS["repeated"].says in opened.run("document.querySelector('.described').innerText")


def test_a_keyboard_alone_gets_from_the_table_to_a_case(opened: Browser) -> None:
    opened.run("document.querySelector('.matrix td a').focus()")
    opened.press("Enter")
    opened.wait("location.hash.startsWith('#checks?feature=')")
    opened.run("document.querySelector('#list a').focus()")
    opened.press("Enter")
    opened.wait("!document.getElementById('case').hidden")
    assert opened.run("document.activeElement.tagName") == "H2"


def test_a_pair_of_versions_shows_what_changed(opened: Browser) -> None:
    opened.run("document.querySelector('.pairs button').click()")
    said = opened.run("document.getElementById('pair').innerText")
    assert "From aiter 0.1.16 to aiter 0.1.20.post1" in said
    assert "FIXED: 1" in said


def drawn(tab: Browser, down: str, across: str, version: int, measure: str = "worst status") -> list[str]:
    """The cells of the heat map that the script draws of these."""
    chosen = json.dumps({"down": down, "across": across, "version": str(version), "measure": measure})
    tab.run(f"""(() => {{
        const form = document.getElementById("axes");
        for (const [name, value] of Object.entries({chosen})) form.elements[name].value = value;
        form.dispatchEvent(new Event("change"));
    }})()""")
    return cells(tab, "document.querySelector('#chosen svg')")


def cells(tab: Browser, chart: str) -> list[str]:
    """All that there is to a cell, for each."""
    return tab.run(f"""(() => {{
        const cell = (a) => [a.getAttribute("aria-label"), a.getAttribute("href"), a.querySelector("text").textContent,
            ...["class", "x", "y", "width"].map((name) => a.querySelector("rect").getAttribute(name)),
            a.querySelector(".share")?.getAttribute("width") || "0"].join("; ");
        return [...{chart}.querySelectorAll("a")].map(cell).sort();
    }})()""")


@pytest.mark.parametrize(("down", "across", "count"), [("page size", "GQA ratio", 3), ("kernel path", "page size", 4)])
def test_the_script_draws_the_map_that_stands_there_without_it(
    opened: Browser, down: str, across: str, count: int
) -> None:
    there = cells(opened, f"document.querySelector('.gallery svg[aria-label=\"{down} by {across}\"]')")
    assert len(there) == count
    assert drawn(opened, down, across, version=2) == there


def test_the_largest_error_of_a_cell_is_shown_where_it_is_asked_for(opened: Browser) -> None:
    some = drawn(opened, "page size", "GQA ratio", version=2, measure="largest error/bound")
    assert [one.split("; ")[-6] for one in some] == ["? 0.5", "!! 2000", "?"]


FAILING = {"non-causal decode", "draft", "bf16", "packed cache", "pages of 16 keys", "pages of another power of two",
           "GQA ratio 2 to 8", "head dim 64"}  # fmt: skip
"""Features of DRAFT, which fails everywhere, or of WIDE, which fails as declared in the oldest version."""

DIFFERING = {"causal decode", "speculative verify", "invariances", "pages of another power of two"}
"""Those whose worst check is another in the cut version, or, for WIDE, in each."""


@pytest.mark.parametrize(
    ("which", "rows"),
    [("", FAILING | DIFFERING | {"softcap"}), ("failing", FAILING), ("differing", DIFFERING)],
)
def test_rows_of_the_table_are_chosen(opened: Browser, which: str, rows: set[str]) -> None:
    opened.run(f"document.querySelector('#rows select').value = '{which}'")
    opened.run("document.querySelector('#rows').dispatchEvent(new Event('change'))")
    left = "[...document.querySelectorAll('.matrix tbody tr')].filter((one) => !one.hidden)"
    assert set(opened.run(f"{left}.map((one) => one.querySelector('th').textContent)")) == rows


def test_what_was_not_run_does_not_look_like_a_pass(opened: Browser) -> None:
    look = """((css) => {
        const one = document.createElement("td");
        one.className = css;
        document.body.append(one);
        const {backgroundColor, backgroundImage} = getComputedStyle(one);
        one.remove();
        return backgroundColor + backgroundImage;
    })"""
    assert opened.run(f"{look}('s-not_run') !== {look}('s-pass')")
    assert opened.run(
        "[...document.querySelectorAll('.matrix .s-not_run b')].every((one) => one.textContent.startsWith('?'))"
    )


def test_without_scripts_it_is_read_all_the_same(tab: Browser, address: str) -> None:
    tab.size(1280, 900)
    tab.scripts(allowed=False)
    try:
        tab.open("about:blank")
        tab.open(address)
        text = tab.run("document.body.innerText")
        for words in (
            "UNEXPLAINED FAILURES",
            "This page says less than it seems to",
            "Features by version",
            "CLOSED",
            DRAFT,
        ):
            assert words in text
        assert tab.run("getComputedStyle(document.getElementById('checks')).display") == "none"
        assert tab.run("document.querySelectorAll('.gallery svg').length") > 0
        assert tab.run(f"document.querySelector('.failure pre').textContent.includes('{HOSTILE}')")
    finally:
        tab.scripts(allowed=True)
