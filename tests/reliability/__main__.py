"""The campaign by hand, from `tests/`: `python -m reliability --seed 1 --mutations 3000`."""

import argparse
import os
import tempfile
from pathlib import Path

from reliability.campaign import Campaign
from reliability.commands import COMMANDS

KINDS = ("mutations", "hostile", "signals", "limits", "writers", "requests")


def main() -> None:
    """Run the cases that the command line asks for; exit status 1 when one was not sound."""
    parser = argparse.ArgumentParser(prog="reliability", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="N", help="so many cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sound = True
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(options.seed, Path(folder), options.commands)
        for kind in KINDS:
            number = getattr(options, kind)
            if not number:
                continue
            tally = campaign.run(
                kind, number, options.first, lambda story: print(f"--- {story}", flush=True)
            )
            print(f"seed {options.seed}: {kind}: {tally}", flush=True)
            sound = sound and not tally.faults
    raise SystemExit(not sound)


if __name__ == "__main__":
    main()
