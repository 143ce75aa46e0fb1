"""How fast the review page is, and whether it keeps what was decided when it is killed.

    python -m tools.benchmarks.fake_clean_run OUT --identities 84000 --images 20 --size 48
    python -m tools.benchmarks.review OUT/run

Prints a Markdown table. It leaves its decisions in OUT/run/review; each run of it adds to them.
"""

import functools
import http.client
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tools.benchmarks.common import ROOT, make_parser, markdown_table, memory_mib, seconds_of
from tools.benchmarks.headless_browser import browsing, find_browser

PAGE = ROOT / "facetrain" / "review" / "page"
NUM_DECISIONS, NUM_KEYS = 300, 40
FIRST_FACES = """
new Promise(done => { const look = () => {
  const cards = [...document.querySelectorAll('.face > img')]
    .filter(image => image.getBoundingClientRect().top < innerHeight);
  cards.length && cards.every(i => i.complete) ? done(performance.now()) : setTimeout(look, 2); };
  look(); })"""
KEYS = """
(async () => { const times = []; const press = key => document.body.dispatchEvent(
  new KeyboardEvent('keydown', { key, bubbles: true }));
  for (let n = 0; n < NUMBER; n += 1) { const card = document.querySelector('.face[aria-current]');
    const started = performance.now(); press(n % 2 ? 'k' : 'd');
    while (card.isConnected) await new Promise(done => setTimeout(done, 1));
    times.push(performance.now() - started); press('Home');
    await new Promise(done => setTimeout(done, 250)); }
  return times; })()"""
NEXT = """
(async () => { const times = []; const name = () => document.querySelector('#about').textContent;
  for (let n = 0; n < NUMBER; n += 1) { const before = name(); const started = performance.now();
    document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'n', bubbles: true }));
    while (name() === before) await new Promise(done => setTimeout(done, 1));
    times.push(performance.now() - started); await new Promise(done => setTimeout(done, 300)); }
  return times; })()"""


class Review:
    """A review in a process of its own, and one connection to it."""

    def __init__(self, run: Path) -> None:
        started = time.perf_counter()
        command = [sys.executable, "-m", "facetrain", "review", str(run), "--no-open"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.address = self.process.stdout.readline().split()[-1]
        self.start_seconds = time.perf_counter() - started
        parts = urlsplit(self.address)
        self.base, self.origin = parts.path, f"http://{parts.netloc}"
        self.connection = http.client.HTTPConnection(parts.netloc)

    def request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer to a GET, or to a POST of `body`."""
        headers = {"Content-Type": "application/json", "Origin": self.origin} if body else {}
        encoded = json.dumps(body) if body else None
        self.connection.request("POST" if body else "GET", self.base + path, encoded, headers)
        response = self.connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        plain = response.headers.get_content_type() == "application/json"
        return json.loads(content) if plain else content

    def anonymous_mib(self) -> float:
        """Memory of its own; the shards' mapped pages are the system's to take back."""
        return memory_mib("RssAnon", self.process.pid)

    def end(self, number: int) -> None:
        """Send a signal and wait."""
        self.process.send_signal(number)
        self.process.wait()


def spread(milliseconds: list[float]) -> str:
    """Median and worst."""
    return f"{statistics.median(milliseconds):.1f} ms, worst {max(milliseconds):.1f} ms"


def main() -> None:
    """Measure the run that the command line names."""
    parser = make_parser(__doc__, numbers=False)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    review = Review(run)
    rows = {"start, until the address is printed": f"{review.start_seconds:.2f} s"}
    started = time.perf_counter()
    review.request("")
    for file in (*PAGE.glob("*.css"), *PAGE.glob("*.js")):
        review.request(file.name)
    listed = review.request("api/identities?anew=1")
    ids = [one["id"] for one in listed["identities"]]
    for face in review.request(f"api/identity/{ids[0]}")["faces"]:
        review.request(f"face/{face['row']}")
    rows["first page over HTTP, all its faces"] = f"{time.perf_counter() - started:.3f} s"
    far = listed["total"] * 3 // 4
    for what, path in {
        "a page far down the list": f"api/identities?offset={far}",
        "another filter": "api/identities?filter=unseen&anew=1",
        "a search": "api/identities?search=123&anew=1",
    }.items():
        rows[what] = f"{1000 * seconds_of(functools.partial(review.request, path))[0]:.1f} ms"
    rows["memory of its own"] = f"{review.anonymous_mib():.0f} MiB"
    before, times = listed["progress"]["decisions"], []
    for number in range(NUM_DECISIONS):
        one = ids[number % len(ids)]
        faces = review.request(f"api/identity/{one}")["faces"]
        body = {"action": ("keep", "drop", "move")[number % 3], "identity": one, "to": ids[0],
                "rows": [faces[number % len(faces)]["row"]]}  # fmt: skip
        times.append(1000 * seconds_of(functools.partial(review.request, "api/decide", body))[0])
    rows[f"a decision, journalled and fsynced ({NUM_DECISIONS})"] = spread(times)
    review.end(signal.SIGKILL)
    review = Review(run)
    lost = before + NUM_DECISIONS - review.request("api/identities")["progress"]["decisions"]
    rows["of these lost by SIGKILL right after"] = str(lost)
    browser = find_browser()
    if browser:
        with tempfile.TemporaryDirectory() as profile, browsing(browser, Path(profile)) as page:
            page.size(1360, 860)
            page.open(review.address)
            page.wait("document.querySelector('.face')")
            shown = page.evaluate(FIRST_FACES)
            rows["browser: first page, from navigation to its visible faces"] = f"{shown:.0f} ms"
            decided = page.evaluate(KEYS.replace("NUMBER", str(NUM_KEYS)))
            rows[f"browser: key to changed face ({NUM_KEYS})"] = spread(decided)
            following = page.evaluate(NEXT.replace("NUMBER", "20"))
            rows["browser: key to the next identity (20)"] = spread(following)
    rows["orderly end, overlay written"] = (
        f"{seconds_of(functools.partial(review.end, signal.SIGTERM))[0]:.2f} s"
    )
    print(f"{listed['total']:,} identities\n")
    print(markdown_table(["what", "measured"], list(rows.items())))


if __name__ == "__main__":
    main()
