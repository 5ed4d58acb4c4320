#!/usr/bin/env python3
"""Writes random JPEG files to a folder and prints what Pillow makes of them.

    generate.py FOLDER COUNT SEED

Each line of output is: file name, kind, SHA-256 of the bytes of the gray picture or "refused", separated by tabs. Half of the
files are damaged in some way. Pillow itself writes some; others come from the encoder below, which writes what Pillow does not:
any sampling, scans in any division, 16-bit quantisation tables, YCCK, and so on.
"""
import hashlib
import heapq
import io
import os
import random
import struct
import sys
import warnings

import numpy
from PIL import Image, ImageFilter

SIDES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 20, 31, 32, 33, 47, 50, 64, 65, 90, 130)
ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
COSINES = numpy.array([[numpy.cos((2 * x + 1) * u * numpy.pi / 16) * (0.125 ** 0.5 if u == 0 else 0.5) for x in range(8)]
                       for u in range(8)])


def content(rng, width, height, bands):
    """An array of height x width x bands bytes."""
    noise = numpy.random.RandomState(rng.getrandbits(32))
    a = noise.randint(0, 256, (height, width, bands)).astype("uint8")
    kind = rng.choice(("smooth", "smooth", "noise", "flat", "extreme"))
    if kind == "smooth":
        radius = rng.choice((1, 2, 5))
        planes = [Image.fromarray(a[:, :, i]).filter(ImageFilter.GaussianBlur(radius)) for i in range(bands)]
        a = numpy.dstack([numpy.asarray(p) for p in planes]).astype(float)
        a = ((a - a.min()) * 255 / max(a.max() - a.min(), 1)).astype("uint8")
    if kind == "flat":
        a[:] = a[0, 0]
    if kind == "extreme":
        a = a // 128 * 255
    return a


def by_pillow(rng):
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    mode = rng.choice(("RGB", "RGB", "RGB", "L", "CMYK"))
    a = content(rng, width, height, {"RGB": 3, "L": 1, "CMYK": 4}[mode])
    im = Image.fromarray(a[:, :, 0] if mode == "L" else a, mode) if mode != "RGB" else Image.fromarray(a)
    options = {"quality": rng.choice((5, 30, 75, 90, 100)), "progressive": rng.random() < 0.4,
               "optimize": rng.random() < 0.3}
    if mode != "L":
        options["subsampling"] = rng.choice((0, 1, 2))
    if mode == "RGB" and rng.random() < 0.1:
        options["keep_rgb"] = True
        del options["subsampling"]
    if rng.random() < 0.3:
        options[rng.choice(("restart_marker_blocks", "restart_marker_rows"))] = rng.choice((1, 2, 5))
    if rng.random() < 0.2:
        options["comment"] = bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
    if rng.random() < 0.2:
        options["icc_profile"] = bytes(rng.randrange(256) for _ in range(200))
    if rng.random() < 0.2:
        options["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0" + bytes([rng.randrange(1, 9)]) + b"\0\0\0\0\0\0"
    out = io.BytesIO()
    im.save(out, "JPEG", **options)
    return "pillow", out.getvalue()


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def lengths(counts):
    """Code lengths of at most 16 bits for symbols with these counts; no code is all ones."""
    counts = dict(counts)
    while True:
        heap = [(n, i, (s,)) for i, (s, n) in enumerate(sorted(counts.items()))] + [(0, 999, (None,))]
        heapq.heapify(heap)
        length = dict.fromkeys(list(counts) + [None], 0)
        while len(heap) > 1:
            a, b = heapq.heappop(heap), heapq.heappop(heap)
            for s in a[2] + b[2]:
                length[s] += 1
            heapq.heappush(heap, (a[0] + b[0], min(a[1], b[1]), a[2] + b[2]))
        if max(length.values()) <= 16:
            longest = max(length.values())
            if length[None] < longest:  # give the place of the last code to nobody
                other = max((s for s in counts), key=lambda s: length[s])
                length[None], length[other] = length[other], length[None]
            del length[None]
            return length
        counts = {s: n // 2 + 1 for s, n in counts.items()}


def huffman(counts):
    """The body of a table of a DHT segment, and the codes as strings of digits."""
    length = lengths(counts)
    symbols = sorted(length, key=lambda s: (length[s], s))
    codes, code, last = {}, 0, 0
    for s in symbols:
        code <<= length[s] - last
        last = length[s]
        codes[s] = format(code, "0%db" % last)
        code += 1
    count = [sum(1 for s in symbols if length[s] == n) for n in range(1, 17)]
    return bytes(count) + bytes(symbols), codes


def magnitude(v):
    size = abs(v).bit_length()
    return size, format(v if v > 0 else v + (1 << size) - 1, "0%db" % size) if size else ""


class Component:
    pass


class Encoder:
    """Writes a JPEG of random make-up."""

    def __init__(self, rng):
        self.rng = rng

    def frame(self):
        rng = self.rng
        n = rng.choice((1, 3, 3, 3, 3, 4))
        self.width, self.height = rng.choice(SIDES), rng.choice(SIDES)
        factors = rng.choice((((2, 2), (1, 1)), ((2, 1), (1, 1)), ((1, 1), (1, 1)), ((1, 2), (1, 1)), ((4, 1), (1, 1)),
                              ((4, 2), (1, 1)), ((1, 4), (1, 1)), ((1, 1), (2, 2)), ((2, 2), (2, 1)), ((2, 2), (1, 2)),
                              ((1, 2), (2, 1)), ((2, 4), (2, 2)), ((4, 1), (2, 1)), None))
        self.components = []
        for i in range(n):
            c = Component()
            if factors:
                c.h, c.v = factors[0] if i in (0, 3) else factors[1]
            else:
                c.h, c.v = rng.choice((1, 2, 4)), rng.choice((1, 2, 4))
            self.components.append(c)
        if rng.random() < 0.03:
            self.components[0].h = 3
        while sum(c.h * c.v for c in self.components) > 10:
            c = max(self.components, key=lambda c: c.h * c.v)
            c.h, c.v = c.h // 2 or 1, c.v // 2 or 1
        self.max_h = max(c.h for c in self.components)
        self.max_v = max(c.v for c in self.components)
        ceil = lambda a, b: -(-a // b)
        self.mcus = ceil(self.width, 8 * self.max_h), ceil(self.height, 8 * self.max_v)
        self.wide = rng.random() < 0.2
        for i, c in enumerate(self.components):
            c.size = ceil(ceil(self.width * c.h, self.max_h), 8), ceil(ceil(self.height * c.v, self.max_v), 8)
            c.stride, c.rows = self.mcus[0] * c.h, self.mcus[1] * c.v
            top = rng.choice((1, 2, 10, 40, 255, 255, 2000 if self.wide else 255))
            c.quant = [rng.randrange(1, top + 1) for _ in range(64)] if rng.random() < 0.5 else [min(top, 16 + i)] * 64
            samples = content(rng, 8 * c.stride, 8 * c.rows, 1)[:, :, 0].astype(float) - 128
            blocks = samples.reshape(c.rows, 8, c.stride, 8).transpose(0, 2, 1, 3)
            f = COSINES @ blocks @ COSINES.T
            q = numpy.empty(64)
            for k, z in enumerate(ZIGZAG):
                q[z] = c.quant[k]
            f = numpy.rint(f.reshape(c.rows, c.stride, 64) / q).astype(int)
            if rng.random() < 0.05:
                f = f * rng.choice((2, 5, 20))
            c.coefs = numpy.clip(f[:, :, ZIGZAG], -1023, 1023).tolist()

    def blocks(self, scan):
        """Lists of (component, block) for the MCUs of a scan."""
        if len(scan) == 1:
            c = self.components[scan[0]]
            return [[(scan[0], c.coefs[y][x])] for y in range(c.size[1]) for x in range(c.size[0])]
        mcus = []
        for my in range(self.mcus[1]):
            for mx in range(self.mcus[0]):
                mcus.append([(i, self.components[i].coefs[my * self.components[i].v + v][mx * self.components[i].h + h])
                             for i in scan for v in range(self.components[i].v) for h in range(self.components[i].h)])
        return mcus

    def entropy(self, scan, first, last, high, low, progressive):
        """The symbols of a scan: (class, component or None, symbol, further bits), or a restart marker's number."""
        out = []
        prediction = dict.fromkeys(scan, 0)
        run, pending = 0, ""

        def flush():
            nonlocal run, pending
            if run:
                bits = run.bit_length() - 1
                out.append((1, scan[0], bits << 4, format(run, "b")[1:] + pending))
            run, pending = 0, ""

        for n, mcu in enumerate(self.blocks(scan)):
            if self.interval and n and n % self.interval == 0:
                flush()
                out.append(n // self.interval - 1 & 7)
                prediction = dict.fromkeys(scan, 0)
            for i, block in mcu:
                if first == 0 and high == 0:
                    dc = block[0] >> low
                    size, bits = magnitude(dc - prediction[i])
                    prediction[i] = dc
                    out.append((0, i, size, bits))
                elif first == 0:
                    out.append((0, None, 0, str(block[0] >> low & 1)))
                if last == 0:
                    continue
                band = [(abs(v) >> low) * (1 if v > 0 else -1) for v in block[max(first, 1):last + 1]]
                if high == 0:
                    zeros = 0
                    for v in band:
                        if v == 0:
                            zeros += 1
                            continue
                        flush()
                        while zeros > 15:
                            out.append((1, i, 0xF0, ""))
                            zeros -= 16
                        size, bits = magnitude(v)
                        out.append((1, i, zeros << 4 | size, bits))
                        zeros = 0
                    if zeros and progressive:
                        run += 1
                        if run == 0x7FFF or self.rng.random() < 0.02:
                            flush()
                    elif zeros:
                        out.append((1, i, 0, ""))
                    continue
                zeros, correction = 0, ""
                final = max((k for k, v in enumerate(band) if abs(v) == 1), default=-1)
                for k, v in enumerate(band):
                    if abs(v) > 1:
                        correction += str(abs(v) & 1)
                        continue
                    if v == 0:
                        zeros += 1
                        if zeros == 16 and k < final:
                            flush()
                            out.append((1, i, 0xF0, correction))
                            zeros, correction = 0, ""
                        continue
                    flush()
                    out.append((1, i, zeros << 4 | 1, ("1" if v > 0 else "0") + correction))
                    zeros, correction = 0, ""
                if zeros or correction:
                    run += 1
                    pending += correction
                    if run == 0x7FFF or len(pending) > 900:
                        flush()
        flush()
        return out

    def scan(self, scan, first, last, high, low, progressive):
        rng = self.rng
        symbols = self.entropy(scan, first, last, high, low, progressive)
        counts = {}
        for s in symbols:
            if not isinstance(s, int) and s[1] is not None:
                counts.setdefault((s[0], scan.index(s[1]) if len(scan) > 1 else 0), {})
                t = counts[s[0], scan.index(s[1]) if len(scan) > 1 else 0]
                t[s[2]] = t.get(s[2], 0) + 1
        shared = rng.random() < 0.5 or self.standard
        if shared:  # one table of each class
            merged = {}
            for (cls, _), t in counts.items():
                for s, n in t.items():
                    merged.setdefault((cls, 0), {})
                    merged[cls, 0][s] = merged[cls, 0].get(s, 0) + n
            counts = merged
        out = b""
        codes = {}
        if self.standard and not progressive:
            codes = {(0, 0): STANDARD[0], (1, 0): STANDARD[1]}
        else:
            body = b""
            for (cls, n), t in sorted(counts.items()):
                table, codes[cls, n] = huffman(t)
                body += bytes([cls << 4 | n]) + table
            if first == 0 and high == 0 or last > 0:
                for cls, n in ((0, 0), (1, 0)):
                    if (cls, n) not in counts:
                        body += bytes([cls << 4 | n]) + huffman({0: 1})[0]
            if body:
                out += segment(0xC4, body)
        header = bytes([len(scan)])
        for at, i in enumerate(scan):
            n = 0 if shared or len(scan) == 1 else at
            header += bytes([self.ids[i], (n if (0, n) in codes else 0) << 4 | (n if (1, n) in codes else 0)])
        out += segment(0xDA, header + bytes([first, last, high << 4 | low]))
        bits = []

        def pack():
            s = "".join(bits)
            s += "1" * (-len(s) % 8)
            bits.clear()
            return int(s, 2).to_bytes(len(s) // 8, "big").replace(b"\xff", b"\xff\0") if s else b""

        for s in symbols:
            if isinstance(s, int):
                out += pack() + b"\xff" * rng.choice((1, 1, 1, 3)) + bytes([0xD0 + s])
                continue
            if s[1] is not None:
                bits.append(codes[s[0], 0 if shared or len(scan) == 1 else scan.index(s[1])][s[2]])
            bits.append(s[3])
        return out + pack()

    def script(self, progressive):
        """A list of scans."""
        rng, n = self.rng, len(self.components)
        every = list(range(n))
        if not progressive:
            if n == 1 or rng.random() < 0.7:
                return [(every, 0, 63, 0, 0)]
            if rng.random() < 0.5:
                return [([i], 0, 63, 0, 0) for i in every]
            return [([0], 0, 63, 0, 0), (every[1:], 0, 63, 0, 0)]
        dc = rng.choice((0, 0, 1, 2))
        scans = [(every, 0, 0, 0, dc)] if rng.random() < 0.7 else [([i], 0, 0, 0, dc) for i in every]
        later = [[(every, 0, 0, b + 1, b)] for b in reversed(range(dc))]
        later = [sum(later, [])]
        for i in every:
            cuts = sorted(rng.sample(range(2, 64), rng.choice((0, 0, 1, 2))))
            for a, b in zip([1] + cuts, [c - 1 for c in cuts] + [63]):
                low = rng.choice((0, 0, 1, 2, 3))
                later.append([([i], a, b, 0, low)] + [([i], a, b, x + 1, x) for x in reversed(range(low))])
        while any(later):
            scans.append(rng.choice([s for s in later if s]).pop(0))
        return scans

    def encode(self):
        rng = self.rng
        self.frame()
        n = len(self.components)
        progressive = rng.random() < 0.45
        self.standard = not progressive and rng.random() < 0.15
        self.interval = rng.choice((0, 0, 1, 2, 3, 10))
        self.ids = rng.choice(([1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3], [82, 71, 66, 65], [5, 200, 7, 9], [1, 1, 1, 1]))
        if n > 1 and self.ids[0] == self.ids[1]:
            progressive = False
        if self.standard:
            for c in self.components:
                c.coefs = [[[max(min(v, 500), -500) for v in b] for b in row] for row in c.coefs]
        out = b"\xff\xd8"
        if rng.random() < 0.4:
            out += segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
        if rng.random() < 0.4:
            out += segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([rng.choice((0, 1, 2))]))
        if rng.random() < 0.2:
            out += segment(rng.choice((0xE1, 0xE2, 0xED, 0xEF, 0xFE)), bytes(rng.randrange(256) for _ in range(rng.randrange(90))))
        if rng.random() < 0.2:
            out += b"\xff" * rng.randrange(4)
        for i, c in enumerate(self.components):
            if self.wide:
                out += segment(0xDB, bytes([16 | i]) + struct.pack(">64H", *c.quant))
            else:
                out += segment(0xDB, bytes([i] + c.quant))
        frame = struct.pack(">BHHB", 8, self.height, self.width, n)
        for i, c in enumerate(self.components):
            frame += bytes([self.ids[i], c.h << 4 | c.v, i])
        out += segment(0xC2 if progressive else rng.choice((0xC0, 0xC1)), frame)
        if self.interval:
            out += segment(0xDD, struct.pack(">H", self.interval))
        scans = self.script(progressive)
        missing = rng.random() < 0.08 and len(scans) > 1
        if missing:
            scans = scans[:rng.randrange(1, len(scans))]
        for s in scans:
            out += self.scan(*s, progressive)
        out += b"\xff" * rng.choice((0, 0, 0, 2)) + b"\xff\xd9"
        if rng.random() < 0.1:
            out += bytes(rng.randrange(256) for _ in range(rng.randrange(1, 50)))
        return ("progressive" if progressive else "sequential") + ("-missing" if missing else ""), out


def standard_tables():
    """The codes of the tables that a file may leave out, as Pillow writes them."""
    out = io.BytesIO()
    Image.new("L", (8, 8)).save(out, "JPEG")
    data = out.getvalue()
    codes = [{}, {}]
    at = 2
    while data[at + 1] != 0xDA:
        size = struct.unpack_from(">H", data, at + 2)[0]
        if data[at + 1] == 0xC4:
            body = data[at + 4:at + 2 + size]
            while body:
                count, code, p = body[1:17], 0, 17
                for length, n in enumerate(count, 1):
                    for _ in range(n):
                        codes[body[0] >> 4][body[p]] = format(code, "0%db" % length)
                        code, p = code + 1, p + 1
                    code <<= 1
                body = body[p:]
        at += 2 + size
    return codes


STANDARD = standard_tables()


def scans(data):
    """Where entropy-coded data begin."""
    return [i + 2 + struct.unpack_from(">H", data, i + 2)[0] for i in range(2, len(data) - 4)
            if data[i] == 0xFF and data[i + 1] == 0xDA]


def damage(rng, data):
    """Returns what was done, and the file after it."""
    start = scans(data)[0]
    what = rng.choice(("cut", "cut-eoi", "no-eoi", "flip", "flip", "flip", "byte", "delete", "insert", "restart", "zero", "ones",
                       "header", "marker", "swap", "interval"))
    b = bytearray(data)
    end = b.rfind(b"\xff\xd9")
    if what == "cut":
        return what, data[:rng.randrange(4, len(data))]
    if what == "no-eoi":
        return what, data[:end]
    if start >= end:
        return "none", data
    at = rng.randrange(start, end)
    if what == "cut-eoi":
        return what, data[:at] + b"\xff\xd9"
    if what == "flip":
        for _ in range(rng.choice((1, 1, 3, 20))):
            b[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    elif what == "byte":
        b[at] = rng.randrange(256)
    elif what == "delete":
        del b[at:at + rng.choice((1, 2, 10))]
    elif what == "insert":
        b[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 10))))
    elif what == "restart":
        b[at:at] = bytes([0xFF, 0xD0 + rng.randrange(8)])
    elif what == "zero":
        n = min(rng.choice((3, 20, 100)), end - at)
        b[at:at + n] = bytes(n)
    elif what == "ones":
        n = min(rng.choice((3, 20, 100)), end - at)
        b[at:at + n] = b"\xff\0" * (n // 2) + b"\x7f" * (n % 2)
    elif what == "header":
        b[rng.randrange(2, start)] = rng.randrange(256)
    elif what == "marker":
        b[at:at] = bytes([0xFF, rng.choice((1, 2, 0xC0, 0xC4, 0xDA, 0xD8, 0xDB, 0xDC, 0xDD, 0xE0, 0xFE, 0xF0, rng.randrange(256)))])
    elif what == "swap":  # restart markers
        found = [i for i in range(start, end) if b[i] == 0xFF and 0xD0 <= b[i + 1] <= 0xD7]
        if found:
            i = rng.choice(found)
            if rng.random() < 0.3:
                del b[i:i + 2]
            else:
                b[i + 1] = 0xD0 + rng.randrange(8)
    elif what == "interval":
        b[start - 2:start - 2] = b""  # keep the scan header
        i = b.rfind(b"\xff\xda", 0, start)
        b[i:i] = segment(0xDD, struct.pack(">H", rng.choice((1, 2, 7, 1000))))
    return what, bytes(b)


def main():
    folder, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    warnings.simplefilter("ignore")
    for i in range(count):
        kind, data = by_pillow(rng) if rng.random() < 0.3 else Encoder(rng).encode()
        if rng.random() < 0.5:
            what, data = damage(rng, data)
            kind += "+" + what
        name = "%05d.jpg" % i
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as im:
                gray = im.convert("L")
            result = "%dx%d-%s" % (*gray.size, hashlib.sha256(gray.tobytes()).hexdigest())
        except Exception:
            result = "refused"
        print(name, kind, result, sep="\t")


if __name__ == "__main__":
    main()
