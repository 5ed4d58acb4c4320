#!/usr/bin/env python3
"""Writes random pictures to a folder and prints what Python's imagehash says of them.

    compare.py FOLDER COUNT SEED

The first line of output is Pillow's version. Each further line is: file name, kind, hash, separated by tabs. The kinds:

    exact    a picture whose hash must come out
    refused  a file cut short or corrupted that Pillow refuses; there is no hash, but a dash
    cut      a file cut short that Pillow accepts, of a format in which it may be refused
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
    bands = {"RGB": 3, "RGBA": 4, "LA": 2, "CMYK": 4}.get(mode, 1)
    a = content(rng, width, height, bands)
    if mode == "CMYK":
        return Image.frombytes("CMYK", (width, height), a.tobytes())
    if mode in ("I", "F"):
        return Image.fromarray(a[:, :, 0].astype("int32" if mode == "I" else "float32") * rng.choice((1, 2)) - rng.choice((0, 50)))
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


def packed(rows, bits):
    """Rows of numbers (height x width), each row packed to bits per number from the most significant bit on."""
    if bits == 8:
        return rows.astype("uint8")
    spread = (rows[:, :, None] >> numpy.arange(bits - 1, -1, -1)) & 1
    return numpy.packbits(spread.reshape(len(rows), -1).astype("uint8"), axis=1)


def runs(rng, row, bits, at):
    """One row of indices as run lengths of BMP, of 8 or 4 bits, that begin at offset at of the file."""
    out, x = bytearray(), 0
    while x < len(row):
        n = rng.randrange(1, min(len(row) - x, 60) + 1)
        n -= n % 2 if bits == 4 else 0  # releases of Pillow differ in odd numbers
        if n > 3 and rng.random() < 0.5:  # literal
            out += bytes((0, n)) + packed(row[None, x : x + n], bits).tobytes()
            if (at + len(out)) % 2:
                out += b"\0"
        else:
            n = 1
            while x + n < len(row) and n < 255 and row[x + n] == row[x]:
                n += 1
            out += bytes((n, row[x] if bits == 8 else row[x] << 4 | row[x]))
        x += n
        if x < len(row) and rng.random() < 0.05:  # the rest of the row is skipped
            break
    return bytes(out) + b"\0\0"


BIT_FIELDS = {
    32: (
        (0xFF0000, 0xFF00, 0xFF, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0),
        (0xFF000000, 0xFF00, 0xFF, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
        (0, 0, 0, 0),
    ),
    24: ((0xFF0000, 0xFF00, 0xFF, 0),),
    16: ((0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0)),
}


def bmp_file(rng):
    """A BMP of any of the headers, depths and compressions that Pillow reads and does not write."""
    size = rng.choice((12, 40, 40, 40, 52, 56, 64, 108, 124))
    depth = rng.choice((1, 4, 4, 8, 8, 16, 24, 32))
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    compression = 0
    if size > 12:
        if depth in (4, 8) and rng.random() < 0.5:
            compression = 1 if depth == 8 else 2
        if depth >= 16 and rng.random() < 0.6:
            compression = 3
    table, used = b"", 0
    if depth <= 8:
        used = rng.choice((0, 0, 0, 2, 5, 1 << depth)) if size > 12 else 0
        entries = used or 1 << depth
        entry = 3 if size == 12 else 4
        kind = rng.choice(("any", "any", "gray", "bilevel"))
        for i in range(entries):
            if kind == "gray":
                colour = (i & 255,) * 3
            elif kind == "bilevel":
                colour = (255 * (i & 1),) * 3
            else:
                colour = tuple(rng.randrange(256) for _ in range(3))
            table += bytes(colour) + b"\0" * (entry - 3)
    masks = (0, 0, 0, 0)
    if compression == 3:
        masks = rng.choice(BIT_FIELDS[depth])
    outside = struct.pack("<3I", *masks[:3]) if compression == 3 and size == 40 else b""
    offset = 14 + size + len(outside) + len(table)
    gap = rng.choice((0, 0, 0, 2, 5))
    stated = offset + gap
    if gap == 0 and rng.random() < 0.2:
        stated = rng.choice((0, 14 + size)) if depth <= 8 and size > 12 else 0  # else releases of Pillow differ

    if depth <= 8:
        colours = ((content(rng, width, height, 1)[:, :, 0] >> (8 - depth)).astype(int) % entries).astype("uint8")
        if compression:
            pixels = b""
            for row in colours:
                pixels += runs(rng, row, depth, offset + gap + len(pixels))
            pixels += rng.choice((b"", b"\0\1"))
        else:
            rows = packed(colours, depth)
            pixels = numpy.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes()
    else:
        rows = content(rng, width, height, depth // 8).reshape(height, -1)
        pixels = numpy.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes()

    if size == 12:
        header = struct.pack("<IHHHH", size, width, height, 1, depth)
    else:
        if rng.random() < 0.3:
            height = -height  # from the top down
        header = struct.pack("<IiiHHIIiiII", size, width, height, 1, depth, compression, len(pixels), 0, 0, used, 0)
        header = (header + struct.pack("<4I", *masks))[:size] if size > 40 else header
        header = header.ljust(size, b"\0")
    name = "%d-%d-%d.bmp" % (size, depth, compression)
    return name, struct.pack("<2sIII", b"BM", 0, 0, stated) + header + outside + table + b"\0" * gap + pixels


def lzw(data):
    """LZW of TIFF 6.0."""
    out, bits, width = 0, 0, 9
    codes = {bytes((i,)): i for i in range(256)}
    emitted = []

    def emit(code):
        emitted.append((code, width))

    emit(256)
    prefix, following = b"", 258
    for i in range(len(data)):
        longer = prefix + data[i : i + 1]
        if longer in codes:
            prefix = longer
            continue
        emit(codes[prefix])
        codes[longer] = following
        following += 1
        if following in (512, 1024, 2048):
            width += 1
        if following == 4094:
            emit(256)
            codes = {bytes((j,)): j for j in range(256)}
            following, width = 258, 9
        prefix = data[i : i + 1]
    if prefix:
        emit(codes[prefix])
        if following + 1 in (512, 1024, 2048):
            width += 1
    emit(257)
    text = "".join(format(code, "0%db" % n) for code, n in emitted)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def pack_bits(data):
    """PackBits of TIFF 6.0, by single bytes and literal runs."""
    out, i = b"", 0
    while i < len(data):
        n = 1
        while n < 128 and i + n < len(data) and data[i + n] == data[i]:
            n += 1
        if n > 1:
            out += bytes((257 - n,)) + data[i : i + 1]
        else:
            n = min(20, len(data) - i)
            out += bytes((n - 1,)) + data[i : i + n]
        i += n
    return out


def differences(rows, samples, bits, predictor):
    """Rows (height x numbers) with predictor 2, or with 3 as bytes."""
    if predictor == 2:
        first, rest = rows[:, :samples], rows[:, samples:]
        return numpy.concatenate([first, rest - rows[:, : rest.shape[1]]], axis=1)
    planes = rows.astype(">f4").view("uint8").reshape(len(rows), -1, 4)
    flat = planes.transpose(0, 2, 1).reshape(len(rows), -1)
    return numpy.concatenate([flat[:, :samples], flat[:, samples:] - flat[:, :-samples]], axis=1)


# photometric interpretation, bits, sample format, samples, extra samples
TIFF_KINDS = (
    [(photo, bits, 1, 1, ()) for photo in (0, 1) for bits in (1, 2, 4, 8, 16)]
    + [(1, 12, 1, 1, ()), (1, 8, 2, 1, ()), (1, 16, 2, 1, ()), (1, 32, 1, 1, ()), (1, 32, 2, 1, ()), (1, 32, 3, 1, ()), (0, 32, 3, 1, ())]
    + [(1, 8, 1, 2, (0,)), (1, 8, 1, 2, (2,))]
    + [(3, bits, 1, 1, ()) for bits in (1, 2, 4, 8)]
    + [(3, 8, 1, 2, (0,)), (3, 8, 1, 2, (2,))]
    + [(2, bits, 1, 3, ()) for bits in (8, 8, 16)]
    + [(2, bits, 1, 4, extra) for bits in (8, 16) for extra in ((), (0,), (1,), (2,))]
    + [(2, 8, 1, 5, (0, 0)), (2, 8, 1, 6, (1, 0, 0)), (2, 8, 1, 5, (2, 0)), (2, 8, 1, 4, (999,))]
    + [(5, 8, 1, 4, ()), (5, 8, 1, 4, ()), (5, 16, 1, 4, ()), (5, 8, 1, 5, (0,)), (5, 8, 1, 6, (0, 0))]
    + [(6, 8, 1, 3, ())] * 3
)


def tiff_file(rng):
    """A TIFF of any kind that Pillow reads, in strips or tiles, of either byte order, in one plane or several."""
    order = rng.choice("<>")
    photo, bits, sample_format, samples, extra = rng.choice(TIFF_KINDS)
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    compression = rng.choice((1, 5, 8, 32946, 32773))
    planar = samples > 1 and rng.random() < 0.3
    if bits == 8 and sample_format == 1 and (photo, samples) in ((0, 1), (1, 1), (2, 3), (6, 3)) and rng.random() < 0.2:
        compression, planar = 7, False
    if photo == 6:
        compression, planar = 7, False
    if sample_format != 1 and bits > 8 and compression != 1:
        order = "<"  # releases of Pillow differ in the other
    planar = planar and samples <= 4
    if planar and compression == 1 and (bits == 16 or photo == 2 and samples == 4 and not extra or extra == (0,)):
        compression = 5  # Pillow takes bytes for samples of 16 bits, mistakes the width of tiles with undeclared alpha, and stumbles over
        # planes without a meaning
    fill = 2 if rng.random() < 0.1 and not (planar and compression == 1) and compression != 7 else 1
    subsampling = rng.choice((0, 1, 2)) if photo == 6 and compression == 7 else 0
    predictor = 1
    if bits in (8, 16, 32) and rng.random() < 0.4:
        predictor = 2
        if sample_format == 3 and compression in (5, 8, 32946) and rng.random() < 0.5:
            predictor = 3

    a = content(rng, width, height, samples)
    if photo == 2 and extra[:1] == (1,):  # a colour cannot be more than its alpha, but often is all the same
        a[:, :, :3] = numpy.minimum(a[:, :, :3], a[:, :, 3:4].clip(rng.choice((0, 0, 100))))
    if bits < 8:
        a = a >> (8 - bits)
    elif bits == 32 and sample_format == 3:
        a = a.astype("float32") * rng.choice((0.3, 1, 2)) - rng.choice((0, 50))
    elif bits > 8:
        a = a.astype("int64") * rng.choice((1, 2, 257 if bits != 12 else 16)) - (rng.choice((0, 200)) if sample_format == 2 else 0)
    kind = {8: "u1", 12: "u2", 16: "u2", 32: "u4"}.get(bits, "u1")
    if sample_format == 3:
        kind = "f4"
    a = a.astype(kind)

    tiled = rng.random() < 0.4
    if tiled:
        across, down = 16 * rng.randrange(1, 6), 16 * rng.randrange(1, 6)
    else:
        across, down = width, rng.choice((1, 7, 16, height, height + 5))
        if compression == 7:
            down = 16 * rng.randrange(1, 8)
    pieces = []
    planes = [a[:, :, i : i + 1] for i in range(samples)] if planar else [a]
    for plane in planes:
        for top in range(0, height, down):
            for left in range(0, width, across):
                piece = plane[top : top + down, left : left + across]
                if tiled:
                    piece = numpy.pad(piece, ((0, down - piece.shape[0]), (0, across - piece.shape[1]), (0, 0)), "edge")
                rows = piece.reshape(len(piece), -1)
                if predictor > 1 and compression in (5, 8, 32946):
                    if predictor == 2:
                        rows = rows.view("u4") if sample_format == 3 else rows
                    rows = differences(rows, piece.shape[2], bits, predictor)
                if bits in (1, 2, 4, 12):
                    data = packed(rows, bits).tobytes()
                elif predictor == 3:
                    data = rows.tobytes()
                else:
                    data = rows.astype(order + rows.dtype.str[1:]).tobytes()
                if compression == 7:
                    data = io.BytesIO()
                    im = Image.fromarray(piece if samples == 3 else piece[:, :, 0])
                    im.save(data, "JPEG", subsampling=subsampling, progressive=rng.random() < 0.2)
                    data = data.getvalue()
                elif compression == 5:
                    data = lzw(data)
                elif compression in (8, 32946):
                    data = zlib.compress(data)
                elif compression == 32773:
                    data = pack_bits(data)
                if fill == 2:
                    data = numpy.packbits(numpy.unpackbits(numpy.frombuffer(data, "uint8")).reshape(-1, 8)[:, ::-1]).tobytes()
                pieces.append(data)

    tags = {256: width, 257: height, 259: compression, 262: photo, 277: samples}
    if bits > 1 or rng.random() < 0.5:
        tags[258] = (bits,) * samples
    if fill == 2:
        tags[266] = 2
    if rng.random() < 0.3:
        tags[274] = rng.randrange(1, 9)
    if planar or rng.random() < 0.5:
        tags[284] = 2 if planar else 1
    if predictor > 1:
        tags[317] = predictor
    if photo == 3:
        tags[320] = tuple(rng.randrange(65536) for _ in range(3 << bits))
    if extra:
        tags[338] = extra
    if sample_format != 1 or rng.random() < 0.2:
        tags[339] = (sample_format,) * samples
    if photo == 6:
        tags[530] = ((1, 1), (2, 1), (2, 2))[subsampling]
    at, offsets, body = 8, [], b""
    for data in pieces:
        offsets.append(at + len(body))
        body += data
    if tiled:
        tags.update({322: across, 323: down, 324: tuple(offsets), 325: tuple(map(len, pieces))})
    else:
        tags.update({273: tuple(offsets), 278: down, 279: tuple(map(len, pieces))})
        if down >= height and rng.random() < 0.3:
            del tags[278]
    body += b"\0" * (len(body) % 2)
    where = 8 + len(body)
    directory, values = struct.pack(order + "H", len(tags)), b""
    after = where + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        value = value if isinstance(value, tuple) else (value,)
        code = 4 if tag in (273, 279, 324, 325) else 3
        data = struct.pack(order + "%d%s" % (len(value), "I" if code == 4 else "H"), *value)
        if len(data) > 4:
            data, values = struct.pack(order + "I", after + len(values)), values + data
        directory += struct.pack(order + "HHI", tag, code, len(value)) + data.ljust(4, b"\0")
    header = b"II\x2a\0" if order == "<" else b"MM\0\x2a"
    name = "%s-%d-%d-%d-%d%s-c%d%s%s.tif" % (
        header[:2].decode(), photo, bits, sample_format, samples, "".join("x%d" % e for e in extra), compression,
        "-planar" if planar else "", "-tiles" if tiled else "")
    return name, header + struct.pack(order + "I", where) + body + directory + b"\0\0\0\0" + values


def riff_chunk(name, data):
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def animated_webp(rng, still):
    """Makes a still WebP the first frame of an animation, somewhere on a larger canvas."""
    with Image.open(io.BytesIO(still)) as im:
        width, height = im.size
    chunks = still[12:]
    if chunks[:4] == b"VP8X":
        chunks = chunks[18:]
    x, y = rng.randrange(10), rng.randrange(10)

    def three(n):
        return struct.pack("<I", n)[:3]

    canvas = three(2 * x + width + rng.randrange(20) - 1) + three(2 * y + height + rng.randrange(20) - 1)
    frame = three(x) + three(y) + three(width - 1) + three(height - 1) + three(100) + bytes((rng.randrange(4),))
    body = riff_chunk(b"VP8X", bytes((2 | 16, 0, 0, 0)) + canvas)
    body += riff_chunk(b"ANIM", bytes(rng.randrange(256) for _ in range(4)) + b"\0\0")
    body += riff_chunk(b"ANMF", frame + chunks) * rng.choice((1, 2))
    return riff_chunk(b"RIFF", b"WEBP" + body)


def webp_file(rng):
    mode, lossless = rng.choice(("RGB", "RGBA")), rng.random() < 0.3
    out = io.BytesIO()
    options = dict(lossless=lossless, quality=rng.choice((0, 20, 50, 80, 100)), method=rng.randrange(7), exact=rng.random() < 0.7)
    im = picture(rng, mode)
    if rng.random() < 0.1:  # as Pillow makes animations
        more = [im.transpose(Image.Transpose.ROTATE_180), im]
        im.save(out, "WEBP", save_all=True, append_images=more, allow_mixed=rng.random() < 0.5, **options)
        return mode + "-animation.webp", out.getvalue()
    if rng.random() < 0.1:
        options["xmp"] = b"<x/>"
    im.save(out, "WEBP", **options)
    if rng.random() < 0.2:
        return mode + "-frame.webp", animated_webp(rng, out.getvalue())
    return "%s-%s.webp" % (mode, "lossless" if lossless else "lossy"), out.getvalue()


def encode(rng):
    """Returns name suffix and bytes of one random file."""
    out = io.BytesIO()
    fmt = rng.choice(("png", "png", "gif", "gif", "bmp", "anybmp", "anybmp", "tif", "tif", "anytif", "anytif", "anytif", "webp", "webp", "jpg"))
    if fmt in ("anybmp", "anytif", "webp"):
        name, data = {"anybmp": bmp_file, "anytif": tiff_file, "webp": webp_file}[fmt](rng)
        return name, data
    if fmt == "png":
        if rng.random() < 0.25:
            return "deep.png", deep_png(rng)
        mode = rng.choice(("1", "L", "LA", "P", "P", "RGB", "RGBA", "I;16"))
        options = {}
        if mode == "P":
            options = rng.choice(({}, {"transparency": 1}, {"transparency": bytes(range(0, 200, 20))}))
        elif mode in ("L", "1"):
            options = rng.choice(({}, {"transparency": 0}))
        elif mode == "RGB":
            options = rng.choice(({}, {"transparency": (0, 100, 200)}))
        picture(rng, mode).save(out, "PNG", **options)
        return mode.replace(";", "") + ".png", out.getvalue()
    if fmt == "gif":
        mode = rng.choice(("P", "P", "L", "1"))
        options = rng.choice(({}, {"transparency": 0}, {"transparency": 1}, {"transparency": 255}))
        picture(rng, mode).save(out, "GIF", interlace=rng.random() < 0.5, optimize=rng.random() < 0.5, **options)
        if rng.random() < 0.5:
            return mode + "-frame.gif", small_frame(rng, out.getvalue())
        return mode + ".gif", out.getvalue()
    if fmt == "bmp":
        mode = rng.choice(("1", "L", "P", "RGB", "RGBA"))
        picture(rng, mode).save(out, "BMP")
        return mode + ".bmp", out.getvalue()
    if fmt == "tif":
        mode = rng.choice(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"))
        compressions = ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]
        if mode in ("L", "RGB"):
            compressions += ["jpeg", "jpeg"]
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
        options = {}
        if compression == "jpeg":
            tags[278] = 16 * rng.randrange(1, 10)  # rows of a strip
            options["quality"] = rng.choice((30, 75, 95))
        picture(rng, mode).save(out, "TIFF", compression=compression, tiffinfo=tags, **options)
        data = out.getvalue()
        if mode == "RGBA" and rng.random() < 0.5:  # say that colours are multiplied by alpha
            data = data.replace(struct.pack("<HHIHH", 338, 3, 1, 2, 0), struct.pack("<HHIHH", 338, 3, 1, 1, 0))
        return "%s-%s.tif" % (mode.replace(";", ""), compression), data
    mode = rng.choice(("L", "RGB", "RGB", "CMYK"))
    options = dict(progressive=rng.random() < 0.4, optimize=rng.random() < 0.5)
    if rng.random() < 0.2:
        options["restart_marker_blocks"] = rng.randrange(1, 20)
    picture(rng, mode).save(out, "JPEG", quality=rng.choice((50, 80, 95)), subsampling=rng.choice((0, 1, 2)), **options)
    return mode + ".jpg", out.getvalue()


def harmed(rng, suffix, data):
    """Returns the kind of harm, if any, and the bytes."""
    if rng.random() < 0.1:
        end = rng.randrange(len(data)) if rng.random() < 0.5 else len(data) - rng.randrange(1, min(50, len(data)))
        return "cut", data[:end]
    if suffix.endswith((".png", ".gif")) and rng.random() < 0.1:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 3))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return "corrupt", bytes(changed)
    return "", data


def hashed(rng):
    """Returns name suffix, kind, hash and bytes."""
    while True:
        try:
            suffix, data = encode(rng)
        except OSError:  # Pillow's buffer is too small for some noise as progressive JPEG
            continue
        harm, data = harmed(rng, suffix, data)
        try:
            with Image.open(io.BytesIO(data)) as im:
                phash = imagehash.phash(im, hash_size=16)
        except (OSError, ValueError, SyntaxError, EOFError) as e:
            if harm:
                return suffix, "refused", "-", data
            if "-v" in sys.argv:
                print("Pillow refuses", suffix, repr(e), file=sys.stderr)
            continue
        kind = "cut" if harm == "cut" and suffix.endswith((".jpg", ".tif")) else "exact"
        return suffix, kind, phash, data


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
