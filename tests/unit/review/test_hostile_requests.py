"""Whatever a connection sends, the review's server answers, and decides nothing by it."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers.review_requests import drop, number_decided, started
from helpers.reviews import Client, write_run

from facetrain.core.rng import numpy_generator
from facetrain.review.server import ReviewServer


def raw(server: ReviewServer, request: bytes) -> bytes:
    """What is answered to these bytes, after which nothing more is sent."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
    return answer


def is_guarded(answer: bytes) -> bool:
    """Whether an answer is ours, by its headers, and no page of the library's."""
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = head.lower()
    guarded = b"content-security-policy: default-src 'none'" in headers
    return guarded and b"x-frame-options: deny" in headers and b"<html" not in body.lower()


def hostile_requests(server: ReviewServer, seed: int, number: int) -> Iterator[bytes]:
    """Requests in which one thing or several are wrong; none of them is a decision."""
    random = numpy_generator(seed, "hostile requests")
    token, host = server.token, server.hosts[0]
    dataset = server.session.cleaned.dataset
    good = b'{"action":"drop","identity":%d,"rows":[%d]}' % (dataset.class_ids[0], dataset.row[0])
    paths = [
        f"/{token}/api/decide", f"/{token}/api/undo", f"/{token}/", f"//[{token}", f"/{token}/[::",
        f"/{token}/api/identities?" + "a=1&" * 50, f"/{token}/face/" + "9" * 4000, "*", "/%", "\\",
        f"/{token}//[x", f"http://[/{token}/", "/" + "a" * 70_000, f"/{token}/api/identity/\u00b2",
    ]  # fmt: skip
    bodies = [good[:-1], b"[" * 200_000, b'{"a":' * 100_000, b"\xff\xfe", b"", b"1" * 5000, b"null"]
    lengths = ["\u00b2", "+5", "-1", "0x10", "1e3", "9" * 30, " ", "5, 5", "1_0"]
    versions = ["HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "HTTP/x", "HTTP/1.1.1", "", "FTP/1.0"]
    for _ in range(number):
        body = bodies[random.integers(len(bodies))]
        odd = random.random(3) < 0.4  # method, path, hosts
        method = str(random.choice(["GET", "PUT", "HEAD", "OPTIONS", "\x00"])) if odd[0] else "POST"
        path = paths[random.integers(len(paths)) if odd[1] else 0]
        lines = [f"{method} {path} {random.choice(versions)}" if random.random() < 0.3
                 else f"{method} {path} HTTP/1.1"]  # fmt: skip
        lines.append(f"Host: {host}")
        lines += [f"Host: {host}", "Host: evil.example"] if odd[2] else []
        lines += [f"Origin: http://{host}", "Content-Type: application/json"]
        kind, length = random.integers(6), str(len(body))
        if kind == 0:
            length = str(len(body) + int(random.integers(1, 100)))  # the body is too short
        elif kind == 1:
            length = str(random.choice(lengths))
        elif kind == 2:
            lines.append("Transfer-Encoding: chunked")
        elif kind == 3:
            lines.append("Content-Length: 0")
        elif kind == 4:
            lines += ["X: y"] * 200 if random.random() < 0.5 else ["no colon", "\x00: \x01"]
        lines.append(f"Content-Length: {length}")
        yield "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def test_hostile_requests_are_answered_and_change_nothing(
    server: ReviewServer, client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every one gets an answer with our headers, none a traceback, and none decides anything."""
    before = number_decided(client)
    for request in hostile_requests(server, 0, 200):
        answer = raw(server, request)
        assert is_guarded(answer), (request[:200], answer[:300])
        status = int(answer.split(b" ", 2)[1])
        assert status < 500 or status in (501, 505), (request[:200], answer[:300])
        assert server.token.encode() not in answer
    assert number_decided(client) == before
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_body_that_is_cut_short_is_no_decision(server: ReviewServer, client: Client) -> None:
    """What came is whole JSON, and a decision; but more was announced."""
    before, body = number_decided(client), drop(client, server)
    lines = [f"POST /{server.token}/api/decide HTTP/1.1", f"Host: {client.host}"]
    lines += [f"Origin: http://{client.host}", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body) + 1}", "", ""]).encode()
    assert raw(server, head + body).startswith(b"HTTP/1.1 400 ")
    assert number_decided(client) == before


def test_a_body_is_never_read_as_a_request(server: ReviewServer, client: Client) -> None:
    inner = f"GET /{server.token}/ HTTP/1.1\r\nHost: {client.host}\r\n\r\n"
    outer = inner[:-2] + f"Content-Length: {len(inner)}\r\n\r\n"
    assert raw(server, (outer + inner).encode()).count(b"HTTP/1.1 ") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_connections_cost_nothing_and_shut_nobody_out(tmp_path: Path) -> None:
    """100 connections that say nothing, against a server with 48 descriptors."""
    folder = write_run(tmp_path, 3, 4)
    limited = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48)); "
        "runpy.run_module('facetrain', run_name='__main__', alter_sys=True)"
    )
    process, address = started("-c", limited, "review", folder, "--no-open")
    parts = urlsplit(address)
    idle = []
    for _ in range(100):
        idle.append(socket.create_connection((parts.hostname, parts.port), timeout=5))
    ticks = Path(f"/proc/{process.pid}/stat")

    def used_seconds() -> float:
        user, system = ticks.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    before = used_seconds()
    time.sleep(1.5)
    assert used_seconds() - before < 0.5
    client = Client(parts.geturl())
    assert client.get("api/identities")["total"] == 3  # though all of them are open
    for connection in idle:
        connection.close()
    assert client.get("api/identities")["total"] == 3
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
