"""Requests to a review's server."""

import json
import os
import subprocess
import sys
from urllib.parse import urlsplit

from helpers.reviews import Client

from facetrain.review.server import ReviewServer


def number_decided(client: Client) -> int:
    return int(client.get("api/identities")["progress"]["decisions"])


def post_headers(client: Client, **change: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Origin": f"http://{client.host}"}
    changed = {**headers, **{name.replace("_", "-"): value for name, value in change.items()}}
    return {name: value for name, value in changed.items() if value is not None}


def drop(client: Client, server: ReviewServer) -> bytes:
    dataset = server.session.cleaned.dataset
    row, identity = int(dataset.row[0]), int(dataset.class_ids[0])
    return json.dumps({"action": "drop", "identity": identity, "rows": [row]}).encode()


def started(*words: object, **environment: str) -> tuple["subprocess.Popen[str]", str]:
    """A review in a process of its own, and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout
    address = process.stdout.readline().split()[-1]
    assert urlsplit(address).hostname == "127.0.0.1"
    return process, address
