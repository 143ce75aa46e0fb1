"""The review page in a real browser: what the keys do, and what stays when it is reloaded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.reviews import Client, write_run

from facetrain.data.review_journal import Decision, read_journal
from facetrain.review.review import serving, write_redirect
from facetrain.review.server import ReviewServer
from tools.benchmarks import headless_browser

NUM_CLASSES, PER_CLASS = 400, 8
SHIFT = 8
HOSTILE = "<img src=x onerror=\"document.title='caught'\"><b>Ann</b>"

BROWSER = headless_browser.find_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with headless_browser.browsing(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        page.size(1280, 800)
        yield page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"), NUM_CLASSES, PER_CLASS)
    names = {str(1000 + 3 * number): f"person {number}" for number in range(NUM_CLASSES)}
    (run.parent / "faces" / "classes.json").write_text(json.dumps(names | {"1009": HOSTILE}))
    return run


@pytest.fixture
def server(folder: Path) -> Iterator[ReviewServer]:
    with serving(folder, 0) as server:
        yield server


@pytest.fixture
def page(browser: Any, server: ReviewServer) -> Any:
    browser.events.clear()
    browser.open(server.address)
    browser.wait("document.readyState === 'complete' && document.querySelector('.face')")
    return browser


def decisions(folder: Path) -> list[Decision]:
    return read_journal(folder / "review" / "journal.jsonl").history.done


def shown(page: Any) -> str:
    """The identity on the page, by its heading."""
    return str(page.evaluate("document.querySelector('#about strong').textContent"))


def focused(page: Any) -> int:
    return int(page.evaluate("document.querySelector('.face[aria-current]').dataset.row"))


def said(page: Any, text: str) -> None:
    page.wait(f"document.querySelector('#toast').textContent.includes({json.dumps(text)})")


def search(page: Any, text: str) -> None:
    page.press("/")
    page.wait("document.activeElement.id === 'search'")
    page.evaluate("document.activeElement.select()")
    page.type(text)
    page.press("Enter")
    page.wait(f"document.querySelector('#about strong')?.textContent.includes('({text})')")


def state(page: Any, row: int) -> str:
    return str(page.evaluate(f"document.querySelector('[data-row=\"{row}\"].face').className"))


def test_it_opens_without_a_complaint(page: Any, server: ReviewServer) -> None:
    client = Client(server.address)
    listed = client.get("api/identities")["identities"]
    assert shown(page).endswith(f"({listed[0]['id']})")
    faces = client.get(f"api/identity/{listed[0]['id']}")["faces"]
    rows = page.evaluate("[...document.querySelectorAll('.face')].map(f => +f.dataset.row)")
    assert rows == [face["row"] for face in faces]
    page.wait("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.complaints() == []  # nothing blocked, nothing missing, no script error


def test_the_file_that_opens_the_browser_leads_there(
    browser: Any, server: ReviewServer, tmp_path: Path
) -> None:
    write_redirect(tmp_path / "open.html", server.address)
    browser.open((tmp_path / "open.html").as_uri())
    browser.wait("location.protocol === 'http:' && document.querySelector('.face')")


def test_keys_decide_and_undo(page: Any, folder: Path) -> None:
    before = len(decisions(folder))
    identity = int(shown(page).rsplit("(")[-1].rstrip(")"))
    rows = []
    for key, words in (("d", "dropped: 1"), ("k", "kept: 1")):
        rows.append(focused(page))
        page.press(key)
        said(page, words)
        assert focused(page) != rows[-1]  # on to the next face
    assert "dropped" in state(page, rows[0])
    assert "kept" in state(page, rows[1])
    assert decisions(folder)[before:] == [
        Decision("drop", (rows[0],), identity),
        Decision("keep", (rows[1],), identity),
    ]
    page.press("u")
    said(page, "taken back")
    page.press("u")
    page.wait("!document.querySelector('#redo').disabled")
    page.wait(f"!document.querySelector('[data-row=\"{rows[0]}\"]').textContent.includes('✓')")
    assert len(decisions(folder)) == before
    page.press("r")
    said(page, "decided again")
    page.wait(f"document.querySelector('[data-row=\"{rows[0]}\"]').textContent.includes('✓')")
    assert [one.action for one in decisions(folder)[before:]] == ["drop"]
    # A reload shows what was decided.
    page.reload()
    page.wait(f"document.querySelector('[data-row=\"{rows[0]}\"]')?.textContent.includes('✓')")


def test_fast_keys_are_decisions_in_order(page: Any, folder: Path) -> None:
    before = len(decisions(folder))
    rows = page.evaluate("[...document.querySelectorAll('.face')].map(f => +f.dataset.row)")
    page.evaluate(
        "[...'dkdk'].forEach(key => document.body.dispatchEvent("
        "new KeyboardEvent('keydown', { key, bubbles: true })))"
    )
    page.wait(f"document.querySelector('#counts').textContent.startsWith('{before + 4} ')")
    made = [(one.action, one.rows[0]) for one in decisions(folder)[before:]]
    assert made == list(zip(("drop", "keep", "drop", "keep"), rows, strict=False))


def test_arrows_walk_the_grid(page: Any) -> None:
    rows = page.evaluate("[...document.querySelectorAll('.face')].map(f => +f.dataset.row)")
    width = page.evaluate(
        "(cards => cards.filter(c => c.offsetTop === cards[0].offsetTop).length)"
        "([...document.querySelectorAll('.face')])"
    )
    assert 1 < width < len(rows)
    for key, index in (("ArrowRight", 1), ("ArrowDown", width + 1), ("ArrowLeft", width),
                       ("ArrowUp", 0), ("ArrowUp", 0), ("ArrowLeft", 0)):  # fmt: skip
        page.press(key)
        assert focused(page) == rows[index]


def test_several_at_once(page: Any, folder: Path) -> None:
    before = len(decisions(folder))
    rows = page.evaluate("[...document.querySelectorAll('.face')].map(f => +f.dataset.row)")
    for _ in range(3):
        page.press(" ")
    page.press("d")
    said(page, "dropped: 3")
    (made,) = decisions(folder)[before:]
    assert made.rows == tuple(rows[:3])
    page.press("a")
    page.press("k")
    said(page, f"kept: {len(rows)}")
    assert set(decisions(folder)[-1].rows) == set(rows)


def test_moving_to_the_suggested_and_to_any_identity(
    page: Any, folder: Path, server: ReviewServer
) -> None:
    client = Client(server.address)
    listed = client.get("api/identities?filter=other&anew=1")["identities"]
    identity = client.get(f"api/identity/{listed[0]['id']}")
    face = next(face for face in identity["faces"] if face["suggested"] is not None)
    search(page, str(identity["id"]))
    page.evaluate(f"document.querySelector('[data-row=\"{face['row']}\"].face').click()")
    assert focused(page) == face["row"]
    page.press("m")
    said(page, f"moved to {face['suggested']}")
    assert "moved" in state(page, face["row"])
    assert decisions(folder)[-1] == Decision("move", (face["row"],), face["suggested"])
    page.press("ArrowLeft")
    row = focused(page)
    page.press("M", SHIFT)
    page.wait("document.querySelector('#chooser').open")
    page.type("1012")
    page.wait("document.querySelectorAll('.hit').length === 1")
    page.press("Enter")
    said(page, "moved to 1012")
    assert decisions(folder)[-1] == Decision("move", (row,), 1012)
    page.press("M", SHIFT)
    page.wait("document.querySelector('#chooser').open")
    page.press("Escape")
    page.wait("!document.querySelector('#chooser').open")
    assert decisions(folder)[-1].label == 1012  # nothing more


def test_merging_with_the_proposed_identity(page: Any, folder: Path, server: ReviewServer) -> None:
    client = Client(server.address)
    listed = client.get("api/identities?filter=merges&anew=1")["identities"]
    identity = client.get(f"api/identity/{listed[0]['id']}")
    search(page, str(identity["id"]))
    page.press("g")
    said(page, f"merged into {identity['merge']}")
    made = decisions(folder)[-1]
    assert (made.action, made.label, made.merged) == ("merge", identity["merge"], identity["id"])
    standing = [f["row"] for f in identity["faces"] if f["kept"] and f["label"] == identity["id"]]
    assert set(made.rows) == set(standing)
    page.press("u")
    said(page, "taken back")
    page.wait("document.querySelector('#about button')")


def test_a_swap_is_one_key(page: Any, folder: Path, server: ReviewServer) -> None:
    client = Client(server.address)
    listed = client.get("api/identities?filter=swaps&anew=1")["identities"]
    identity = client.get(f"api/identity/{listed[0]['id']}")
    place = next(n for n, f in enumerate(identity["faces"]) if f["swap_with"] is not None)
    face = identity["faces"][place]
    search(page, str(identity["id"]))
    for _ in range(place):
        page.press("ArrowRight")
    page.wait("document.querySelector('#compare').textContent.includes('s swaps')")
    page.press("s")
    said(page, f"swapped with an image of {face['suggested']}")
    rows = face["row"], face["swap_with"]
    swapped = Decision("swap", rows, face["suggested"], other=identity["id"])
    assert decisions(folder)[-1] == swapped
    page.press("u")
    said(page, "taken back")
    assert swapped not in decisions(folder)


def test_next_marks_as_seen_and_the_filter_leaves_it_out(page: Any, server: ReviewServer) -> None:
    first = shown(page)
    page.press("n")
    page.wait(f"document.querySelector('#about strong').textContent !== {json.dumps(first)}")
    page.wait("document.querySelector('.row.seen')")
    page.press("p")
    page.wait(f"document.querySelector('#about strong').textContent === {json.dumps(first)}")
    page.press("f")  # not seen yet
    page.wait(f"document.querySelector('#about strong').textContent !== {json.dumps(first)}")
    assert Client(server.address).get("api/identities")["progress"]["seen"] >= 1


def test_the_list_has_everybody_and_draws_few(page: Any, server: ReviewServer) -> None:
    page.evaluate("document.querySelector('#list').scrollTop = 1e9")
    last = Client(server.address).get(f"api/identities?offset={NUM_CLASSES - 1}")["identities"][0]
    page.wait(f"document.querySelector('#rows').textContent.includes('({last['id']})')")
    assert page.evaluate("document.querySelectorAll('.row').length") < 60
    page.evaluate(f"document.querySelector('[data-position=\"{NUM_CLASSES - 1}\"]').click()")
    page.wait(f"document.querySelector('#about strong').textContent.includes('({last['id']})')")


def test_a_name_is_text(page: Any) -> None:
    search(page, "1009")
    assert HOSTILE in shown(page)
    assert page.evaluate("document.querySelector('#about b') === null")
    assert page.evaluate("document.title") != "caught"


def test_help_is_a_key_away(page: Any) -> None:
    page.press("?", SHIFT)
    page.wait("document.querySelector('#keys').open")
    page.press("d")  # decides nothing meanwhile
    page.press("Escape")
    page.wait("!document.querySelector('#keys').open")
    assert page.evaluate("document.querySelector('#toast').hidden")


def test_a_server_that_is_gone_is_told(browser: Any, folder: Path) -> None:
    with serving(folder, 0) as server:
        browser.open(server.address)
        browser.wait("document.readyState === 'complete' && document.querySelector('.face')")
        number = len(decisions(folder))
    browser.press("d")
    said(browser, "The review is not running any more")
    assert len(decisions(folder)) == number
