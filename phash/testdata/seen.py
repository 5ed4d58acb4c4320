#!/usr/bin/env python3
"""Writes pictures that say how they are to be turned, in every way that Pillow reads, and prints what people see of them.

    seen.py FOLDER COUNT SEED

Each line of output is: file name, kind, width and height after ImageOps.exif_transpose, and the means of 8 x 8 cells of its
convert("RGB") on white, row by row, as hex digits; or "refused".
"""
import io
import os
import random
import struct
import sys
import warnings
import zlib

import numpy
from PIL import Image, ImageOps, PngImagePlugin


def ifd(rng, orientation):
    """A TIFF block with an orientation, written as somebody does."""
    order = rng.choice("<>")
    kind, value = rng.choice((
        (3, struct.pack(order + "HH", orientation, 0)), (3, struct.pack(order + "HH", orientation, 0)),
        (4, struct.pack(order + "L", orientation)), (9, struct.pack(order + "l", orientation)), (8, struct.pack(order + "hh", orientation, 0)),
        (1, bytes((orientation, 0, 0, 0))), (6, bytes((orientation, 0, 0, 0))), (11, struct.pack(order + "f", orientation)),
        (2, b"%d\0\0\0" % orientation)))
    entries = []
    if rng.random() < 0.5:
        entries.append(struct.pack(order + "HHL", 0x010f, 2, 4) + b"me\0\0")
    if rng.random() < 0.2:
        far = rng.choice((20, 5000))  # within the block, or behind it
        entries.append(struct.pack(order + "HHLL", 0x0110, 2, 10, far))
    count = rng.choice((1, 1, 1, 2)) if kind in (3, 8) else 1
    entries.append(struct.pack(order + "HHL", 0x0112, kind, count) + value)
    if rng.random() < 0.1:
        entries.append(struct.pack(order + "HHL", 0x0112, 3, 1) + struct.pack(order + "HH", 1, 0))
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    if rng.random() < 0.1:
        head = {"<": b"II\0*", ">": b"MM*\0"}[order]
    return head + struct.pack(order + "LH", 8, len(entries)) + b"".join(entries) + bytes(4)


def xmp(rng, orientation):
    if rng.random() < 0.5:
        return b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation
    return b"<x:xmpmeta><tiff:Orientation>%d</tiff:Orientation></x:xmpmeta>" % orientation


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg(rng, im, orientation):
    out = io.BytesIO()
    im.convert("RGB").save(out, "JPEG", quality=rng.choice((75, 95)), subsampling=rng.choice((0, 1, 2)), progressive=rng.random() < 0.3)
    data = out.getvalue()
    block = b"Exif\0\0" + ifd(rng, orientation)
    how = rng.choice(("exif", "exif", "empty first", "split", "xmp", "xmp first", "junk", "twice", "preamble"))
    parts = {
        "exif": segment(0xE1, block),
        "empty first": segment(0xE1, b"Exif\0\0") + segment(0xE1, block),
        "split": segment(0xE1, block[:20]) + segment(0xE1, b"Exif\0\0" + block[20:]),
        "xmp": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(rng, orientation)),
        "xmp first": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(rng, 3)) + segment(0xE1, block),
        "junk": b"junk" + segment(0xE1, block) + b"more",
        "twice": segment(0xE1, block) + segment(0xE1, b"Exif\0\0" + ifd(rng, 1)),
        "preamble": segment(0xE1, b"Exif\0\0" + block),
    }[how]
    at = 2 if rng.random() < 0.5 else 20  # before or behind JFIF
    if how == "junk":
        at = 20
    return "jpeg " + how, data[:at] + parts + data[at:]


def png(rng, im, orientation):
    how = rng.choice(("eXIf", "preamble", "raw profile", "raw compressed", "xmp", "behind", "exif text"))
    info = PngImagePlugin.PngInfo()
    block = ifd(rng, orientation)
    profile = "\nexif\n%8d\n%s\n" % (len(block), "\n".join((b"Exif\0\0" + block).hex()[i:i + 72] for i in range(0, 2 * len(block) + 12, 72)))
    if how == "xmp":
        info.add_itxt("XML:com.adobe.xmp", xmp(rng, orientation).decode(), zip=rng.random() < 0.5)
    elif how == "raw profile":
        info.add_text("Raw profile type exif", profile)
    elif how == "raw compressed":
        info.add_text("Raw profile type exif", profile, zip=True)
    elif how == "exif text":
        info.add(b"tEXt", b"exif\0" + block)
    elif how == "eXIf":
        info.add(b"eXIf", block)
    elif how == "preamble":
        info.add(b"eXIf", b"Exif\0\0" + block)
    out = io.BytesIO()
    im.save(out, "PNG", pnginfo=info)
    data = out.getvalue()
    if how == "behind":
        chunk = struct.pack(">L", len(block)) + b"eXIf" + block
        chunk += struct.pack(">L", zlib.crc32(chunk[4:]))
        data = data[:-12] + chunk + data[-12:]
    return "png " + how, data


def webp(rng, im, orientation):
    out = io.BytesIO()
    how = rng.choice(("exif", "preamble", "xmp"))
    block = ifd(rng, orientation)
    options = {"exif": block, "preamble": b"Exif\0\0" + block}
    if how == "xmp":
        options = {"xmp": xmp(rng, orientation)}
    else:
        options = {"exif": options[how]}
    im.save(out, "WEBP", lossless=rng.random() < 0.5, **options)
    return "webp " + how, out.getvalue()


def other(rng, im, orientation):
    out = io.BytesIO()
    form = rng.choice(("TIFF", "GIF", "BMP", "PNG"))
    if form == "TIFF":
        im = im.convert(rng.choice(("RGB", "RGBA", "L", "LA", "CMYK"))) if rng.random() < 0.5 else im
        info = {274: min(max(orientation, 1), 8)} if rng.random() < 0.7 else {700: xmp(rng, min(max(orientation, 1), 8))}
        im.save(out, form, tiffinfo=info, compression=rng.choice((None, "tiff_lzw", "tiff_deflate")))
    else:
        if form in ("GIF", "PNG"):
            im = im.convert("P", palette=Image.Palette.ADAPTIVE)
        elif im.mode not in ("L", "RGB"):
            im = im.convert("RGB")
        im.save(out, form)
    return form.lower(), out.getvalue()


def picture(rng):
    width, height = rng.choice((160, 201, 333)), rng.choice((160, 201, 333))
    if rng.random() < 0.1:
        width, height = rng.choice(((2100, 1500), (1501, 1100), (1025, 640), (700, 1500)))
    noise = numpy.random.RandomState(rng.getrandbits(32))
    a = noise.randint(0, 256, (8, 8, 3)).astype("uint8")
    im = Image.fromarray(a).resize((width, height), rng.choice((Image.Resampling.BICUBIC, Image.Resampling.NEAREST)))
    kind = rng.random()
    if kind < 0.15:
        im = im.convert("L")
    elif kind < 0.4:
        im.putalpha(Image.fromarray(noise.randint(0, 256, (8, 8)).astype("uint8")).resize((width, height), Image.Resampling.NEAREST))
    return im


def seen(data):
    im = Image.open(io.BytesIO(data))
    im.load()
    try:
        im = ImageOps.exif_transpose(im)
    except Exception:  # metadata that cannot be read: Pillow's caller has to say
        pass
    if im.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in im.info:
        im = im.convert("RGBA")
        white = Image.new("RGBA", im.size, "white")
        im = Image.alpha_composite(white, im)
    im = im.convert("RGB")
    a = numpy.asarray(im).astype(float)
    means = []
    for rows in numpy.array_split(a, 8, 0):
        for cell in numpy.array_split(rows, 8, 1):
            means.append(cell.mean((0, 1)))
    return "%d\t%d\t%s" % (im.size + (bytes(int(v + .5) for m in means for v in m).hex(),))


def main():
    folder, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    for i in range(count):
        kind, data = rng.choice((jpeg, jpeg, png, webp, other))(rng, picture(rng), rng.randrange(0, 10))
        name = "%05d" % i
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
        print(name, kind, seen(data), sep="\t")


main()
