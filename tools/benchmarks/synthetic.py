"""How fast synthetic faces are rendered on one core: median over batches, images per second.

    python -m tools.benchmarks.synthetic --batches 20 --json synthetic.json

A batch renders new identities, so that the time to build a person is in it. Processor time is
what one core needs; wall time says the same only on an idle machine.
"""

import statistics
import time

import cv2
import numpy as np

from facetrain.data.images.codec import encode_jpeg
from facetrain.data.synthetic import SyntheticConfig, render
from tools.benchmarks.common import machine, make_parser, write_report


def measure(
    config: SyntheticConfig, batches: int, identities: int, images: int, encode: bool
) -> dict[str, float]:
    """Median images per second over batches of `identities` x `images`, processor and wall."""
    processor, wall = [], []
    for batch in range(-1, batches):  # batch -1 warms up
        started, ticked = time.process_time(), time.perf_counter()
        for identity in range((batch + 1) * identities, (batch + 2) * identities):
            for sample in range(images):
                image, _ = render(config, identity, sample)
                if encode:
                    encode_jpeg(image, 92)
        if batch >= 0:
            processor.append(identities * images / (time.process_time() - started))
            wall.append(identities * images / (time.perf_counter() - ticked))
    return {
        "images_per_second": round(statistics.median(processor), 1),
        "wall_images_per_second": round(statistics.median(wall), 1),
        "slowest_batch": round(min(processor), 1),
    }


def main() -> None:
    """Run from the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--identities", type=int, default=5, help="new identities in a batch")
    parser.add_argument("--images", type=int, default=20, help="images of each identity")
    parser.add_argument("--size", type=int, default=112)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    config = SyntheticConfig(size=arguments.size)
    counts = (arguments.batches, arguments.identities, arguments.images)
    result = {
        "render": measure(config, *counts, encode=False),
        "render_and_jpeg": measure(config, *counts, encode=True),
        "size": arguments.size,
        "batches": arguments.batches,
        "images_per_identity": arguments.images,
        "threads": 1,
        "machine": machine(),
        "versions": {"numpy": np.__version__, "opencv": cv2.__version__},
    }
    write_report(result, arguments.json)


if __name__ == "__main__":
    main()
