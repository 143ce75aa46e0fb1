"""The review page's server: loopback only, and only for who has the token.

What it guards against, since any page in the user's browser and any user of the machine can reach
a local port: the address begins with a random token, compared in constant time; a foreign `Host`
(DNS rebinding) or `Origin` is refused; a POST must be JSON, which no foreign form can send;
nothing may be framed, and the page loads nothing but its own files. Images go by their row in the
data set, files by fixed names: no path is ever taken from a request.
"""

import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from facetrain.core.errors import DataError
from facetrain.core.log import logger
from facetrain.review.session import RequestError, Session

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("page.js", "ask.js", "chooser.js", "draw.js", "list.js", "say.js")
_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    **{name: (name, "text/javascript; charset=utf-8") for name in _SCRIPTS},
}
_LARGEST_BODY = 1 << 20
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
        super().__init__(("127.0.0.1", port), _Handler)

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
    timeout = 60  # seconds that an idle connection is held
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a request line has the token."""

    def _answer(self, work: Callable[[str], tuple[str, bytes, str]]) -> None:
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

    def _inside(self) -> str:
        """The address below the token, once the request may come in."""
        if self.headers.get("Host") not in self.server.hosts:
            raise _RefusedError(
                HTTPStatus.MISDIRECTED_REQUEST, "this is not the host you asked for"
            )
        token, slash, rest = self.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()) or not slash:
            raise _RefusedError(HTTPStatus.FORBIDDEN, "open the address that the terminal shows")
        if rest and self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "another site may not ask")
        return rest

    def _get(self, rest: str) -> tuple[str, bytes, str]:
        parts = urlsplit(rest)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        session = self.server.session
        if parts.path in self.server.files:
            return *self.server.files[parts.path], _NEVER
        folder, _, name = parts.path.rpartition("/")
        if folder == "face":
            return *session.picture(_number(name)), _ALWAYS
        if parts.path == "api/identities":
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
            offset, order = _number(query.get("offset", "0")), query.get("order", "doubt")
            return _json(session.identity(_number(name), offset, order))
        raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self, rest: str) -> tuple[str, bytes, str]:
        if self.headers.get("Origin") not in [f"http://{host}" for host in self.server.hosts]:
            raise _RefusedError(HTTPStatus.FORBIDDEN, "only the review page may decide")
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a decision must be JSON")
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _LARGEST_BODY:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a decision has up to {_LARGEST_BODY} bytes"
            )
        body = self.rfile.read(int(length))
        try:
            said = json.loads(body)
        except ValueError:
            raise RequestError("a decision must be JSON") from None
        if not isinstance(said, dict):
            raise RequestError("a decision must be a JSON object")
        return _json(self._decide(rest, said))

    def _decide(self, rest: str, said: Mapping[str, Any]) -> dict[str, Any]:
        session = self.server.session
        match rest:
            case "api/decide":
                rows, to = said.get("rows", []), said.get("to")
                if not isinstance(rows, list):
                    raise RequestError("rows must be a list")
                return session.decide(
                    str(said.get("action")),
                    _number(said.get("identity")),
                    [_number(row) for row in rows],
                    None if to is None else _number(to),
                )
            case "api/undo":
                return session.undo()
            case "api/redo":
                return session.redo()
            case "api/seen":
                return session.saw(_number(said.get("identity")))
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
