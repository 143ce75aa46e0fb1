"""Prove that MXNet and facetrain read the same bytes from a shard.

In an environment that has both, one step says it all (exit status 1 on any difference):

    python tools/checks/mxnet_roundtrip.py OUT/train.rec

MXNet 1.9.1 needs NumPy below 1.24, facetrain a newer one, so usually it takes two steps:

    /tmp/mxnet/bin/python tools/checks/mxnet_roundtrip.py OUT/train.rec > mxnet.json
    python tools/checks/mxnet_roundtrip.py OUT/train.rec --against mxnet.json

The shard may be any, also one that `facetrain write --format rec` made, in either layout. The JSON
holds key -> SHA-256 of the payload, as MXNet reads it through the `.idx`, and key -> [label, edge
length] of every image, as its `unpack` and `imdecode` see it; facetrain must find the same images
in the data set. The MXNet environment is made as `tests/golden/make_golden.py` says.
"""

import argparse
import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


def read_with_mxnet(path: Path) -> dict[str, Any]:
    """What `mxnet.recordio` reads: digests of all records, label and size of all images."""
    import mxnet

    reader = mxnet.recordio.MXIndexedRecordIO(str(path.with_suffix(".idx")), str(path), "r")
    payload = {key: reader.read_idx(key) for key in reader.keys}
    images = sorted(payload)
    header, _ = mxnet.recordio.unpack(payload[images[0]])
    if header.flag > 0:  # as arcface_torch's MXFaceDataset goes about it
        images = list(range(1, int(header.label[0])))
    found = {}
    for key in images:
        header, content = mxnet.recordio.unpack(payload[key])
        label = header.label if isinstance(header.label, float) else header.label[0]
        found[str(key)] = [int(label), int(mxnet.image.imdecode(content).shape[0])]
    digests = {str(key): hashlib.sha256(one).hexdigest() for key, one in payload.items()}
    return {"digest": digests, "image": found}


def read_with_facetrain(path: Path) -> dict[str, Any]:
    """The same, as facetrain reads it."""
    from facetrain.data.dataset import FaceDataset
    from facetrain.data.images.codec import decode_image
    from facetrain.data.shards.recordio import ShardReader

    reader, data = ShardReader(path), FaceDataset.open(path)
    keys = reader.keys.tolist()
    digests = {str(key): hashlib.sha256(reader.read(key)).hexdigest() for key in keys}
    found = {}
    for index, label in enumerate(data.class_ids[data.label].tolist()):
        image = decode_image(data.encoded(index), data.key(index))
        found[data.key(index).rpartition(":")[2]] = [label, image.shape[0]]
    return {"digest": digests, "image": found}


def main() -> int:
    """Print what MXNet reads, or compare the two readers."""
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
    differ = {
        what: sorted(
            key for key in theirs[what].keys() | ours[what].keys()
            if theirs[what].get(key) != ours[what].get(key)
        )
        for what in ("digest", "image")
    }  # fmt: skip
    counts = {"num_records": len(ours["digest"]), "num_images": len(ours["image"])}
    json.dump({**counts, "differ": differ}, sys.stdout)
    print()
    return 1 if any(differ.values()) or not ours["image"] else 0


if __name__ == "__main__":
    sys.exit(main())
