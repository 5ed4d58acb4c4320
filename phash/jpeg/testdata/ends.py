#!/usr/bin/env python3
"""Writes JPEG files that end early, or have something other than their end, and prints what Pillow makes of them.

    ends.py FOLDER COUNT SEED

Each line of output is: file name, what was done, SHA-256 of the bytes of the gray picture or "refused", separated by tabs. COUNT
files of one scan are made; of each there is one of every length from just before the end of its picture on, and some with other
bytes behind it.
"""
import hashlib
import io
import os
import random
import sys
import warnings

import numpy
from PIL import Image, ImageFile


def verdict(data):
    try:
        im = Image.open(io.BytesIO(data))
        gray = im.convert("L")
    except Exception:
        return "refused"
    return "%dx%d-%s" % (gray.size + (hashlib.sha256(gray.tobytes()).hexdigest(),))


def picture(rng, large):
    side = (300, 420) if large else (9, 17, 40, 65, 120)
    width, height = rng.choice(side), rng.choice(side)
    bands = rng.choice((1, 3, 3, 3, 4))
    a = numpy.random.RandomState(rng.getrandbits(32)).randint(0, 256, (height, width, bands)).astype("uint8")
    if rng.random() < 0.4:
        a[:] = a[:1, :1]
    elif rng.random() < 0.5:
        a //= 8
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[bands]
    im = Image.frombytes(mode, (width, height), a.tobytes())
    options = {"quality": rng.choice((5, 30, 75, 95, 100)), "optimize": rng.random() < 0.5}
    if bands > 1:
        options["subsampling"] = rng.choice((0, 1, 2))
    if rng.random() < 0.3:
        options[rng.choice(("restart_marker_blocks", "restart_marker_rows"))] = rng.choice((1, 2, 5))
    out = io.BytesIO()
    im.save(out, "JPEG", **options)
    return out.getvalue()


def main():
    folder, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    n = 0
    for i in range(count):
        whole = picture(rng, i % 8 == 7)
        body = whole[:-2]
        cases = [("cut %d" % k, whole[:len(whole) - k]) for k in range(1, 26)]
        for k in range(0, 14):
            cases.append(("%d zeros behind" % k, body + bytes(k)))
            cases.append(("%d bytes behind" % k, body + bytes(rng.randrange(255) for _ in range(k))))
        cases.append(("text behind", body + b"SEFT" * 20))
        cases.append(("stuffed", body + b"\xff\x00" * 9))
        cases.append(("fill bytes", body + b"\xff" * 9))
        for marker in (0xd8, 0xda, 0xe1, 0xd0, 0x01, 0xc0, 0xc4, 0x02, 0xfe):
            cases.append(("marker %#x behind" % marker, body + bytes((0xff, marker)) + b"\0\x08" + bytes(12)))
            cases.append(("marker %#x far behind" % marker, body + bytes(70000) + bytes((0xff, marker)) + b"\0\x08" + bytes(12)))
        for marker in (0xd8, 0xda, 0xe1, 0xc0, 0xc2, 0xc4, 0xdb, 0xdd, 0xdc, 0xee, 0xcc):  # of which the rest is missing
            more = bytes(rng.randrange(255) for _ in range(rng.randrange(30)))
            cases.append(("marker %#x and %d bytes behind" % (marker, len(more)), body + bytes((0xff, marker)) + more))
        cases.append(("end far behind", body + bytes(70000) + b"\xff\xd9"))
        for how, data in cases:
            name = "%05d.jpg" % n
            n += 1
            with open(os.path.join(folder, name), "wb") as f:
                f.write(data)
            print(name, how, verdict(data), sep="\t")


main()
