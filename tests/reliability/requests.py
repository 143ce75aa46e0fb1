"""Hostile requests to the review's server."""

import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from reliability.process import Ended, Process

_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)(/\S*)")
_HEADERS = (b"content-security-policy:", b"x-content-type-options: nosniff", b"x-frame-options:")
_BUSY = (501, 505)  # the server's own words for a method or version it does not have


def send_all(
    folder: Path, chance: random.Random, number: int
) -> Iterator[tuple[str, Ended, list[str]]]:
    """(what was sent, how it was answered, faults) of so many requests to the review of a run.

    Every request is malformed, forged or asks for what there is not, or is a good one to a page:
    the server must answer each, let in none that is forged, and then serve as at first.
    """
    process = Process(("review", "run", "--no-open"), folder)
    deadline = time.monotonic() + 60
    while not (found := _ADDRESS.search(process.said())):
        assert time.monotonic() < deadline, process.said()
        time.sleep(0.05)
    port, path = int(found[1]), found[2]
    host = f"127.0.0.1:{port}"
    good = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    assert _status(_send(port, good)) == 200
    heard = 0
    for _ in range(number):
        content, forged = _request(chance, host, path)
        answer = _send(port, content)
        status, head = _status(answer), answer.partition(b"\r\n\r\n")[0].lower()
        faults = []
        if status == 0:
            faults.append("no answer")
        elif not all(name in head for name in _HEADERS):
            faults.append("an answer without its headers")
        if status >= 500 and status not in _BUSY:
            faults.append("a server error")
        if forged and status == 200:
            faults.append("a forged request was let in")
        said = process.said()
        yield repr(content[:80]), Ended(status, said[heard:]), faults
        heard = len(said)
    after = _status(_send(port, good))
    process.signal(signal.SIGINT)
    ended = process.wait(20)
    faults = [] if after == 200 else ["no answer after it"]
    yield "the last request", ended, faults + ([] if ended.status in (0, 130) else ["status"])


def _request(chance: random.Random, host: str, home: str) -> tuple[bytes, bool]:
    """One request, and whether it must not be let in."""
    if chance.random() < 0.3:
        return _decision(chance, host, home), True
    path = chance.choice(
        ("/", "//", "/%2e%2e/%2e%2e/etc/passwd", "/api", "/face/1", "http://[", "/\x00", "/%zz",
         "/" + "a" * chance.choice((10, 70_000)), home, home + "?\xff", home + "../", "*", "",
         home + chance.choice(("face/-1", "face/999999999999", "api/identity/x", "page.py")))
    )  # fmt: skip
    called = chance.choice((host, "evil.example", "", "127.0.0.1:1", "[::1"))
    length = chance.choice(("-1", "abc", "99999999999999999999", "0", "5", "5, 6", "1e3", ""))
    method = chance.choice(("GET", "POST", "PUT", "HEAD", "OPTIONS", "X" * 5000, "get", "\x01"))
    version = chance.choice(("HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "HTTP", ""))
    lines = [f"{method} {path} {version}", f"Host: {called}", f"Content-Length: {length}"]
    if chance.random() < 0.3:
        lines += [f"X-{n}: {'y' * chance.choice((1, 500))}" for n in range(chance.choice((1, 300)))]
    if chance.random() < 0.2:
        lines.append("Transfer-Encoding: chunked")
    if chance.random() < 0.2:
        lines.append("no colon here")
    lines += chance.choice(
        ([], [], [], ["Expect: 100-continue"], ["Upgrade: websocket", "Connection: Upgrade"],
         ["Range: bytes=0-0,-1"], [" folded: x"], ["Host : evil.example"])
    )  # fmt: skip
    doubled = chance.random() < 0.1
    if doubled:
        lines.append("Host: evil.example")
    body = chance.choice((b"", b"[" * 200_000, b'{"action": "drop"}', b"\xff" * 100, b"x"))
    forged = called != host or not path.startswith(home) or method != "GET"
    if chance.random() < 0.1:  # no request at all: TLS, HTTP/2, another protocol, half a line
        return chance.choice((
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(200) + b"\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n", b"GET /\r\n", b"\n", b"GET",
        )), False  # fmt: skip
    end = chance.choice(("\r\n", "\r\n", "\r\n", "\n", "\r"))
    return (end.join(lines) + 2 * end).encode("latin-1", "replace") + body, forged or doubled


def _decision(chance: random.Random, host: str, home: str) -> bytes:
    """A decision as the page sends one, but for its origin or its content."""
    bodies = (b"", b"[" * 200_000, b"null", b'{"action": "drop"}', b'{"rows": "x"}', b"9" * 5000,
              b'{"action": "drop", "identity": -1, "rows": [0]}', b'{"identity": 1e999}',
              b'{"action": "\\u0000", "identity": 0, "rows": [0]}',
              b'{"action": "move", "identity": 0, "rows": [99999999], "to": 0}')  # fmt: skip
    body = chance.choice(bodies)
    origin = chance.choice((f"http://{host}", f"http://{host}", "http://evil.example", "null"))
    kind = chance.choice(("application/json", "application/json", "text/plain"))
    length = len(body) + chance.choice((0, 0, 1, 1000))
    where = chance.choice(("api/decide", "api/nothing"))
    lines = (f"POST {home}{where} HTTP/1.1", f"Host: {host}", f"Origin: {origin}",
             f"Content-Type: {kind}", f"Content-Length: {length}", "Connection: close")  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _send(port: int, content: bytes) -> bytes:
    """What the server answers until it closes, or for ten seconds."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.settimeout(10)
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                answer += chunk
    except OSError:
        pass
    return answer


def _status(answer: bytes) -> int:
    """The status of an answer; 0 of none."""
    words = answer.split(b"\r\n")[0].split(b" ")
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
