"""Write the golden files of this folder with MXNet 1.9.1, NumPy 1.23 and Python 2.7 themselves.

They hold noise and rendered patterns, no faces. To make them again:

    python3.10 -m venv /tmp/mxnet
    /tmp/mxnet/bin/pip install mxnet==1.9.1 numpy==1.23.5 opencv-python-headless==4.8.1.78
    /tmp/mxnet/bin/python tests/golden/make_golden.py
    python2.7 tests/golden/make_golden.py        # pairs_python2.bin only

`golden.json` holds, for each record file, what was handed to MXNet: key -> SHA-256 of the payload.
"""

import hashlib
import json
import os
import pickle
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
MAGIC = struct.pack("<I", 0xCED7230A)
SAME = [True, False, True]


def write_python2_pairs():
    """What `lfw2pack.py` leaves under Python 2: byte strings of every value, bools."""
    images = ["".join(chr((37 * i + j) % 256) for j in range(300)) for i in range(6)]
    with open(os.path.join(HERE, "pairs_python2.bin"), "wb") as file:
        pickle.dump((images, SAME), file, protocol=pickle.HIGHEST_PROTOCOL)


def main():
    import cv2
    import mxnet as mx
    import numpy as np

    random = np.random.RandomState(7)
    expected = {}

    def jpeg(identity):
        """A 16 x 16 JPEG: a bar whose colour and place tell the identity, and noise."""
        image = random.randint(0, 40, (16, 16, 3), dtype=np.uint8)
        image[:, 4 * (identity % 4) : 4 * (identity % 4) + 4, identity % 3] = 230
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]

    def write(name, records):
        stem = os.path.join(HERE, name)
        writer = mx.recordio.MXIndexedRecordIO(stem + ".idx", stem + ".rec", "w")
        for key, payload in records:
            writer.write_idx(key, payload)
        writer.close()
        reader = mx.recordio.MXIndexedRecordIO(stem + ".idx", stem + ".rec", "r")
        assert all(reader.read_idx(key) == payload for key, payload in records)
        expected[name] = {str(key): hashlib.sha256(payload).hexdigest() for key, payload in records}

    def image(label, key):
        header = mx.recordio.IRHeader(0, label, key, 0)
        return mx.recordio.pack(header, jpeg(int(np.atleast_1d(label)[0])).tobytes())

    def ranges(first, stop, key, id2):
        return mx.recordio.pack(mx.recordio.IRHeader(1, [first, stop], key, id2), b"")

    labels = [0, 0, 1, 2, 2, 2]
    records = [(key, image(label, key)) for key, label in enumerate(labels, start=1)]
    spans = [(1, 3), (3, 4), (4, 7)]
    records += [(7 + i, ranges(a, b, 7 + i, 0)) for i, (a, b) in enumerate(spans)]
    records.append((0, ranges(7, 10, 0, 1)))
    write("header", records)

    # Flat, and record 0 has several labels: what must not be taken for the header layout.
    write("flat_vector", [(key, image([key % 2, 0.5, 30.0], key)) for key in range(5)])

    noise = random.bytes(64).replace(MAGIC, b"none")
    payloads = [
        MAGIC,
        MAGIC + noise,
        noise + MAGIC,
        noise + MAGIC + MAGIC + noise,
        noise + b"a" + MAGIC + noise,  # not aligned: not cut
        noise + MAGIC + b"abc" + MAGIC + b"d" + MAGIC + b"xyz",  # aligned at 64, 72 only
        b"",
        b"tail",
    ]
    write("multipart", list(enumerate(payloads)))

    # A magic inside the IRHeader itself (the id), and inside an image.
    magic_id = struct.unpack("<I", MAGIC)[0]
    ids = [2**24 - 1, 2**24, 2**24 + 1, 2**24 + 3, 2**33 + 5, magic_id]
    write("large_ids", [(key, image(key % 3, key)) for key in ids])

    images = [jpeg(i // 2) for i in range(6)]  # uint8 arrays, as cv2.imencode gives them
    with open(os.path.join(HERE, "pairs_numpy.bin"), "wb") as file:
        pickle.dump((images, [np.bool_(flag) for flag in SAME]), file, protocol=2)
    expected["pairs_numpy"] = {
        str(i): hashlib.sha256(array.tobytes()).hexdigest() for i, array in enumerate(images)
    }
    with open(os.path.join(HERE, "golden.json"), "w") as file:
        json.dump(expected, file, indent=1, sort_keys=True)
        file.write("\n")


if __name__ == "__main__":
    if sys.version_info[0] == 2:  # noqa: UP036 - Python 2 writes one of the files
        write_python2_pairs()
    else:
        main()
