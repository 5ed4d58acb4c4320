#!/usr/bin/env python3
"""Measures how far hashes and colours move when a picture is altered, and how near different pictures come.

    nearmeasure.py [--limit N] FOLDER...

Every picture below the folders is used. One with transparent parts is taken for a cut-out of a single object, which is laid on
plain backdrops; every other one is a photo, and is brought to at most 480 pixels a side before anything else. Needs numpy,
Pillow, and imagehash. Seeds are fixed. The output has the tables of docs/near-duplicates.md, and more. Some 300 photos and 80
cut-outs take a quarter of an hour of one core. --limit takes the first N photos and N cut-outs only.

Photos and cut-outs are split into two halves at random: the threshold of each grid and metric is chosen on one half and
reported on the other.
"""

import argparse
import hashlib
import io
import os
import sys

import imagehash
import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

Image.MAX_IMAGE_PIXELS = None
SIDE = 480
GRIDS = (1, 2, 3, 4, 6, 8, 12)
RADII = (14, 24)
BOX, LANCZOS = Image.Resampling.BOX, Image.Resampling.LANCZOS
WHITE, GREY, BEIGE, GREEN, DARK = (238, 238, 236), (150, 152, 154), (206, 190, 164), (128, 146, 112), (52, 50, 54)
BACKDROPS = {"white": WHITE, "grey": GREY, "beige": BEIGE, "green": GREEN, "dark": DARK}


def seed(*what):
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8], "big"))


# --- what is measured of a picture ---


def grids(img):
    """Mean Cb and Cr in the cells of each grid, as uint8 of (cells, 2)."""
    a = np.asarray(img.convert("YCbCr"))[:, :, 1:].astype(np.int64)
    height, width = a.shape[:2]
    out = {}
    for g in GRIDS:
        y, x = np.arange(g) * height // g, np.arange(g) * width // g
        s = np.add.reduceat(np.add.reduceat(a, y, 0), x, 1)
        n = (np.diff(np.append(y, height))[:, None] * np.diff(np.append(x, width)))[:, :, None]
        out[g] = ((s + n // 2) // n).astype(np.uint8).reshape(g * g, 2)
    return out


def look(img):
    return imagehash.phash(img, hash_size=16).hash.ravel(), grids(img)


class Pairs:
    """A table of pairs: the part of the experiment, the alteration, the picture, the hash distance, the colours of both."""

    def __init__(self):
        self.part, self.name, self.source, self.moved, self.distance = [], [], [], [], []
        self.a, self.b = {g: [] for g in GRIDS}, {g: [] for g in GRIDS}

    def add(self, part, name, source, one, two, moved=0.0):
        self.part.append(part)
        self.name.append(name)
        self.source.append(source)
        self.moved.append(moved)
        self.distance.append(int((one[0] != two[0]).sum()))
        for g in GRIDS:
            self.a[g].append(one[1][g])
            self.b[g].append(two[1][g])

    def close(self):
        for k in ("part", "name", "source", "moved", "distance"):
            setattr(self, k, np.array(getattr(self, k)))
        for side in (self.a, self.b):
            for g in GRIDS:
                side[g] = np.array(side[g], np.int32)
        return self


# --- alterations of one and the same picture ---


def encoded(img, form, **options):
    out = io.BytesIO()
    img.save(out, form, **options)
    return Image.open(out).convert("RGB")


def scaled(img, by):
    return img.resize((max(round(img.width * by), 1), max(round(img.height * by), 1)), LANCZOS)


def gains(img, r, b):
    return img.point([min(round(v * r), 255) for v in range(256)] + list(range(256)) + [min(round(v * b), 255) for v in range(256)])


def noisy(img, sigma):
    a = np.asarray(img).astype(np.float32) + seed("noise", img.size).normal(0, sigma, (img.height, img.width, 3))
    return Image.fromarray(np.uint8(np.clip(a + 0.5, 0, 255)))


def cropped(img, share):
    dx, dy = max(round(img.width * share), 1), max(round(img.height * share), 1)
    return img.crop((dx, dy, img.width - dx, img.height - dy))


def gamma(img, g):
    return img.point([round(255 * (v / 255) ** (1 / g)) for v in range(256)] * 3)


SAME = {
    "PNG": lambda i: encoded(i, "PNG", compress_level=1),
    "JPEG q95, 4:4:4": lambda i: encoded(i, "JPEG", quality=95, subsampling=0),
    "JPEG q95, 4:2:0": lambda i: encoded(i, "JPEG", quality=95, subsampling=2),
    "JPEG q75, 4:4:4": lambda i: encoded(i, "JPEG", quality=75, subsampling=0),
    "JPEG q75, 4:2:0": lambda i: encoded(i, "JPEG", quality=75, subsampling=2),
    "JPEG q40, 4:4:4": lambda i: encoded(i, "JPEG", quality=40, subsampling=0),
    "JPEG q40, 4:2:0": lambda i: encoded(i, "JPEG", quality=40, subsampling=2),
    "WebP q75": lambda i: encoded(i, "WEBP", quality=75),
    "0.5x, then JPEG q60": lambda i: encoded(scaled(i, 0.5), "JPEG", quality=60),
    "resize 0.25x": lambda i: scaled(i, 0.25),
    "resize 0.5x": lambda i: scaled(i, 0.5),
    "resize 2x": lambda i: scaled(i, 2),
    "256 colours (as in a GIF)": lambda i: i.quantize(256).convert("RGB"),
    "64 colours": lambda i: i.quantize(64).convert("RGB"),
    "sharpen": lambda i: i.filter(ImageFilter.SHARPEN),
    "blur, radius 1.5": lambda i: i.filter(ImageFilter.GaussianBlur(1.5)),
    "noise, sigma 8": lambda i: noisy(i, 8),
    "brightness 0.8": lambda i: ImageEnhance.Brightness(i).enhance(0.8),
    "brightness 1.2": lambda i: ImageEnhance.Brightness(i).enhance(1.2),
    "contrast 0.8": lambda i: ImageEnhance.Contrast(i).enhance(0.8),
    "contrast 1.2": lambda i: ImageEnhance.Contrast(i).enhance(1.2),
    "gamma 1.2": lambda i: gamma(i, 1.2),
    "gamma 1/1.2": lambda i: gamma(i, 1 / 1.2),
    "saturation 0.8": lambda i: ImageEnhance.Color(i).enhance(0.8),
    "saturation 0.9": lambda i: ImageEnhance.Color(i).enhance(0.9),
    "saturation 1.1": lambda i: ImageEnhance.Color(i).enhance(1.1),
    "saturation 1.2": lambda i: ImageEnhance.Color(i).enhance(1.2),
    "saturation 1.4": lambda i: ImageEnhance.Color(i).enhance(1.4),
    "red x 0.95": lambda i: gains(i, 0.95, 1),
    "red x 1.05": lambda i: gains(i, 1.05, 1),
    "blue x 0.95": lambda i: gains(i, 1, 0.95),
    "blue x 1.05": lambda i: gains(i, 1, 1.05),
    "warmer (red x 1.05, blue x 0.95)": lambda i: gains(i, 1.05, 0.95),
    "cooler (red x 0.95, blue x 1.05)": lambda i: gains(i, 0.95, 1.05),
    "crop 0.5 % a side": lambda i: cropped(i, 0.005),
    "crop 1 % a side": lambda i: cropped(i, 0.01),
}


# --- alterations of the colours, with the luma kept, so that the hash hardly moves ---


def planes(img):
    a = np.asarray(img).astype(np.float32)
    y = a @ np.array([0.299, 0.587, 0.114], np.float32)
    return y, (a[:, :, 2] - y) / 1.772, (a[:, :, 0] - y) / 1.402


def turned(cb, cr, degrees, scale=1.0):
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return cb * c - cr * s, cb * s + cr * c


def compose(y, cb, cr):
    """RGB of a luma and a chroma, the chroma shortened where it would leave RGB, so that the luma stays."""
    d = np.stack([1.402 * cr, -0.344136 * cb - 0.714136 * cr, 1.772 * cb], 2)
    room = np.where(d > 0, 255 - y[:, :, None], y[:, :, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        k = np.nan_to_num(np.where(abs(d) > 1e-3, room / abs(d), 1), nan=1).min(2)
    k = np.clip(k, 0, 1)[:, :, None]
    return Image.fromarray(np.uint8(np.clip(y[:, :, None] + k * d + 0.5, 0, 255)))


def recolour(img, degrees, scale=1.0, mask=None):
    """Turns hues and scales saturation, where mask (0 to 1) says. Also returns how far the chroma moved there on average."""
    box = (0, 0, *img.size)
    if mask is not None:
        box = Image.fromarray(np.uint8(mask > 0)).getbbox()
        mask = mask[box[1] : box[3], box[0] : box[2]]
    y, cb, cr = planes(img.crop(box))
    b, r = turned(cb, cr, degrees, scale)
    m = np.ones_like(y) if mask is None else mask
    new = compose(y, cb + m * (b - cb), cr + m * (r - cr))
    _, b, r = planes(new)
    out = img.copy()
    out.paste(new, box[:2])
    return out, float((np.hypot(b - cb, r - cr) * m).sum() / max(m.sum(), 1))


WHOLE = {f"hue {d}": (d, 1.0) for d in (15, 30, 45, 60, 90, 120, 180)} | {f"saturation {s}": (0, s) for s in (0, 0.3, 0.5, 2.0)}
PART = {"hue 60": (60, 1), "hue 120": (120, 1), "hue 180": (180, 1), "made grey": (0, 0)}
SIZES = (3, 5, 10, 20, 30)


def ellipse(rng, width, height, share):
    """A soft ellipse of a share of the picture, at a random place inside it."""
    stretch = np.exp(rng.uniform(-0.35, 0.35))
    area = width * height * share / np.pi
    rx, ry = min(np.sqrt(area) * stretch, width / 2), min(np.sqrt(area) / stretch, height / 2)
    cx, cy = rng.uniform(rx, width - rx), rng.uniform(ry, height - ry)
    y, x = np.mgrid[:height, :width]
    d = np.hypot((x - cx) / rx, (y - cy) / ry)
    return np.clip((1 - d) * min(rx, ry) / 2 + 0.5, 0, 1).astype(np.float32)


# --- pictures of one object on a plain backdrop ---


def backdrop(rng, colour, size=(480, 360)):
    """A plain backdrop with uneven light and a little noise, as in a photo."""
    w, h = size
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    slope = rng.uniform(-0.06, 0.06, 2)
    light = (1 + slope[0] * x + slope[1] * y - 0.05 * (x * x + y * y))[:, :, None]
    return np.clip(np.array(colour) * light + rng.normal(0, 2, (h, w, 1)), 0, 255).astype(np.float32)


def laid(base, cut, mask, at):
    """The cut-out (float RGB, alpha 0 to 1) laid on the base with its left upper corner at a place."""
    out, m = base.copy(), np.zeros(base.shape[:2], np.float32)
    x, y = at
    h, w = mask.shape
    out[y : y + h, x : x + w] += (cut - out[y : y + h, x : x + w]) * mask[:, :, None]
    m[y : y + h, x : x + w] = mask
    return Image.fromarray(np.uint8(np.clip(out + 0.5, 0, 255))), m


def fitted(cut, share, size=(480, 360)):
    """The cut-out at the size at which it covers a share of the picture, or the largest that fits into it."""
    cut = cut.crop(cut.getchannel("A").getbbox())
    covers = np.asarray(cut.getchannel("A")).mean() / 255
    k = np.sqrt(share * size[0] * size[1] / (covers * cut.width * cut.height))
    k = min(k, 0.96 * size[0] / cut.width, 0.96 * size[1] / cut.height)
    a = np.asarray(cut.resize((max(int(cut.width * k), 1), max(int(cut.height * k), 1)), LANCZOS)).astype(np.float32)
    return a[:, :, :3], a[:, :, 3] / 255


def photo_like(img):
    return encoded(img, "JPEG", quality=85)


TINTS = {"green": (0.36, 0.62, 0.34), "brown": (0.56, 0.36, 0.16), "blue": (0.34, 0.52, 0.82), "clear": (0.90, 0.94, 0.93)}


def bottle(base, height, at, tint, like=None):
    """A bottle of tinted glass before a backdrop; with like, its luma is that of a bottle of that tint."""
    h, w = base.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    t = (y - at[1]) / height
    half = height * np.interp(t, [0, 0.02, 0.26, 0.45, 0.97, 1], [0.045, 0.05, 0.055, 0.14, 0.145, 0.12])
    u = (x - at[0]) / half
    mask = np.clip((1 - abs(u)) * half / 1.5, 0, 1) * ((t >= 0) & (t <= 1))
    deep = (0.75 + 1.1 * np.clip(abs(u), 0, 1) ** 4)[:, :, None]
    shine = (90 * np.exp(-(((u + 0.55) / 0.09) ** 2)))[:, :, None]

    def glass(name):
        return Image.fromarray(np.uint8(np.clip(base * np.array(TINTS[name]) ** deep + shine + 0.5, 0, 255)))

    c = glass(tint)
    if like:
        _, cb, cr = planes(c)
        c = compose(planes(glass(like))[0], cb, cr)
    out = base + (np.asarray(c).astype(np.float32) - base) * mask[:, :, None]
    return Image.fromarray(np.uint8(np.clip(out + 0.5, 0, 255))), float(mask.mean())


def thing(kind, rng, colour=WHITE):
    """One of many different bottles, cans, boxes and balls before one backdrop, about in the middle."""
    base = backdrop(rng, colour)
    h, w = base.shape[:2]
    img = Image.new("RGBA", (w * 2, h * 2))
    d = ImageDraw.Draw(img)
    tall = rng.uniform(0.5, 0.8) * h * 2
    cx, cy = w * (1 + rng.uniform(-0.05, 0.05)), h * (1 + rng.uniform(-0.05, 0.05))
    ink = tuple(int(v) for v in rng.integers(20, 235, 3)) + (255,)
    second = tuple(int(v) for v in rng.integers(20, 235, 3)) + (255,)
    top, bottom = cy - tall / 2, cy + tall / 2
    if kind == "bottle":
        r, neck, shoulder = tall * rng.uniform(0.12, 0.19), tall * rng.uniform(0.04, 0.07), rng.uniform(0.25, 0.45)
        s = top + tall * shoulder
        right = [(neck, top), (neck, s - tall * 0.12), (r, s), (r, bottom)]
        d.polygon([(cx + x, y) for x, y in right] + [(cx - x, y) for x, y in reversed(right)], ink)
        a, b = sorted(rng.uniform(s, bottom, 2))
        d.rectangle((cx - r, a, cx + r, b), second)
        d.rectangle((cx - neck * 1.15, top, cx + neck * 1.15, top + tall * 0.06), second)
    elif kind == "can":
        r = tall * rng.uniform(0.25, 0.34)
        d.rounded_rectangle((cx - r, top, cx + r, bottom), r * 0.15, ink)
        a, b = sorted(rng.uniform(top, bottom, 2))
        d.rectangle((cx - r, a, cx + r, b), second)
        d.rectangle((cx - r * 0.9, top, cx + r * 0.9, top + tall * 0.04), (190, 190, 194, 255))
    elif kind == "box":
        r, turn = tall * rng.uniform(0.4, 0.7), rng.uniform(-0.15, 0.15) * tall
        d.polygon([(cx - r, top + turn), (cx + r, top - turn), (cx + r, bottom - turn), (cx - r, bottom)], ink)
        d.rectangle((cx - r * rng.uniform(0.1, 0.9), top + tall * 0.3, cx + r * rng.uniform(0.1, 0.9), bottom - tall * 0.3), second)
    else:
        r = tall / 2
        d.ellipse((cx - r, top, cx + r, bottom), ink)
        d.ellipse((cx - r * 0.7, top + r * 0.3, cx + r * rng.uniform(0, 0.6), cy), second)
    img = img.rotate(rng.uniform(-4, 4), Image.Resampling.BICUBIC).resize((w, h), BOX)
    a = np.asarray(img).astype(np.float32)
    u = np.linspace(-1, 1, w)[None, :, None] * 2.5
    return photo_like(laid(base, np.clip(a[:, :, :3] * (1.06 - 0.25 * u * u), 0, 255), a[:, :, 3] / 255, (0, 0))[0])


# --- the experiment ---


def load(folders, limit):
    photos, cuts = {}, {}
    for folder in folders:
        for root, _, files in sorted(os.walk(folder)):
            for f in sorted(files):
                path = os.path.join(root, f)
                try:
                    img = Image.open(path)
                    alpha = img.mode in ("RGBA", "LA") or "transparency" in img.info
                    if alpha and np.asarray(img.convert("RGBA").getchannel("A").resize((64, 64))).min() < 128:
                        cuts[path] = img.convert("RGBA")
                        continue
                    img.draft("RGB", (2 * SIDE, 2 * SIDE))
                    img = img.convert("RGB")
                except (OSError, ValueError, SyntaxError) as e:
                    print("left out:", f, e, file=sys.stderr)
                    continue
                if max(img.size) > SIDE:
                    img = scaled(img, SIDE / max(img.size))
                photos[path] = img
    return dict(list(photos.items())[:limit]), dict(list(cuts.items())[:limit])


def measure(photos, cuts):
    pairs = Pairs()
    looks = {}
    for n, (path, img) in enumerate(photos.items()):
        print(f"\rphoto {n + 1} of {len(photos)}", end="", file=sys.stderr)
        one = looks[path] = look(img)
        for name, alter in SAME.items():
            pairs.add("same", name, path, one, look(alter(img)))
        pairs.add("grey", "made grey", path, one, look(img.convert("L").convert("RGB")))
        for name, (degrees, scale) in WHOLE.items():
            other, moved = recolour(img, degrees, scale)
            pairs.add("whole", name, path, one, look(other), moved)
        for size in SIZES:
            mask = ellipse(seed("ellipse", n, size), *img.size, size / 100)
            for name, (degrees, scale) in PART.items():
                other, moved = recolour(img, degrees, scale, mask)
                pairs.add("part", f"{size} %, {name}", path, one, look(other), moved)
    print(file=sys.stderr)
    for n, (path, cut) in enumerate(cuts.items()):
        for size in SIZES:
            rng = seed("cut", n, size)
            base = backdrop(rng, list(BACKDROPS.values())[rng.integers(len(BACKDROPS))])
            rgb, alpha = fitted(cut, size / 100)
            at = [int(rng.integers(0, base.shape[1 - k] - alpha.shape[1 - k] + 1)) for k in (0, 1)]
            img, mask = laid(base, rgb, alpha, at)
            one = look(photo_like(img))
            for name, (degrees, scale) in PART.items():
                other, moved = recolour(img, degrees, scale, mask)
                pairs.add("cut", f"{size} %, {name}", path, one, look(photo_like(other)), moved)
            for name in ("JPEG q40, 4:2:0", "0.5x, then JPEG q60", "warmer (red x 1.05, blue x 0.95)"):
                pairs.add("cut same", name, path, one, look(SAME[name](photo_like(img))))
    for n in range(16):
        for height in (0.42, 0.55, 0.78, 0.95):
            rng = seed("bottle", n, height)
            base = backdrop(rng, list(BACKDROPS.values())[rng.integers(3)])
            tall = height * base.shape[0]
            at = (rng.uniform(0.15, 0.85) * base.shape[1], rng.uniform(0, base.shape[0] - tall))
            shots = {t: look(photo_like(bottle(base, tall, at, t)[0])) for t in TINTS}
            size = round(100 * bottle(base, tall, at, "clear")[1])
            for a in TINTS:
                for b in TINTS:
                    which = f"{size} %, " + ("green and clear" if {a, b} == {"green", "clear"} else "other tints")
                    if a < b:
                        pairs.add("bottle", which, f"bottle {n}", shots[a], shots[b])
                    if a != b:
                        other = look(photo_like(bottle(base, tall, at, b, a)[0]))
                        pairs.add("bottle luma", which, f"bottle {n}", shots[a], other)
    groups = {"photos": looks}
    for name in ("white", "grey", "dark"):
        group = {}
        for n, (path, cut) in enumerate(cuts.items()):
            base = backdrop(seed("one", name, n), BACKDROPS[name])
            rgb, alpha = fitted(cut, 0.2)
            at = ((base.shape[1] - alpha.shape[1]) // 2, (base.shape[0] - alpha.shape[0]) // 2)
            group[path] = look(photo_like(laid(base, rgb, alpha, at)[0]))
        groups[f"cut-outs of 20 % on {name}"] = group
    for kind in ("bottle", "can", "box", "ball"):
        groups[f"drawn, {kind}"] = {f"{kind} {n}": look(thing(kind, seed(kind, n))) for n in range(100)}
    return pairs.close(), groups


# --- metrics: how far apart two signatures are ---


def cells(a, b):
    """Distances of the cells, Euclidean."""
    d = a - b
    return np.sqrt((d * d).sum(-1).astype(np.float64))


def rescaled(a, b, low=0.75, high=1.3):
    """Distances after one change of saturation for the whole picture, within bounds, is made good."""
    x, y = a - 128.0, b - 128.0
    k = np.clip((x * y).sum((-1, -2)) / np.maximum((y * y).sum((-1, -2)), 1e-9), low, high)[:, None, None]
    return np.sqrt(((x - k * y) ** 2).sum(-1)) / np.sqrt(k[:, :, 0])


def shifted(a, b, most=5):
    """Distances after one shift for the whole picture, of a few units at most, is made good."""
    d = (a - b).astype(np.float64)
    return np.sqrt(((d - np.clip(np.median(d, 1, keepdims=True), -most, most)) ** 2).sum(-1))


def lenient(a, b, part):
    """The squared distances less a part of the squared saturations, and the root of that: a vivid cell may move further."""
    d, x, y = ((v * v).sum(-1) for v in (a - b, a - 128, b - 128))
    return np.sqrt(np.maximum(d - (x + y) / part, 0))


def sums(a, b):
    return abs(a - b).sum(-1)


def sums_lenient(a, b):
    """|dCb| + |dCr| of the cells, less an eighth of the saturation: a vivid cell may move further."""
    return sums(a, b) - (abs(a - 128).sum(-1) + abs(b - 128).sum(-1)) / 8


METRICS = {
    "max": lambda a, b: cells(a, b).max(-1),
    "max |d| of a channel": lambda a, b: abs(a - b).max((-1, -2)),
    "mean": lambda a, b: cells(a, b).mean(-1),
    "root mean square": lambda a, b: np.sqrt((cells(a, b) ** 2).mean(-1)),
    "90 % quantile": lambda a, b: np.quantile(cells(a, b), 0.9, axis=-1),
    "max, saturation made good": lambda a, b: rescaled(a, b).max(-1),
    "max, shift made good": lambda a, b: shifted(a, b).max(-1),
    "max |dCb|+|dCr|": lambda a, b: sums(a, b).max(-1),
    "max |dCb|+|dCr|, lenient": lambda a, b: sums_lenient(a, b).max(-1),
    "max, lenient (a 32nd)": lambda a, b: lenient(a, b, 32).max(-1),
    "max, lenient (a 24th)": lambda a, b: lenient(a, b, 24).max(-1),
    "max, lenient (a 16th)": lambda a, b: lenient(a, b, 16).max(-1),
}

# --- what the tables are made with; the choice that package phash has made ---

GRID, METRIC, THRESHOLD = 8, "max, lenient (a 16th)", 8
NOTABLE = 15  # a mean move of the chroma, in units of Cb and Cr, from which a change of colour counts as one to be seen
RECALL = 0.99
# Of SAME, those that change colours.
ROUGH = ["64 colours", "brightness 1.2", "warmer (red x 1.05, blue x 0.95)", "cooler (red x 0.95, blue x 1.05)"]


def percent(n, of):
    if not of:
        return "-"
    p = 100 * n / of
    return f"{p:.0f} %" if n in (0, of) else f"{min(max(p, 0.1), 99.9):.1f} %"


def row(*fields):
    print("| " + " | ".join(str(f) for f in fields) + " |")


def head(title, *fields):
    print(f"\n{title}\n")
    row(*fields)
    print("|" + " --- |" * len(fields))


def most(k, n):
    """The upper bound, at 95 %, of a share of which k of n were seen: the rule of three for k = 0, Poisson else."""
    from scipy.stats import chi2

    return 3 / n if k == 0 else chi2.ppf(0.95, 2 * k + 2) / 2 / n


def halves(sources):
    return np.array([seed("half", os.path.basename(s)).random() < 0.5 for s in sources])


def compare(p):
    """Each grid and metric: the threshold from one half, the figures from the other."""
    first = halves(p.source)
    near = p.distance <= 24
    same = near & np.isin(p.part, ["same", "cut same"])
    seen = near & (p.moved >= NOTABLE)
    sets = [seen & (p.part == "whole")]
    for part in ("part", "cut"):
        sets += [seen & (p.part == part) & np.char.startswith(p.name, f"{s} %") for s in SIZES]
    sets += [near & (p.part == part) for part in ("bottle", "bottle luma")]
    head(
        "Choice: threshold that keeps 99 % of the same pictures of one half; figures of the other half",
        "metric", "grid", "threshold", "same picture kept", "whole",
        *(f"part {s} %" for s in SIZES), *(f"object {s} %" for s in SIZES), "bottles", "bottles, luma kept",
    )  # fmt: skip
    for name, metric in METRICS.items():
        for g in GRIDS:
            d = metric(p.a[g], p.b[g])
            t = np.quantile(d[same & first], RECALL, method="higher")
            rest = [s & ~first for s in sets]
            kept = percent((d[same & ~first] <= t).sum(), (same & ~first).sum())
            row(name, f"{g}x{g}", f"{t:.1f}", kept, *(percent((d[s] > t).sum(), s.sum()) for s in rest))
    d = METRICS[METRIC](p.a[GRID], p.b[GRID])
    head(
        f"{METRIC} on {GRID}x{GRID} by threshold, all pairs within 24; the worst of the alterations but {', '.join(ROUGH)}",
        "threshold", "worst kept, one half", "worst kept, other half", "same picture kept", "whole",
        *(f"part {s} %" for s in SIZES), *(f"object {s} %" for s in SIZES), "bottles", "bottles, luma kept",
    )  # fmt: skip
    mild = [near & (p.part == "same") & (p.name == n) for n in SAME if n not in ROUGH]
    for t in range(5, 17):
        worst = [min((d[s & h] <= t).mean() for s in mild if (s & h).any()) for h in (first, ~first)]
        kept = (d[same] <= t).sum()
        row(t, *(f"{100 * w:.1f} %" for w in worst), percent(kept, same.sum()), *(percent((d[s] > t).sum(), s.sum()) for s in sets))


def report(p, groups):
    d = METRICS[METRIC](p.a[GRID], p.b[GRID])
    fine = d <= THRESHOLD
    names = [n for n in dict.fromkeys(p.name[np.isin(p.part, ["same", "grey"])])]
    within, passing = [f"within {r}" for r in RADII], [f"within {r} and colours pass" for r in RADII]
    head("The same picture", "alteration", "pictures", "distance: median", "95 %", "largest", *within, *passing)
    for part, which in [("same", names[:-1]), ("grey", names[-1:]), ("cut same", None)]:
        for name in which or dict.fromkeys(p.name[p.part == part]):
            s = (p.part == part) & (p.name == name)
            x, n = p.distance[s], s.sum()
            if n:
                label = "object: " + name if part == "cut same" else name
                cells = [percent((x <= r).sum(), n) for r in RADII] + [percent(((x <= r) & fine[s]).sum(), n) for r in RADII]
                row(label, n, f"{np.median(x):.0f}", f"{np.quantile(x, 0.95):.0f}", x.max(), *cells)
    refused = [f"of those refused, {r}" for r in RADII]
    notable = [f"with a move of {NOTABLE} or more, within 24", "of those refused"]
    head("Other colours", "what", "change", "pictures", *within, *refused, *notable, *(f"served, of all, {r}" for r in RADII))
    for part in ("whole", "part", "cut", "bottle luma", "bottle"):
        for name in dict.fromkeys(p.name[p.part == part]):
            s = (p.part == part) & (p.name == name)
            x, n = p.distance[s], s.sum()
            v = s & (p.distance <= 24) & (p.moved >= NOTABLE)
            cells = [percent((x <= r).sum(), n) for r in RADII]
            cells += [percent(((x <= r) & ~fine[s]).sum(), (x <= r).sum()) for r in RADII]
            cells += [v.sum(), percent((v & ~fine).sum(), v.sum())] if part in ("whole", "part", "cut") else ["-", "-"]
            row(part, name, n, *cells, *(percent(((x <= r) & fine[s]).sum(), n) for r in RADII))
    head("Different pictures", "set", "pictures", "pairs", "nearest", *within, *passing, *(f"95 % bound, {r}" for r in RADII))
    drawn = {k: v for k, v in groups.items() if k.startswith("drawn")}
    for name, group in [*groups.items(), ("drawn, all kinds", {k: v for g in drawn.values() for k, v in g.items()})]:
        keys = list(group)
        if len(keys) < 2:
            continue
        bits = np.array([group[k][0] for k in keys]).astype(np.int32)
        c = np.array([group[k][1][GRID] for k in keys]).astype(np.int32)
        x = bits @ (1 - bits).T
        i, j = np.triu_indices(len(keys), 1)
        x = (x + x.T)[i, j]
        hit = [(x <= r).sum() for r in RADII]
        near = x <= max(RADII)
        ok = METRICS[METRIC](c[i[near]], c[j[near]]) <= THRESHOLD
        both = [(x[near][ok] <= r).sum() for r in RADII]
        row(name, len(keys), len(x), x.min(), *hit, *both, *(f"{most(k, len(x)):.1e}" for k in both))
        for k in np.argsort(x)[:8]:  # to be looked at: are these two files of one picture?
            print(f"{name}: {x[k]} bits apart:", os.path.basename(keys[i[k]]), os.path.basename(keys[j[k]]), file=sys.stderr)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--limit", type=int, help="take the first LIMIT photos and cut-outs only")
    args.add_argument("folders", nargs="+", metavar="FOLDER")
    args = args.parse_args()
    photos, cuts = load(args.folders, args.limit)
    print(f"{len(photos)} photos, {len(cuts)} cut-outs; Pillow {PIL.__version__}, imagehash {imagehash.__version__}")
    if not photos:
        sys.exit("no photos there")
    pairs, groups = measure(photos, cuts)
    compare(pairs)
    report(pairs, groups)


if __name__ == "__main__":
    main()
