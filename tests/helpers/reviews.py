"""A run to review without training one, a client of the page's server, and the tools for both."""

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from facetrain.core.rng import numpy_generator
from facetrain.data.images.codec import encode_jpeg
from tools.benchmarks import fake_clean_run


def write_run(out: Path, num_identities: int, num_images: int) -> Path:
    """A cleaned run over coloured squares instead of faces; returns its folder."""
    generator = numpy_generator(0, "squares")
    colours = generator.integers(0, 255, (6, 2, 1, 1, 3), np.uint8, endpoint=True)
    squares = [[encode_jpeg(np.tile(one, (8, 8, 1))) for one in person] for person in colours]
    fake_clean_run.write_run(out, num_identities, num_images, squares)
    return out / "run"


class Client:
    """Speaks to the server as the page does; whatever is not 200 is an AssertionError."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        assert parts.hostname
        self.host, self.base = parts.netloc, parts.path
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of any request; `path` is the whole of it."""
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()

    def get(self, path: str) -> Any:
        status, _, body = self.ask("GET", self.base + path)
        assert status == 200, (status, body)
        return json.loads(body)

    def post(self, path: str, **said: Any) -> Any:
        headers = {"Content-Type": "application/json", "Origin": f"http://{self.host}"}
        status, _, body = self.ask("POST", self.base + path, json.dumps(said).encode(), headers)
        assert status == 200, (status, body)
        return json.loads(body)
