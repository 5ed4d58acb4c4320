#!/usr/bin/env python3
"""Writes random pictures to a folder and prints what Python's imagehash says of them.

    compare.py FOLDER COUNT SEED

The first line of output is Pillow's version. Each further line is: file name, "exact" or "close", the hash, separated by tabs.
"exact" are the pictures of lossless formats, whose hash any decoder must arrive at.
"""
import io
import os
import random
import struct
import sys
import warnings
import zlib

import imagehash
import numpy
import PIL
from PIL import Image, ImageFilter

SIDES = (1, 2, 3, 7, 16, 63, 64, 65, 100, 127, 128, 130, 200, 333)


def content(rng, width, height, bands):
    """An array of height x width x bands bytes: smooth, noisy, flat, striped, or symmetric."""
    noise = numpy.random.RandomState(rng.getrandbits(32))
    kind = rng.choice(("smooth", "smooth", "smooth", "noise", "flat", "stripes", "mirror", "few"))
    a = noise.randint(0, 256, (height, width, bands)).astype("uint8")
    if kind in ("smooth", "mirror"):
        radius = rng.choice((2, 5, 12))
        planes = [Image.fromarray(a[:, :, i]).filter(ImageFilter.GaussianBlur(radius)) for i in range(bands)]
        a = numpy.dstack([numpy.asarray(p) for p in planes]).astype(float)
        a = ((a - a.min()) * 255 / max(a.max() - a.min(), 1)).astype("uint8")
    if kind == "mirror":
        a = numpy.maximum(a, a[:, ::-1])
    if kind == "flat":
        a[:] = a[0, 0]
    if kind == "stripes":
        a[:] = a[:, :1] if rng.random() < 0.5 else a[:1]
    if kind == "few":
        a = a // 100 * 100
    return a


def picture(rng, mode):
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    if rng.random() < 0.2:  # tall enough to be resampled in another order by newer Pillows
        width, height = rng.choice((1, 3, 20, 40, 90)), rng.randrange(200, 500)
    bands = {"RGB": 3, "RGBA": 4, "LA": 2}.get(mode, 1)
    a = content(rng, width, height, bands)
    if mode in ("RGB", "RGBA", "LA"):
        return Image.fromarray(a)
    if mode == "I;16":
        return Image.fromarray(a[:, :, 0].astype("uint16") * rng.choice((1, 2, 257)))
    if mode == "P":
        return Image.fromarray(content(rng, width, height, 3)).quantize(rng.choice((2, 4, 16, 100, 256)))
    gray = Image.fromarray(a[:, :, 0])
    return gray.convert("1") if mode == "1" else gray


def deep_png(rng):
    """A PNG with 16 bits for each of one to four samples, which Pillow cannot write."""
    colour, bands = rng.choice(((0, 1), (2, 3), (4, 2), (6, 4)))
    a = content(rng, rng.choice(SIDES), rng.choice(SIDES), bands).astype(">u2") * 257
    height, width = a.shape[:2]
    if colour == 0:
        a = a // rng.choice((1, 100, 257))

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    transparent = b""
    if colour in (0, 2) and rng.random() < 0.5:
        transparent = chunk(b"tRNS", a[0, 0].astype(">u2").tobytes())
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in a)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + transparent + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def small_frame(rng, gif):
    """Puts the first frame of a GIF somewhere on a larger screen, or over its edge."""
    data = bytearray(gif)
    width, height = struct.unpack_from("<HH", data, 6)
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[at] == 0x21:
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    x, y = rng.randrange(20), rng.randrange(20)
    struct.pack_into("<HH", data, at + 1, x, y)
    struct.pack_into("<HH", data, 6, width + rng.randrange(40), height + rng.randrange(40))
    return bytes(data)


def encode(rng):
    """Returns name suffix, "exact" or "close", and the bytes of one random file."""
    out = io.BytesIO()
    fmt = rng.choice(("png", "png", "png", "gif", "gif", "bmp", "tif", "tif", "tif", "webp", "jpg"))
    if fmt == "png":
        if rng.random() < 0.25:
            return "deep.png", "exact", deep_png(rng)
        mode = rng.choice(("1", "L", "LA", "P", "P", "RGB", "RGBA", "I;16"))
        options = {}
        if mode == "P":
            options = rng.choice(({}, {"transparency": 1}, {"transparency": bytes(range(0, 200, 20))}))
        elif mode in ("L", "1"):
            options = rng.choice(({}, {"transparency": 0}))
        elif mode == "RGB":
            options = rng.choice(({}, {"transparency": (0, 100, 200)}))
        picture(rng, mode).save(out, "PNG", **options)
        return mode.replace(";", "") + ".png", "exact", out.getvalue()
    if fmt == "gif":
        mode = rng.choice(("P", "P", "L", "1"))
        options = rng.choice(({}, {"transparency": 0}, {"transparency": 1}, {"transparency": 255}))
        picture(rng, mode).save(out, "GIF", interlace=rng.random() < 0.5, optimize=rng.random() < 0.5, **options)
        if rng.random() < 0.5:
            return mode + "-frame.gif", "exact", small_frame(rng, out.getvalue())
        return mode + ".gif", "exact", out.getvalue()
    if fmt == "bmp":
        mode = rng.choice(("1", "L", "P", "RGB", "RGBA"))
        picture(rng, mode).save(out, "BMP")
        return mode + ".bmp", "exact", out.getvalue()
    if fmt == "tif":
        mode = rng.choice(("1", "L", "P", "RGB", "RGBA", "I;16"))
        compressions = ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]
        if mode == "1":
            compressions += ["group3", "group4", "group4"]
        compression = rng.choice(compressions)
        tags = {}
        if rng.random() < 0.5:
            tags[274] = rng.randrange(1, 9)  # orientation
        if mode != "1" and compression in ("tiff_lzw", "tiff_adobe_deflate") and rng.random() < 0.5:
            tags[317] = 2  # differences
        if mode in ("1", "L", "I;16") and rng.random() < 0.3:
            tags[262] = 0  # white is zero
        picture(rng, mode).save(out, "TIFF", compression=compression, tiffinfo=tags)
        data = out.getvalue()
        if mode == "RGBA" and rng.random() < 0.5:  # say that colours are multiplied by alpha
            data = data.replace(struct.pack("<HHIHH", 338, 3, 1, 2, 0), struct.pack("<HHIHH", 338, 3, 1, 1, 0))
        return "%s-%s.tif" % (mode.replace(";", ""), compression), "exact", data
    if fmt == "webp":
        mode = rng.choice(("RGB", "RGBA"))
        lossless = rng.random() < 0.8
        picture(rng, mode).save(out, "WEBP", lossless=lossless, exact=True)
        return mode + ".webp", "exact" if lossless else "close", out.getvalue()
    picture(rng, rng.choice(("L", "RGB"))).save(out, "JPEG", quality=rng.choice((50, 80, 95)), subsampling=rng.choice((0, 1, 2)))
    return "x.jpg", "close", out.getvalue()


def hashed(rng):
    """As encode, with the hash before the bytes."""
    while True:
        suffix, kind, data = encode(rng)
        try:
            with Image.open(io.BytesIO(data)) as im:
                return suffix, kind, imagehash.phash(im, hash_size=16), data
        except OSError:  # some libtiffs cannot read some of the faxes that they wrote
            continue


def main():
    folder, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    warnings.simplefilter("ignore")
    print(PIL.__version__)
    for i in range(count):
        suffix, kind, phash, data = hashed(rng)
        name = "%04d-%s" % (i, suffix)
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
        print(name, kind, phash, sep="\t")


if __name__ == "__main__":
    main()
