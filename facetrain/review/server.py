"""The review page's server: loopback only, and only for who has the token.

What it guards against, since any page in the user's browser and any user of the machine can reach
a local port: the address begins with a random token, compared in constant time; a foreign `Host`
(DNS rebinding) or `Origin` is refused; a POST must be JSON, which no foreign form can send;
nothing may be framed, and the page loads nothing but its own files. Images go by their row in the
data set, files by fixed names: no path is ever taken from a request.

It is the standard library's server with what that leaves open closed: every answer, its own error
pages too, has the headers; a request that cannot be understood is answered, never a traceback;
connections are counted. (Werkzeug's server is the same one beneath, with the same gaps.)
"""

import contextlib
import errno
import hmac
import json
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.review.session import RequestError, Session

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("page.js", "api.js", "chooser.js", "draw.js", "list.js", "status.js")
_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    **{name: (name, "text/javascript; charset=utf-8") for name in _SCRIPTS},
}
_LARGEST_BODY = 1 << 20
_MOST_CONNECTIONS = 32  # a browser has six
_PAUSE_SECONDS = 0.1  # before another connection is accepted, where no descriptor is free
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_NEVER, _ALWAYS = "no-store", "private, max-age=86400, immutable"


class ReviewServer(ThreadingHTTPServer):
    """Serves one session on 127.0.0.1.

    Args:
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, session: Session, port: int, title: str) -> None:
        self.session, self.title = session, title
        self.token = secrets.token_urlsafe(32)
        self.files = {
            name: (kind, (_PAGE / file).read_bytes()) for name, (file, kind) in _FILES.items()
        }
        self._open: dict[socket.socket, bool] = {}  # oldest first -> whether it waits for a request
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; wait a little where there is no descriptor for it."""
        try:
            return super().get_request()
        except OSError as error:  # the serving loop would try again at once, on and on
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(_PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread; where too many are open, in the place of an idle one."""
        if len(self._open) >= _MOST_CONNECTIONS:
            idle = next((one for one, waits in list(self._open.items()) if waits), None)
            if idle is None:
                self.shutdown_request(request)
                return
            self._open.pop(idle, None)
            with contextlib.suppress(OSError):
                idle.shutdown(socket.SHUT_RDWR)  # its thread closes it
        self._open[request] = True
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._open.pop(request, None)
            raise

    def note(self, connection: socket.socket, *, waits: bool) -> None:
        """Keep whether a connection waits for a request, or is in one."""
        if connection in self._open:
            self._open[connection] = waits

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)

    def server_close(self) -> None:
        """End the open connections, too: a page must learn that nobody takes its decisions."""
        super().server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: what goes wrong in an answer is logged there; the rest is a connection lost."""

    @property
    def hosts(self) -> tuple[str, str]:
        """What a browser that was sent here names as the host."""
        return f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"

    @property
    def address(self) -> str:
        """The page, token included."""
        return f"http://{self.hosts[0]}/{self.token}/"


class _RefusedError(Exception):
    """The request is answered with this status and says why."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "facetrain", ""
    default_request_version = "HTTP/1.0"  # else an error in the first line gets no headers
    timeout = 30  # seconds that an idle connection is held
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def handle_one_request(self) -> None:
        """Wait for a request and answer it; a connection that waits may have to make room."""
        super().handle_one_request()
        self.server.note(self.connection, waits=True)

    def parse_request(self) -> bool:
        """As ever; from its first line on, a request is answered."""
        self.server.note(self.connection, waits=False)
        return super().parse_request()

    def finish(self) -> None:
        """Read the rest of a refused request: closing first would lose the reply."""
        super().finish()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            for _ in range(_LARGEST_BODY >> 15):
                if not self.connection.recv(1 << 16):
                    break

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a request line has the token."""

    def _respond(self, work: Callable[[str], tuple[str, bytes, str]]) -> None:
        try:
            kind, content, cache = work(self._inside())
            self._send(HTTPStatus.OK, kind, content, cache)
        except _RefusedError as refused:
            self.close_connection = True  # its body was not read
            self._send_error(refused.status, str(refused))
        except RequestError as error:
            self._send_error(HTTPStatus.BAD_REQUEST, str(error))
        except DataError as error:
            self._send_error(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (ConnectionError, TimeoutError):  # the browser went on to another page
            self.close_connection = True
        except OSError as error:
            logger.error("review: nothing was saved: %s", error)
            self._send_error(HTTPStatus.INSUFFICIENT_STORAGE, f"nothing was saved: {error}")
        except Exception as error:
            logger.error("review: a request failed: %r", error)
            self.close_connection = True
            self._send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "this could not be answered")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request that the library understands; as everything else."""
        self.close_connection = True
        self._send_error(HTTPStatus(code), "this is no request of the review page")

    def _inside(self) -> str:
        """The address below the token, once the request may come in."""
        if not self._has_one("Host", self.server.hosts):
            raise _RefusedError(
                HTTPStatus.MISDIRECTED_REQUEST, "this is not the host you asked for"
            )
        token, slash, rest = self.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()) or not slash:
            raise _RefusedError(HTTPStatus.FORBIDDEN, "open the address that the terminal shows")
        framed = [
            self.headers.get_all(name, []) for name in ("Content-Length", "Transfer-Encoding")
        ]
        if len(framed[0]) > 1 or framed[1]:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "a body must have one Content-Length")
        if rest and self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "another site may not ask")
        return rest

    def _has_one(self, name: str, values: Sequence[str]) -> bool:
        """Whether a header came once, and is one of these; of two, others may go by the second."""
        came = self.headers.get_all(name, [])
        return len(came) == 1 and came[0] in values

    def handle_expect_100(self) -> bool:
        """Say nothing before the request was looked at; who waits for a word sends all the same."""
        return True

    def _get(self, rest: str) -> tuple[str, bytes, str]:
        if self.headers.get("Content-Length", "0") != "0":  # it would be read as a request
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "a page is asked for without a body")
        path, _, text = rest.partition("?")
        query = {name: values[-1] for name, values in parse_qs(text).items()}
        session = self.server.session
        if path in self.server.files:
            return *self.server.files[path], _NEVER
        folder, _, name = path.rpartition("/")
        if folder == "face":
            return *session.picture(_number(name)), _ALWAYS
        if path == "api/identities":
            return _json(
                session.identities(
                    query.get("filter", "all"),
                    query.get("search", ""),
                    _number(query.get("offset", "0")),
                    anew="anew" in query,
                )
                | {"title": self.server.title}
            )
        if folder == "api/identity":
            offset, order = _number(query.get("offset", "0")), query.get("order", "priority")
            return _json(session.identity(_number(name), offset, order))
        raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self, rest: str) -> tuple[str, bytes, str]:
        if not self._has_one("Origin", [f"http://{host}" for host in self.server.hosts]):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "only the review page may decide")
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a decision must be JSON")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 10) or (
            int(length) > _LARGEST_BODY
        ):
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a decision has up to {_LARGEST_BODY} bytes"
            )
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "the body is shorter than it was to be")
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise RequestError("a decision must be JSON") from None
        if not isinstance(content, dict):
            raise RequestError("a decision must be a JSON object")
        return _json(self._decide(rest, content))

    def _decide(self, rest: str, content: Mapping[str, Any]) -> dict[str, Any]:
        session = self.server.session
        match rest:
            case "api/decide":
                rows, to = content.get("rows", []), content.get("to")
                if not isinstance(rows, list):
                    raise RequestError("rows must be a list")
                return session.decide(
                    str(content.get("action")),
                    _number(content.get("identity")),
                    [_number(row) for row in rows],
                    None if to is None else _number(to),
                )
            case "api/undo":
                return session.undo()
            case "api/redo":
                return session.redo()
            case "api/seen":
                return session.mark_seen(_number(content.get("identity")))
        raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")

    def _send(self, status: HTTPStatus, kind: str, content: bytes, cache: str) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", cache)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def _send_error(self, status: HTTPStatus, why: str) -> None:
        self._send(status, *_json({"error": why}))


def _json(value: Any) -> tuple[str, bytes, str]:
    content = json.dumps(value, separators=(",", ":")).encode()
    return "application/json", content, _NEVER


def _number(value: Any) -> int:
    """A number from 0 up that fits a row or a class id."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RequestError(f"must be a number: {value!r:.40}")
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise RequestError(f"must be a number from 0 up: {text[:40]!r}")
    return int(text)
