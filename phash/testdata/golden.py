#!/usr/bin/env python3
"""Compares the hashes recorded in a folder of golden pictures with those of the Python that runs this.

    golden.py FOLDER [--write]

FOLDER has pictures and a file golden.tsv. Prints the pictures that differ and exits with 1 if there are any. With --write the
table is replaced instead; use Pillow up to 12.1 for that, newer ones hash tall pictures differently.
Needs imagehash, Pillow, numpy, scipy.
"""
import hashlib
import io
import os
import sys
import warnings

import imagehash
import numpy
import PIL
import scipy
from PIL import Image

COLUMNS = ("file", "pil_mode", "size", "phash", "sha256")


def row(folder, name):
    path = os.path.join(folder, name)
    with open(path, "rb") as f:
        data = f.read()
    digest = hashlib.sha256(data).hexdigest()
    # Not by path: Pillow would map uncompressed TIFFs into memory, and some releases then do not turn those that lie on their side.
    with Image.open(io.BytesIO(data)) as im:
        mode = im.mode
        im.load()  # turns a TIFF that says it lies on its side
        size = "%dx%d" % im.size
        return name, mode, size, str(imagehash.phash(im, hash_size=16)), digest


def main():
    warnings.simplefilter("ignore")
    folder = sys.argv[1]
    table = os.path.join(folder, "golden.tsv")
    names = sorted(n for n in os.listdir(folder) if not n.endswith((".tsv", ".md")))
    rows = [row(folder, n) for n in names]
    print("Pillow %s, numpy %s, scipy %s" % (PIL.__version__, numpy.__version__, scipy.__version__))
    if sys.argv[2:] == ["--write"]:
        with open(table, "w", newline="\n") as f:
            for r in [COLUMNS] + rows:
                f.write("\t".join(r) + "\n")
        return
    with open(table) as f:
        recorded = {line.split("\t")[0]: line.rstrip("\n").split("\t") for line in f}
    bad = 0
    for r in rows:
        want = recorded.get(r[0], [""] * len(COLUMNS))
        if (r[3], r[4]) != (want[3], want[4]):
            bad += 1
            print("%s: got %s, recorded %s" % (r[0], r[3], want[3] or "nothing"))
    print("%d pictures, %d differ" % (len(rows), bad))
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
