"""The server as the page, a foreign page and a hostile neighbour meet it."""

import json
import signal
import time
from pathlib import Path

import pytest
from helpers.cli import Call
from helpers.review_requests import drop, number_decided, post_headers, started
from helpers.reviews import Client, write_run

from facetrain.core.errors import UserError
from facetrain.data.review_journal import read_journal
from facetrain.review.review import serving
from facetrain.review.server import ReviewServer


def test_the_page_and_its_files(server: ReviewServer, client: Client) -> None:
    for name, kind in (("", "text/html"), ("page.css", "text/css"), ("page.js", "text/javascript"),
                       ("icon.svg", "image/svg+xml")):  # fmt: skip
        status, headers, body = client.ask("GET", client.base + name)
        assert status == 200
        assert headers["Content-Type"].startswith(kind)
        assert len(body) > 100
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")  # nothing foreign
        assert b"https://" not in body
    scripts = (Path(__file__).parents[3] / "facetrain" / "review" / "page").glob("*.js")
    for script in scripts:
        assert client.ask("GET", client.base + script.name)[0] == 200
        # Names come from the data: they must never be read as markup.
        assert "innerHTML" not in script.read_text()
    _, _, page = client.ask("GET", client.base)
    assert b"<script>" not in page
    assert b"style=" not in page


def test_a_decision_and_its_undo(server: ReviewServer, client: Client) -> None:
    before = number_decided(client)
    dataset = server.session.cleaned.dataset
    row, identity = int(dataset.row[3]), int(dataset.class_ids[0])
    said = client.post("api/decide", action="drop", identity=identity, rows=[row])
    assert [(face["row"], face["kept"], face["action"]) for face in said["faces"]] == [
        (row, False, "drop")
    ]
    assert said["progress"]["decisions"] == before + 1
    assert client.post("api/undo")["progress"]["undone"] == 1
    assert client.post("api/redo")["progress"]["undone"] == 0
    assert client.post("api/undo")["progress"]["decisions"] == before
    assert client.post("api/seen", identity=identity)["progress"]["seen"] == 1


def test_only_this_machine_can_connect(server: ReviewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("token", ["", "x", "{}x", "{}%00", "..", "%2e%2e"])
def test_without_the_token_there_is_nothing(
    server: ReviewServer, client: Client, token: str
) -> None:
    wrong = token.format(server.token)
    for path in (f"/{wrong}/", f"/{wrong}/api/identities", f"/{wrong}/face/1", f"/{server.token}"):
        status, _, body = client.ask("GET", path)
        assert status == 403
        assert server.token.encode() not in body
    before = number_decided(client)
    headers = post_headers(client)
    assert client.ask("POST", f"/{wrong}/api/decide", drop(client, server), headers)[0] == 403
    assert number_decided(client) == before


def test_every_server_has_a_token_of_its_own(server: ReviewServer) -> None:
    tokens = {server.token}
    for _ in range(3):
        other = ReviewServer(server.session, 0, "")
        tokens.add(other.token)
        other.server_close()
    assert len(tokens) == 4
    assert min(map(len, tokens)) >= 43  # 256 bits


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil:80"])
def test_a_name_that_was_bent_to_this_address_gets_nothing(client: Client, host: str) -> None:
    """DNS rebinding: the browser connects here, but believes it speaks to `host`."""
    assert client.ask("GET", client.base, headers={"Host": host})[0] == 421
    headers = post_headers(client, Host=host, Origin=f"http://{host}")
    assert client.ask("POST", client.base + "api/undo", b"{}", headers)[0] == 421


def test_localhost_will_do(client: Client) -> None:
    """As through a tunnel from another machine."""
    host = client.host.replace("127.0.0.1", "localhost")
    assert client.ask("GET", client.base, headers={"Host": host})[0] == 200


@pytest.mark.parametrize(
    "change",
    [
        {"Origin": None}, {"Origin": "null"}, {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"}, {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"}, {"Content_Type": "text/plain"}, {"Content_Type": None},
        {"Content_Type": "application/x-www-form-urlencoded"},
    ],
)  # fmt: skip
def test_another_page_cannot_decide(
    server: ReviewServer, client: Client, change: dict[str, str | None]
) -> None:
    before = number_decided(client)
    headers = post_headers(client, **change)
    status, _, _ = client.ask("POST", client.base + "api/decide", drop(client, server), headers)
    assert status in (403, 415)
    assert number_decided(client) == before
    assert client.ask("GET", client.base + "api/decide")[0] == 404  # nor by a link


@pytest.mark.parametrize(
    "path",
    [
        "../page.js", "..%2f..%2freview.py", "session.py", "face/../page.js", "page/page.js",
        "//etc/passwd", "face/../../../../etc/passwd", "api/identity/../../x", "index.html",
        "journal.jsonl", "api", "face", "face/", "PAGE.JS", "page.js/",
    ],
)  # fmt: skip
def test_no_path_leads_out(client: Client, path: str) -> None:
    status, _, body = client.ask("GET", client.base + path)
    assert status in (400, 404)
    assert list(json.loads(body)) == ["error"]


@pytest.mark.parametrize(
    "number", ["-1", "1e3", "0x1", "1.5", "99999999", "1" * 30, "%31", "1?x", "1/2"]
)
def test_a_face_is_a_row_and_nothing_else(client: Client, number: str) -> None:
    status, _, _ = client.ask("GET", f"{client.base}face/{number}")
    assert status == (200 if number == "1?x" else 404 if "/" in number else 400)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"7", b"\xff", b"{}", b'{"action":"drop"}',
        b'{"action":"drop","identity":1000,"rows":5}',
        b'{"action":"drop","identity":"x","rows":[1]}',
        b'{"action":"drop","identity":1000,"rows":[true]}',
        b'{"action":"drop","identity":1000,"rows":[-1]}',
        b'{"action":"drop","identity":1000,"rows":[[1]]}',
        b'{"action":"drop","identity":1000,"rows":[1.5]}',
        b'{"action":7,"identity":1000,"rows":[1]}', b"[" * 200_000, b"1" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_decision_is_refused(client: Client, body: bytes) -> None:
    before = number_decided(client)
    headers = post_headers(client)
    status, _, said = client.ask("POST", client.base + "api/decide", body, headers)
    assert status == 400
    assert json.loads(said)["error"]
    assert number_decided(client) == before


def test_a_body_has_a_limit(client: Client) -> None:
    for length in ("1048577", "-1", "x", "99999999999999", "\u00b2", "+5", ""):
        headers = post_headers(client, Content_Length=length)
        status, _, _ = client.ask("POST", client.base + "api/undo", b"", headers)
        assert status == 413
    assert client.ask("GET", client.base)[0] == 200


def test_one_review_of_a_run_at_a_time(server: ReviewServer, folder: Path) -> None:
    pytest.importorskip("fcntl")
    with pytest.raises(UserError, match="one review at a time"), serving(folder, 0):
        pass


def test_a_port_that_is_taken(server: ReviewServer, tmp_path: Path) -> None:
    other = write_run(tmp_path, 3, 4)
    with pytest.raises(UserError, match="must be free"), serving(other, server.server_port):
        pass


def test_a_folder_that_is_no_run_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = Call(capfd).refused("review", tmp_path, "--no-open")
    assert "no finished stage clean; finish it with `facetrain run" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_nothing_is_lost_when_it_is_killed(tmp_path: Path) -> None:
    """Three times: decisions without a pause, SIGKILL, start again, all acknowledged are there."""
    folder = write_run(tmp_path, 20, 6)
    words = ("-m", "facetrain", "review", folder, "--no-open")
    acknowledged: list[tuple[str, list[int]]] = []
    for life in range(3):
        process, address = started(*words)
        client = Client(address)
        listed = client.get("api/identities")["identities"]
        assert client.get("api/identities")["progress"]["decisions"] == len(acknowledged)
        for number in range(25):
            one = listed[(7 * life + number) % len(listed)]["id"]
            faces = client.get(f"api/identity/{one}")["faces"]
            rows = [faces[number % len(faces)]["row"]]
            action = ("keep", "drop")[number % 2]
            client.post("api/decide", action=action, identity=one, rows=rows)
            acknowledged.append((action, rows))
        process.kill()
        process.wait()
        done = read_journal(folder / "review" / "journal.jsonl").history.done
        assert [(one.action, list(one.rows)) for one in done] == acknowledged
    process, address = started(*words)
    assert Client(address).get("api/identities")["progress"]["decisions"] == len(acknowledged)
    process.send_signal(signal.SIGTERM)  # an orderly end says what comes next
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"{len(acknowledged)} decisions in" in out
    assert (folder / "review" / "overlay.npz").is_file()
    assert not (folder / "review" / "open.html").exists()


def test_the_browser_learns_the_address_from_a_file_only_its_owner_reads(tmp_path: Path) -> None:
    folder = write_run(tmp_path, 3, 4)
    browser = tmp_path / "browser.sh"
    seen = tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\necho "$@" > {seen}.part; mv {seen}.part {seen}\n')
    browser.chmod(0o700)
    process, address = started("-m", "facetrain", "review", folder, BROWSER=f"{browser} %s")
    end = time.monotonic() + 20
    while not seen.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    redirect = folder / "review" / "open.html"
    assert seen.read_text().strip() == redirect.resolve().as_uri()
    assert address in redirect.read_text()
    assert redirect.stat().st_mode & 0o077 == 0
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0
