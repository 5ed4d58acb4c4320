#!/usr/bin/env python3
"""Times Python's hash, picture by picture, for a benchmark that asks over standard input.

    timing.py PHOTO FOLDER

It first writes JPEG files like those of a camera to the folder, from a photograph enlarged and with noise added, and prints
their names on one line. Then it answers each line of input, the path of a file, with the nanoseconds that opening and hashing it
took, the nanoseconds of processor time, and the hash.
"""
import os
import sys
import time

import imagehash
import numpy
from PIL import Image


def main():
    photo, folder = sys.argv[1], sys.argv[2]
    noise = numpy.random.RandomState(1)
    names = []
    for size, strength in (((4000, 3000), 5), ((1024, 768), 5)):
        with Image.open(photo) as im:
            a = numpy.asarray(im.convert("RGB").resize(size, Image.LANCZOS)).astype("int16")
        a += numpy.rint(noise.normal(0, strength, a.shape[:2] + (1,))).astype("int16")
        im = Image.fromarray(a.clip(0, 255).astype("uint8"))
        for kind, options in (("420", {"subsampling": 2}), ("420-progressive", {"subsampling": 2, "progressive": True}),
                              ("444", {"subsampling": 0})):
            name = "%dx%d-%s.jpg" % (*size, kind)
            im.save(os.path.join(folder, name), "JPEG", quality=88, **options)
            names.append(name)
    print(*names, flush=True)
    for line in sys.stdin:
        start, used = time.perf_counter_ns(), time.process_time_ns()
        with Image.open(line.rstrip("\n")) as im:
            phash = imagehash.phash(im, hash_size=16)
        print(time.perf_counter_ns() - start, time.process_time_ns() - used, phash, flush=True)


if __name__ == "__main__":
    main()
