"""A review of a made-up run, served."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.reviews import Client, write_run

from facetrain.review.review import serving
from facetrain.review.server import ReviewServer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), 80, 6)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ReviewServer]:
    with serving(folder, 0) as server:
        yield server


@pytest.fixture
def client(server: ReviewServer) -> Client:
    return Client(server.address)
