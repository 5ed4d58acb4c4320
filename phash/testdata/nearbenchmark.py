#!/usr/bin/env python3
"""Sets package phash/verify beside plain hashes, by the alterations of Thorn's benchmark `perception`.

    nearbenchmark.py [--side N] [--without NAME]... [--families FOLDER] OUT FOLDER...

FOLDER... have photos. OUT gets altered copies of each and a manifest.tsv of them, which measure_test.go reads as it reads that of
nearpairs.py. Then the table of pHash 16 (imagehash) and PDQ (pdqhash) is printed: how many copies are within the threshold at which
precision is 99.99 %. --without leaves out photos whose file names begin so: versions of another one, since the nearest two photos
decide the threshold. --families names the output of nearpairs.py: how many pictures of its families each hash answers wrongly at that
threshold. If OUT has a manifest.tsv, no pictures are written. Needs numpy, Pillow, imagehash and pdqhash. `make near-benchmark` runs
this and the measurement of the rule.
"""

import argparse
import csv
import itertools
import os
import sys
from importlib.metadata import version

import imagehash
import numpy as np
import pdqhash
from PIL import Image, ImageDraw, ImageFilter

from nearmeasure import cropped, encoded, gamma, scaled, seed
from nearpairs import Writer, font, halves, photos_below

# --- alterations ---

# The names and parameters are those of perception's documentation up to 0.8.2 (docs/examples/benchmarking.rst, with imgaug); resize0.5
# is in its table only. From 0.8.3 on that page has albumentations, by which some of the same numbers mean something else. All are
# applied to a picture whose longer side is 256 pixels and which was kept as a JPEG, as its alterations are, of the quality of OpenCV.
SIDE = 256
KEPT = 95


def watermark(img):
    """A word at the lower left that is a fifth as wide as the picture: black, 200 of 255 opaque. The font is Pillow's, made bold."""
    bold, size = 1, 8
    d = ImageDraw.Draw(img)
    while d.textlength("TEST", font(size + 1)) + 2 * bold <= 0.2 * img.width:
        size += 1
    mask = Image.new("L", img.size)
    height = d.textbbox((0, 0), "TEST", font(size), anchor="ls", stroke_width=bold)
    at = (height[3] - height[1], img.height - (height[3] - height[1]))
    ImageDraw.Draw(mask).text(at, "TEST", 200, font(size), anchor="ls", stroke_width=bold, stroke_fill=200)
    out = img.copy()
    out.paste((0, 0, 0), mask=mask)
    return out


def vignette(img):
    """Darker by a Gaussian of half a side: 0.61 of the light is left in the middle of a side, 0.37 in a corner."""
    fall = lambda n: np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 2)) ** 2)
    light = fall(img.height)[:, None] * fall(img.width)[None, :]
    return Image.fromarray(np.uint8(np.asarray(img) * (light / light.max())[:, :, None]))


def padded(img):
    """Black bands above and below, each a fifth of the height."""
    band = round(0.2 * img.height)
    out = Image.new("RGB", (img.width, img.height + 2 * band))
    out.paste(img, (0, band))
    return out


def noise(img):
    """The same for red, green and blue; sigma is a fifth of 255."""
    a = np.asarray(img) + seed("benchmark", img.tobytes()).normal(0, 0.2 * 255, (img.height, img.width, 1))
    return Image.fromarray(np.uint8(np.clip(np.round(a), 0, 255)))


ALTERATIONS = {
    "noop": lambda i: i,
    "resize0.5": lambda i: scaled(i, 0.5),
    "jpeg95": lambda i: encoded(i, "JPEG", quality=7),  # 95 is how strongly imgaug compresses, of 0 to 100; it writes quality 7
    "blur2": lambda i: i.filter(ImageFilter.GaussianBlur(2)),
    "noise0.2": noise,
    "gamma2": lambda i: gamma(i, 1 / 2),  # darker: the square of what is of 0 to 1
    "vignette": vignette,
    "watermark": watermark,
    "crop0.05": lambda i: cropped(i, 0.05),  # of each side
    "rotate4": lambda i: i.rotate(-4, Image.Resampling.BILINEAR),  # the corners are black, and what turns out of the picture is lost
    "pad0.2": padded,
}


def write(folder, photos, side):
    out = Writer(folder)
    for half, names in halves(photos).items():
        for name in names:
            img = photos[name]
            img = scaled(img, side / max(img.size))
            original = out.save(img, KEPT)
            with Image.open(os.path.join(folder, original)) as f:
                img = f.convert("RGB")
            for alteration, alter in ALTERATIONS.items():
                copy = original if alteration == "noop" else out.save(alter(img), KEPT)
                out.row("copy", alteration, half, original, copy, "-")
    out.close()


# --- plain hashes ---

HASHES = {
    "pHash 16": lambda img: imagehash.phash(img, hash_size=16).hash.ravel(),
    "PDQ": lambda img: pdqhash.compute(np.asarray(img.convert("RGB")))[0],
}


def hashed(folder, files):
    """By hash, an array of the bits of each file, as -1 and 1."""
    out = {name: [] for name in HASHES}
    for n, f in enumerate(files):
        with Image.open(os.path.join(folder, f)) as img:
            img.load()
            for name, of in HASHES.items():
                out[name].append(of(img))
        if n % 50 == 0:
            print(f"\rhashed {n} of {len(files)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return {name: 2 * np.array(v, np.float32) - 1 for name, v in out.items()}


def apart(a, b):
    return np.rint((a.shape[1] - a @ b.T) / 2).astype(int)


def manifest(folder, kind):
    with open(os.path.join(folder, "manifest.tsv"), newline="") as f:
        return [r for r in csv.reader(f, delimiter="\t") if r[0] == kind]


def threshold(right, wrong, precision=0.9999):
    """The threshold by which most copies are found, as perception takes it, or -1.

    right has the distance of each copy from its original, wrong that from the nearest other picture. A copy is a true positive at a
    threshold if its original is within it, and a false positive if another picture is. Precision is as asked at all lower thresholds
    too.
    """
    best = -1
    for t in range(257):
        true, false = (right <= t).sum(), (wrong <= t).sum()
        if true + false and true / (true + false) < precision:
            break
        if (right == t).any():
            best = t
    return best


def line(*fields):
    print("| " + " | ".join(str(f) for f in fields) + " |")


def share(found):
    return f"{100 * found.mean():.1f}" if 0 < found.sum() < len(found) else str(100 * int(found.all()))


def plain(folder):
    """Prints recall by alteration and returns the threshold of each hash for all of them."""
    rows = manifest(folder, "copy")
    files = sorted({r[3] for r in rows} | {r[4] for r in rows})
    number = {f: n for n, f in enumerate(files)}
    originals = sorted({r[3] for r in rows})
    same = np.array([[r[3] == o for o in originals] for r in rows])
    group = np.array([r[1] for r in rows])
    right, wrong, pairs = {}, {}, {}
    for name, bits in hashed(folder, files).items():
        d = apart(bits[[number[r[4]] for r in rows]], bits[[number[o] for o in originals]])
        right[name], wrong[name] = d[same], np.where(same, 257, d).min(1)
        pairs[name] = d[~same]
    limit = {name: threshold(right[name], wrong[name]) for name in HASHES}
    print(f"\n{len(originals)} photos, {len(rows)} copies, {(~same).sum()} pairs of a copy and another photo")
    print(", ".join(f"{p} {version(p)}" for p in ("pillow", "numpy", "imagehash", "pdqhash")) + "\n")
    for name in HASHES:
        within = int((pairs[name] <= limit[name]).sum())
        print(f"{name}: {limit[name]} bits for all, {within} pairs of different photos within them, the nearest {pairs[name].min()} bits apart")
    print()
    head = ["alteration", "copies"]
    for name in HASHES:
        head += [f"{name}, own threshold, bits", "found, %", f"at {limit[name]} bits, %", "furthest copy, bits"]
    line(*head)
    line(*["---"] * len(head))
    for alteration in [*ALTERATIONS, "all"]:
        here = np.isin(group, alteration) if alteration != "all" else np.ones(len(rows), bool)
        fields = [alteration, here.sum()]
        for name in HASHES:
            own = threshold(right[name][here], wrong[name][here])
            fields += [own, share(right[name][here] <= own), share(right[name][here] <= limit[name]), right[name][here].max()]
        line(*fields)
    return limit


def families(folder, limit):
    """Asks the pictures of each family one by one of those before: the nearest within the threshold answers, of equals the first."""
    rows = [r for r in manifest(folder, "picture") if r[1] != "photos"]
    bits = hashed(folder, [r[3] for r in rows])
    print()
    line("family", "pictures", *(f"{name}, wrong {how}" for name in HASHES for how in (f"at {limit[name]} bits", "at 0 bits")))
    line(*["---"] * (2 + 2 * len(HASHES)))
    count, total = {}, {}
    at = 0
    for (family, half), some in itertools.groupby(rows, lambda r: (r[1], r[2])):
        some = list(some)
        content = np.array([r[4] for r in some])
        for name in HASHES:
            b = bits[name][at : at + len(some)]
            d = apart(b, b)
            for most in (limit[name], 0):
                wrong = 0
                for n in range(1, len(some)):
                    k = d[n, :n].argmin()
                    wrong += d[n, k] <= most and content[k] != content[n]
                for key, of in (((family, name, most > 0), count), ((name, most > 0), total)):
                    of[key] = of.get(key, 0) + int(wrong)
        count[family] = count.get(family, 0) + len(some)
        at += len(some)
    for family in dict.fromkeys(r[1] for r in rows):
        line(family, count[family], *(count[family, name, far] for name in HASHES for far in (True, False)))
    line("all", at, *(total[name, far] for name in HASHES for far in (True, False)))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--side", type=int, default=SIDE, help="pixels of the longer side of a photo (%(default)s)")
    args.add_argument("--without", metavar="NAME", action="append", default=[])
    args.add_argument("--families", metavar="FOLDER")
    args.add_argument("out", metavar="OUT")
    args.add_argument("folders", nargs="+", metavar="FOLDER")
    args = args.parse_args()
    if not os.path.exists(os.path.join(args.out, "manifest.tsv")):
        photos = {n: p for n, p in photos_below(args.folders).items() if not n.startswith(tuple(args.without))}
        if len(photos) < 2:
            sys.exit(f"got {len(photos)} photos in {args.folders}, want some hundred: name a folder that has them")
        write(args.out, photos, args.side)
    limit = plain(args.out)
    if args.families:
        families(args.families, limit)


if __name__ == "__main__":
    main()
