"""Prove that MXNet and facetrain read the same bytes from a shard.

In an environment that has both, one step says it all (exit status 1 on any difference):

    python tools/check_mxnet_roundtrip.py OUT/train.rec

MXNet 1.9.1 needs NumPy below 1.24, facetrain a newer one, so usually it takes two steps:

    /tmp/mxnet/bin/python tools/check_mxnet_roundtrip.py OUT/train.rec > mxnet.json
    python tools/check_mxnet_roundtrip.py OUT/train.rec --against mxnet.json

The JSON holds key -> SHA-256 of the payload, as MXNet reads it through the `.idx`. The MXNet
environment is made as `tests/golden/make_golden.py` says.
"""

import argparse
import hashlib
import importlib.util
import json
import sys
from pathlib import Path


def read_with_mxnet(path: Path) -> dict[str, str]:
    """Key -> SHA-256 of every record, as `mxnet.recordio` reads it."""
    import mxnet

    reader = mxnet.recordio.MXIndexedRecordIO(str(path.with_suffix(".idx")), str(path), "r")
    return {str(key): hashlib.sha256(reader.read_idx(key)).hexdigest() for key in reader.keys}


def read_with_facetrain(path: Path) -> dict[str, str]:
    """Key -> SHA-256 of every record, as facetrain reads it."""
    from facetrain.data.recordio import ShardReader

    reader = ShardReader(path)
    return {str(key): hashlib.sha256(reader.read(key)).hexdigest() for key in reader.keys.tolist()}


def main() -> int:
    """Print MXNet's digests, or compare the two readers."""
    parser = argparse.ArgumentParser(description="Compare MXNet's reading of a shard with ours.")
    parser.add_argument("shard", type=Path, help="a .rec file with its .idx beside it")
    parser.add_argument("--against", type=Path, help="JSON that the MXNet environment printed")
    options = parser.parse_args()
    if options.against is not None:
        theirs = json.loads(options.against.read_text())
    else:
        theirs = read_with_mxnet(options.shard)
        if importlib.util.find_spec("facetrain") is None:
            json.dump(theirs, sys.stdout, indent=1)
            return 0
    ours = read_with_facetrain(options.shard)
    differ = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    json.dump({"num_records": len(ours), "differ": differ}, sys.stdout)
    print()
    return 1 if differ or not ours else 0


if __name__ == "__main__":
    sys.exit(main())
