"""One table from several runs of `benchmarks.clean.run`: mean and spread over seeds, paired gains.

    python -m tools.benchmarks.clean.table same_dlib_0.json same_dlib_1.json same_dlib_2.json

Targets that differ in their last `_<seed>` only are one column; sources are one as well. Below the
table: what each part changes, paired by seed: mean, its standard error, each seed's difference.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np

from facetrain.core.artifact import read_json
from tools.benchmarks.common import make_parser, markdown_table, mean_and_spread

PAIRS = (
    ("target statistics + adapter", "target statistics"),
    ("target statistics + meta", "target statistics"),
    ("gcn", "target statistics"),
    ("gcn + meta", "gcn"),
    ("gcn + adapter", "gcn"),
    ("gcn + meta + adapter", "gcn + meta"),
    ("gcn + meta", "gcn + meta, first order"),
    ("posterior alone", "gcn"),
    ("facetrain clean", "gcn"),
    ("facetrain clean", "posterior alone"),
)


def main() -> None:
    """Parse, gather, print."""
    parser = make_parser(__doc__, numbers=False)
    parser.add_argument("runs", type=Path, nargs="+")
    value: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for path in parser.parse_args().runs:
        for row in read_json(path)["rows"]:
            target, _, split = row["target"].removeprefix("target_").rpartition("_")
            value[row["method"], target][split] = row["value"]
    methods = list(dict.fromkeys(method for method, _ in value))
    targets = list(dict.fromkeys(target for _, target in value))
    rows = []
    for method in methods:
        found = [list(value[method, target].values()) for target in targets]
        rows.append([method, *map(mean_and_spread, found)])
    print(markdown_table(["", *(target.replace("_", " ") for target in targets)], rows))
    print()
    for better, worse in PAIRS:
        for target in targets:
            first, second = value[better, target], value[worse, target]
            gains = [first[split] - second[split] for split in sorted(first.keys() & second.keys())]
            if gains:
                each = ", ".join(f"{gain:+.4f}" for gain in gains)
                error = np.std(gains, ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else np.nan
                gain = f"{np.mean(gains):+.4f} ± {error:.4f}"
                print(f"{better} over {worse}, {target}: {gain} ({each})")


if __name__ == "__main__":
    main()
