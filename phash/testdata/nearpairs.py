#!/usr/bin/env python3
"""Writes the pictures by which package phash/verify is measured, and a list of them.

    nearpairs.py [--photos N] [--each N] [--palettes] OUT FOLDER...

FOLDER... have photos, which are brought to 480 pixels at most. OUT gets the pictures and manifest.tsv, whose columns are:

    copy     alteration  half  original  copy      -
    change   change      half  original  changed   how far the chroma of the changed part moved, on average; - if luma changed
    picture  family      half  file      content   -

The two pictures of a copy are the same picture, those of a change are not. Two pictures of a family are the same if their content
is. Each picture belongs to half A, on which limits are chosen, or to half B, on which they are reported; families in UNSEEN have a
half B only. --photos is the number of photos of each half that are altered (40), --each that of pictures of a family in each half
(60). With --palettes there are rows too whose names end with ", 256 colours": entries, changes, and families of which every second
picture has a palette. Seeds are fixed. Needs numpy and Pillow. `make near` runs this and the measurement.
"""

import argparse
import csv
import hashlib
import math
import os
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from nearmeasure import BOX, LANCZOS, SAME, SIDE, bottle, backdrop, cropped, ellipse, encoded, recolour, scaled, seed, thing, WHITE

# --- alterations beyond those of nearmeasure.py ---


def box_cropped(img, left, top, right, bottom):
    w, h = img.size
    return img.crop((round(left * w), round(top * h), w - round(right * w), h - round(bottom * h)))


def watermark(img):
    out = img.copy()
    size = max(img.height // 18, 10)
    d = ImageDraw.Draw(out)
    box = d.textbbox((0, 0), "photo.example", font(size))
    at = (img.width - box[2] - size // 2, img.height - box[3] - size // 2)
    d.text((at[0] + 1, at[1] + 1), "photo.example", (0, 0, 0), font(size))
    d.text(at, "photo.example", (255, 255, 255), font(size))
    return out


def degree(img):
    """Turned by one degree and cropped to what is left."""
    t = math.radians(1)
    w, h = img.size
    dx, dy = math.ceil(h * math.sin(t) / 2) + 1, math.ceil(w * math.sin(t) / 2) + 1
    return img.rotate(1, Image.Resampling.BICUBIC).crop((dx, dy, w - dx, h - dy))


def letterbox(img):
    side = max(img.size)
    out = Image.new("RGB", (side, side))
    out.paste(img, ((side - img.width) // 2, (side - img.height) // 2))
    return out


def bordered(img, share=0.01):
    m = max(round(share * max(img.size)), 1)
    out = Image.new("RGB", (img.width + 2 * m, img.height + 2 * m), (255, 255, 255))
    out.paste(img, (m, m))
    return out


COPIES = {
    n: SAME[n]
    for n in (
        "JPEG q95, 4:2:0", "JPEG q75, 4:2:0", "JPEG q40, 4:2:0", "0.5x, then JPEG q60", "resize 0.25x", "resize 2x",
        "256 colours (as in a GIF)", "64 colours", "sharpen", "blur, radius 1.5", "noise, sigma 8", "brightness 0.8",
        "brightness 1.2", "contrast 0.8", "contrast 1.2", "gamma 1.2", "gamma 1/1.2", "saturation 0.8", "saturation 1.4",
        "warmer (red x 1.05, blue x 0.95)", "cooler (red x 0.95, blue x 1.05)", "crop 0.5 % a side", "crop 1 % a side",
    )
} | {
    "crop 2 % a side": lambda i: cropped(i, 0.02),
    "crop 3.6 % a side": lambda i: cropped(i, 0.036),
    "crop 5 % a side": lambda i: cropped(i, 0.05),
    "crop 6 % left only": lambda i: box_cropped(i, 0.06, 0, 0, 0),
    "crop 4 % top, 1 % right": lambda i: box_cropped(i, 0, 0.04, 0.01, 0),
    "watermark in a corner": watermark,
    "turned 1 degree": degree,
    "letterbox to square": letterbox,
    "white border 1 %": bordered,
    "turned 90": lambda i: i.transpose(Image.Transpose.ROTATE_90),
    "turned 180": lambda i: i.transpose(Image.Transpose.ROTATE_180),
    "mirrored": lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "0.4x, JPEG q70, crop 2 %": lambda i: encoded(cropped(scaled(i, 0.4), 0.02), "JPEG", quality=70),
    # as files that have a palette, in the places that they have in SAME
    "256 colours (as in a GIF)": lambda i: i.quantize(256),
    "64 colours": lambda i: i.quantize(64),
}  # fmt: skip
ENTRY_CROPPED = "entry is the 5 % crop"
ENTRY_PALETTE = "entry has 256 colours"
IN_PALETTE = ", 256 colours"
FAMILY_COPIES = ("JPEG q40, 4:2:0", "0.5x, then JPEG q60", "resize 0.25x", "crop 1 % a side", "brightness 0.8", "crop 5 % a side")
AS_JPEG = {"JPEG q95, 4:2:0": 95, "JPEG q75, 4:2:0": 75, "JPEG q40, 4:2:0": 40}

# --- what families are drawn with ---


def font(size, cache={}):
    if size not in cache:
        cache[size] = ImageFont.load_default(size)
    return cache[size]


INK, PAPER = (30, 32, 36), (246, 245, 240)
WORDS = (
    "river stone window paper green winter market train letter garden bottle morning bridge silver answer corner music doctor "
    "summer island yellow basket engine planet ticket number street button kitchen pocket forest mirror candle butter"
).split()
NAMES = "Adler Brandt Castro Diallo Ekberg Fontaine Gruber Haddad Ivanov Jansen Kimura Lopez Moreau Novak Okafor Petrov".split()


def words(rng, n):
    return " ".join(rng.choice(WORDS, n))


def digits(rng, n):
    return "".join(str(v) for v in rng.integers(0, 10, n))


def money(rng):
    return f"{rng.integers(1, 99)}.{digits(rng, 2)}"


def colour(rng, low=20, high=235):
    return tuple(int(v) for v in rng.integers(low, high, 3))


def jpeg(img, quality=88):
    return encoded(img, "JPEG", quality=quality)


def shot(img, rng, noise=2.0, light=0.03, move=0):
    """The picture as a camera takes it: light a little different, moved by up to some pixels, noise, JPEG."""
    if move:
        dx, dy = (int(v) for v in rng.integers(-move, move + 1, 2))
        img = img.transform(img.size, Image.Transform.AFFINE, (1, 0, dx, 0, 1, dy), fillcolor=img.getpixel((1, 1)))
    a = np.asarray(img).astype(np.float32) * rng.uniform(1 - light, 1 + light) + rng.normal(0, noise, (img.height, img.width, 3))
    return jpeg(Image.fromarray(np.uint8(np.clip(a + 0.5, 0, 255))))


def surface(rng, size=(480, 360), tone=None):
    tone = tone or colour(rng, 90, 220)
    return Image.fromarray(np.uint8(backdrop(rng, tone, size)))


def clutter(d, rng, n, box, least=8, most=70):
    for _ in range(n):
        x, y = rng.uniform(box[0], box[2]), rng.uniform(box[1], box[3])
        w, h = rng.uniform(least, most, 2)
        kind = rng.integers(3)
        if kind == 0:
            d.rectangle((x - w / 2, y - h / 2, x + w / 2, y + h / 2), colour(rng))
        elif kind == 1:
            d.ellipse((x - w / 2, y - h / 2, x + w / 2, y + h / 2), colour(rng))
        else:
            d.polygon([(x + w * rng.uniform(-1, 1), y + h * rng.uniform(-1, 1)) for _ in range(4)], colour(rng))


# Each family is a function of a generator for the layout, one for the content, and one for the shot. The layout is the same for all
# pictures of a layout, and the content for those of one content.


def f_bin(layout, content, again):
    img = surface(layout, tone=colour(layout, 60, 130))
    d = ImageDraw.Draw(img)
    d.rounded_rectangle((70, 30, 410, 340), 24, colour(layout, 30, 90), colour(layout, 120, 200), 9)
    clutter(d, layout, 26, (110, 70, 370, 300))
    for _ in range(content.integers(1, 3)):
        x, y, s = content.uniform(120, 360), content.uniform(80, 290), content.uniform(7, 22)
        d.ellipse((x - s, y - s * 0.7, x + s, y + s * 0.7), colour(content))
    return shot(img, again, 2.5)


def f_meter(layout, content, again):
    img = surface(layout)
    d = ImageDraw.Draw(img)
    x, y, s = layout.integers(60, 130), layout.integers(110, 190), int(layout.integers(26, 42))
    d.ellipse((40, 10, 440, 350), colour(layout, 150, 230), colour(layout), 8)
    d.text((x, y - 50), words(layout, 2), INK, font(20))
    d.rectangle((x - 8, y - 6, x + 6 * s + 8, y + s * 1.35), (24, 24, 26))
    for i, c in enumerate("004" + digits(content, 3)):
        d.text((x + i * s + s * 0.2, y), c, (235, 235, 230) if i < 5 else (220, 60, 50), font(s))
    return shot(img, again, 2)


def f_dialog(layout, content, again):
    img = Image.new("RGB", (480, 320), colour(layout, 40, 160))
    d = ImageDraw.Draw(img)
    d.rectangle((50, 50, 430, 260), (240, 240, 240), (90, 90, 90))
    d.rectangle((50, 50, 430, 76), colour(layout, 30, 120))
    d.text((60, 54), words(layout, 2), (255, 255, 255), font(16))
    d.text((80, 100), words(layout, 4), INK, font(16))
    d.text((80, 130), f"Error {digits(content, 3)}: {words(layout, 2)}", INK, font(16))
    d.text((80, 156), words(layout, 5), INK, font(14))
    for i, t in enumerate(("Cancel", "OK")):
        d.rectangle((250 + 90 * i, 215, 330 + 90 * i, 242), (222, 222, 222), (120, 120, 120))
        d.text((268 + 90 * i, 219), t, INK, font(15))
    return img


def f_form(layout, content, again):
    img = Image.new("RGB", (420, 520), PAPER)
    d = ImageDraw.Draw(img)
    d.text((30, 20), words(layout, 3).title(), INK, font(24))
    pick = content.integers(0, 9)
    for i in range(9):
        y = 76 + 46 * i
        d.text((30, y), words(layout, 1).title(), (90, 90, 95), font(13))
        d.rectangle((150, y - 6, 390, y + 24), (255, 255, 255), (140, 140, 140))
        old, new = words(layout, 2), words(content, 2)
        d.text((158, y - 2), new if i == pick else old, INK, font(16))
    return shot(img, again, 1.5, 0.02)


def f_label(layout, content, again):
    img = surface(layout, (480, 480))
    d = ImageDraw.Draw(img)
    d.rectangle((70, 60, 410, 420), colour(layout, 180, 250))
    d.rectangle((70, 60, 410, 170), colour(layout, 20, 180))
    d.text((90, 85), layout.choice(WORDS).title(), (255, 255, 255), font(44))
    for i in range(5):
        d.text((90, 190 + 24 * i), words(layout, 4), INK, font(15))
    d.text((90, 335), f"LOT {digits(content, 5)}", INK, font(18))
    d.text((90, 365), f"EXP {content.integers(1, 13):02d}/{content.integers(26, 30)}", INK, font(18))
    return shot(img, again, 3, 0.04, 3)


def chat(layout, content, dark):
    back, theirs, mine, ink = ((18, 22, 28), (38, 44, 52), (0, 92, 75), (230, 232, 235)) if dark else ((236, 229, 221), (255, 255, 255), (217, 253, 211), INK)
    img = Image.new("RGB", (360, 640), back)
    d = ImageDraw.Draw(img)
    d.rectangle((0, 0, 360, 56), (32, 44, 51) if dark else (0, 128, 105))
    d.text((60, 16), layout.choice(NAMES), (255, 255, 255), font(20))
    y = 76
    which = int(content.integers(0, 7))
    for i in range(7):
        right, n = layout.integers(2), int(layout.integers(2, 5))
        said, other = words(layout, n), words(content, n)
        t = other if i == which else said
        w = min(d.textlength(t, font(16)) + 24, 300)
        x = 350 - w if right else 10
        d.rounded_rectangle((x, y, x + w, y + 44), 10, mine if right else theirs)
        d.text((x + 10, y + 10), t, ink, font(16))
        y += 74
    return img


def f_chatlight(layout, content, again):
    return jpeg(chat(layout, content, False), 80)


def f_chatdark(layout, content, again):
    return jpeg(chat(layout, content, True), 80)


def f_letter(layout, content, again):
    img = Image.new("RGB", (440, 600), (252, 252, 250))
    d = ImageDraw.Draw(img)
    d.text((40, 30), words(layout, 2).upper(), colour(layout, 20, 120), font(26))
    d.text((40, 100), f"Dear {content.choice(NAMES)},", INK, font(15))
    place = layout.integers(2, 12)
    for i in range(14):
        t = words(layout, 6)
        if i == place:
            t = f"{words(layout, 3)} {money(content)} {words(layout, 1)}"
        d.text((40, 135 + 28 * i), t, INK, font(14))
    return shot(img, again, 2, 0.02)


def f_receipt(layout, content, again):
    img = Image.new("RGB", (320, 600), (244, 243, 240))
    d = ImageDraw.Draw(img)
    d.text((80, 20), words(layout, 1).upper(), INK, font(28))
    which = content.integers(0, 13)
    for i in range(13):
        d.text((24, 80 + 32 * i), words(layout, 2), INK, font(15))
        a, b = money(layout), money(content)
        d.text((240, 80 + 32 * i), b if i == which else a, INK, font(15))
    d.text((24, 520), "TOTAL", INK, font(20))
    d.text((220, 520), str(content.integers(30, 99)) + ".50", INK, font(20))
    return shot(img, again, 2.5, 0.03)


def f_slide(layout, content, again):
    img = Image.new("RGB", (640, 360), (255, 255, 255))
    d = ImageDraw.Draw(img)
    d.rectangle((0, 0, 640, 70), colour(layout, 10, 140))
    d.text((30, 18), words(layout, 3).title(), (255, 255, 255), font(30))
    which = content.integers(0, 5)
    for i in range(5):
        a, b = words(layout, 4), words(content, 4)
        d.ellipse((40, 108 + 46 * i, 48, 116 + 46 * i), INK)
        d.text((60, 100 + 46 * i), b if i == which else a, INK, font(20))
    d.text((600, 335), str(content.integers(1, 40)), (120, 120, 120), font(13))
    return img


def f_meme(layout, content, again):
    img = PHOTOS[layout.integers(len(PHOTOS))].copy()
    d = ImageDraw.Draw(img)
    t = words(content, 2).upper()
    size = img.width // 12
    d.text(((img.width - d.textlength(t, font(size))) / 2, img.height - size * 1.6), t, (255, 255, 255), font(size), stroke_width=2, stroke_fill=(0, 0, 0))
    return jpeg(img, 80)


def f_variant(layout, content, again):
    img = PHOTOS[layout.integers(len(PHOTOS))].copy()
    d = ImageDraw.Draw(img)
    x, y = layout.uniform(0.1, 0.6) * img.width, layout.uniform(0.1, 0.8) * img.height
    d.rounded_rectangle((x, y, x + 96, y + 38), 6, (255, 220, 40))
    d.text((x + 10, y + 6), money(content), (20, 20, 20), font(24))
    return shot(img, again, 2)


def f_chart(layout, content, again):
    img = Image.new("RGB", (480, 340), (255, 255, 255))
    d = ImageDraw.Draw(img)
    d.text((40, 12), words(layout, 3).title(), INK, font(18))
    ink = colour(layout)
    which = content.integers(0, 10)
    for i in range(10):
        h = layout.uniform(60, 230)
        if i == which:
            h += content.choice([-1, 1]) * 8 * content.integers(1, 6)
        d.rectangle((50 + 42 * i, 300 - h, 78 + 42 * i, 300), ink)
    d.line((40, 300, 470, 300), INK, 2)
    return jpeg(img, 85)


def f_night(layout, content, again):
    img = Image.new("RGB", (480, 360), (10, 11, 15))
    d = ImageDraw.Draw(img)
    for _ in range(14):
        x, y, w, h = layout.uniform(0, 480), layout.uniform(150, 360), layout.uniform(20, 90), layout.uniform(20, 120)
        d.rectangle((x, y - h, x + w, y), tuple(int(v) for v in layout.integers(12, 40, 3)))
    for _ in range(3):
        x, y = layout.uniform(0, 480), layout.uniform(30, 150)
        d.ellipse((x - 4, y - 4, x + 4, y + 4), (250, 240, 200))
    img = img.filter(ImageFilter.GaussianBlur(1.2))
    d = ImageDraw.Draw(img)
    x, y, s = content.uniform(40, 440), content.uniform(180, 330), content.uniform(10, 26)
    d.ellipse((x - s / 3, y - s, x + s / 3, y), tuple(int(v) for v in content.integers(35, 70, 3)))
    return shot(img, again, 4, 0.02)


def f_drawn(kind):
    return lambda layout, content, again: thing(kind, content)


def f_shelf(layout, content, again):
    img = surface(layout, (560, 400))
    d = ImageDraw.Draw(img)
    which = content.integers(0, 27)
    for i in range(27):
        x, y = 20 + 58 * (i % 9), 20 + 128 * (i // 9)
        a, b = layout.spawn(1)[0], content.spawn(1)[0]
        g = b if i == which else a
        h = layout.uniform(70, 105)
        d.rectangle((x, y + 110 - h, x + 44, y + 110), colour(g))
        d.rectangle((x + 5, y + 140 - h, x + 39, y + 160 - h), colour(g))
    for r in range(3):
        d.rectangle((0, 132 + 128 * r, 560, 140 + 128 * r), (120, 90, 60))
    return shot(img, again, 2.5, 0.03)


def f_keyboard(layout, content, again):
    """A keyboard on which one key lights."""
    img = surface(layout, (560, 260), colour(layout, 40, 90))
    d = ImageDraw.Draw(img)
    tone = int(layout.integers(30, 200))
    lit = content.integers(0, 48)
    for i in range(48):
        x, y = 20 + 43 * (i % 12), 30 + 52 * (i // 12)
        t = tone + (30 if i == lit else 0)
        d.rounded_rectangle((x, y, x + 38, y + 44), 5, (t, t, t + 4))
        d.text((x + 12, y + 8), chr(65 + (i * 7) % 26), (240, 240, 240) if tone < 120 else INK, font(17))
    return shot(img, again, 2.5, 0.03)


def f_remote(layout, content, again):
    """A remote control that lacks one button."""
    img = surface(layout, (300, 560))
    d = ImageDraw.Draw(img)
    d.rounded_rectangle((80, 20, 220, 540), 30, colour(layout, 20, 60))
    gone = content.integers(0, 24)
    for i in range(24):
        x, y = 110 + 40 * (i % 3), 70 + 56 * (i // 3)
        ink = colour(layout, 90, 230)
        if i != gone:
            d.ellipse((x - 12, y - 12, x + 12, y + 12), ink)
    return shot(img, again, 2.5, 0.03)


def f_lights(layout, content, again):
    """A street with traffic lights far away, of which one of three is lit, and the time on a clock tower."""
    img = surface(layout, (560, 400), colour(layout, 120, 220))
    d = ImageDraw.Draw(img)
    clutter(d, layout, 40, (0, 160, 560, 400), 20, 120)
    x, y = layout.uniform(60, 500), layout.uniform(40, 120)
    d.rectangle((x, y, x + 20, y + 54), (20, 20, 22))
    on = content.integers(0, 3)
    for i, c in enumerate(((230, 40, 30), (240, 180, 30), (40, 200, 90))):
        d.ellipse((x + 3, y + 3 + 17 * i, x + 17, y + 17 + 17 * i), c if i == on else tuple(v // 5 for v in c))
    x, y = layout.uniform(60, 500), layout.uniform(60, 140)
    hand(d, x, y, 16, content.uniform(0, 2 * math.pi), 2)
    return shot(img, again, 2.5, 0.03)


def hand(d, x, y, r, angle, width):
    d.line((x, y, x + r * math.sin(angle), y - r * math.cos(angle)), INK, width)


def f_clock(layout, content, again):
    img = surface(layout, (400, 400))
    d = ImageDraw.Draw(img)
    d.ellipse((60, 60, 340, 340), (245, 244, 238), colour(layout), 10)
    for i in range(12):
        a = i * math.pi / 6
        d.text((192 + 112 * math.sin(a), 190 - 112 * math.cos(a)), str(i or 12), INK, font(18))
    minutes = int(content.integers(0, 720))
    hand(d, 200, 200, 70, minutes * math.pi / 360, 7)
    hand(d, 200, 200, 105, minutes * math.pi / 30, 4)
    return shot(img, again, 2, 0.02)


def f_card(layout, content, again):
    """A card with another face and number, flat on a scanner."""
    img = Image.new("RGB", (560, 350), colour(layout, 190, 240))
    d = ImageDraw.Draw(img)
    for i in range(0, 560, 14):
        d.line((i, 0, 560 - i, 350), colour(layout, 170, 230))
    d.text((30, 20), "IDENTITY CARD", colour(layout, 20, 90), font(24))
    d.rectangle((30, 70, 170, 260), (215, 220, 226))
    skin, hair = tuple(int(v) for v in np.array([225, 185, 155]) * content.uniform(0.55, 1.05)), colour(content, 15, 130)
    d.ellipse((65, 95, 135, 190), hair)
    d.ellipse((70, 110, 130, 195), skin)
    d.ellipse((50, 200, 150, 300), colour(content, 30, 200))
    d.rectangle((30, 261, 170, 310), colour(layout, 200, 201))
    for i, (k, v) in enumerate((("Name", content.choice(NAMES)), ("Born", f"{content.integers(1, 29):02d}.{content.integers(1, 13):02d}.{content.integers(1950, 2005)}"), ("No", digits(content, 9)))):
        d.text((200, 80 + 60 * i), k, (100, 100, 110), font(13))
        d.text((200, 96 + 60 * i), v, INK, font(22))
    return shot(img, again, 1.5, 0.015)


def f_parcel(layout, content, again):
    img = surface(layout, (480, 480), (176, 140, 100))
    d = ImageDraw.Draw(img)
    d.rectangle((80, 70, 400, 410), (248, 248, 246))
    d.text((100, 85), words(layout, 1).upper(), INK, font(34))
    d.text((100, 140), content.choice(NAMES), INK, font(18))
    d.text((100, 165), f"{words(content, 1).title()} street {content.integers(1, 99)}", INK, font(18))
    d.text((100, 190), f"{digits(content, 5)} {words(layout, 1).title()}", INK, font(18))
    x = 100
    while x < 380:
        w = int(content.integers(1, 5))
        d.rectangle((x, 240, x + w, 330), INK)
        x += w + int(content.integers(2, 5))
    d.text((130, 340), digits(content, 12), INK, font(18))
    return shot(img, again, 3, 0.04, 3)


def f_blister(layout, content, again):
    """A blister pack of which one pill is missing."""
    img = surface(layout, (480, 320))
    d = ImageDraw.Draw(img)
    foil = int(layout.integers(170, 215))
    d.rounded_rectangle((40, 40, 440, 280), 14, (foil, foil, foil + 5))
    pill = colour(layout, 120, 245)
    gone = content.integers(0, 28)
    for i in range(28):
        x, y = 78 + 54 * (i % 7), 76 + 56 * (i // 7)
        d.ellipse((x - 20, y - 16, x + 20, y + 16), (foil - 25, foil - 25, foil - 22))
        if i != gone:
            d.ellipse((x - 14, y - 10, x + 14, y + 10), pill)
    return shot(img, again, 2.5, 0.03, 1)


def f_chess(layout, content, again):
    img = Image.new("RGB", (416, 416), (60, 50, 44))
    d = ImageDraw.Draw(img)
    full = [bool(v) for v in layout.uniform(size=64) < 0.4]
    tones = [(235, 230, 215) if v else (25, 25, 28) for v in layout.uniform(size=64) < 0.5]
    move = [i for i in range(64) if full[i]], [i for i in range(64) if not full[i]]
    a, b = content.choice(move[0]), content.choice(move[1])
    full[a], full[b], tones[b] = False, True, tones[a]
    for i in range(64):
        x, y = 8 + 50 * (i % 8), 8 + 50 * (i // 8)
        d.rectangle((x, y, x + 49, y + 49), (214, 180, 130) if (i + i // 8) % 2 else (140, 96, 60))
        if full[i]:
            d.ellipse((x + 12, y + 10, x + 38, y + 40), tones[i], (90, 90, 90))
    return shot(img, again, 2, 0.03)


def f_seats(layout, content, again):
    """A plan of seats of which another one is taken."""
    img = Image.new("RGB", (560, 400), (250, 250, 252))
    d = ImageDraw.Draw(img)
    d.rectangle((160, 12, 400, 34), (180, 184, 190))
    taken = layout.uniform(size=160) < 0.5
    taken[content.integers(0, 160)] ^= True
    for i, t in enumerate(taken):
        x, y = 30 + 25 * (i % 20), 60 + 40 * (i // 20)
        d.rounded_rectangle((x, y, x + 18, y + 18), 4, (196, 198, 204) if t else (70, 150, 90))
    return img


def f_gauge(layout, content, again):
    img = surface(layout, (480, 360))
    d = ImageDraw.Draw(img)
    d.ellipse((100, 40, 380, 320), (240, 240, 236), colour(layout, 20, 120), 10)
    for i in range(25):
        a = math.radians(-120 + 10 * i)
        d.line((240 + 110 * math.sin(a), 180 - 110 * math.cos(a), 240 + 125 * math.sin(a), 180 - 125 * math.cos(a)), INK, 3)
    hand(d, 240, 180, 100, math.radians(content.uniform(-120, 120)), 4)
    d.ellipse((230, 170, 250, 190), INK)
    return shot(img, again, 2.5, 0.03)


def f_plate(layout, content, again):
    """A car with another number plate."""
    img = surface(layout, (560, 360), colour(layout, 110, 190))
    d = ImageDraw.Draw(img)
    clutter(d, layout, 14, (0, 0, 560, 120), 30, 120)
    body = colour(layout)
    d.rounded_rectangle((90, 90, 470, 300), 50, body)
    d.rounded_rectangle((140, 105, 420, 180), 26, (40, 46, 54))
    d.ellipse((105, 200, 165, 245), (220, 60, 50))
    d.ellipse((395, 200, 455, 245), (220, 60, 50))
    d.rectangle((210, 240, 350, 276), (245, 245, 245), INK, 2)
    d.text((220, 243), f"{chr(65 + content.integers(26))}{chr(65 + content.integers(26))} {digits(content, 4)}", INK, font(26))
    return shot(img, again, 2.5, 0.03)


def f_parking(layout, content, again):
    """A car park from above, where one car has come or gone."""
    img = surface(layout, (560, 400), (96, 98, 102))
    d = ImageDraw.Draw(img)
    full = layout.uniform(size=40) < 0.6
    full[content.integers(0, 40)] ^= True
    for i, f in enumerate(full):
        x, y = 12 + 54 * (i % 10), 14 + 100 * (i // 10) - 8 * (i // 10 % 2)
        d.line((x, y, x, y + 76), (220, 220, 220), 2)
        ink = colour(layout)
        if f:
            d.rounded_rectangle((x + 9, y + 8, x + 44, y + 70), 9, ink)
            d.rectangle((x + 14, y + 22, x + 39, y + 34), (36, 40, 46))
    return shot(img, again, 3, 0.04)


def f_plain(layout, content, again):
    """An empty surface."""
    return shot(surface(content, tone=(int(content.integers(60, 230)),) * 3), again, 2)


def f_faint(layout, content, again):
    """A surface with one disc that hardly stands out."""
    tone = int(content.integers(60, 220))
    img = surface(layout, tone=(tone,) * 3)
    x, y, s, by = content.uniform(80, 400), content.uniform(80, 280), content.uniform(8, 60), content.integers(4, 40)
    ImageDraw.Draw(img).ellipse((x - s, y - s, x + s, y + s), (tone + int(by) - 20,) * 3)
    return shot(img.filter(ImageFilter.GaussianBlur(1)), again, 2)


def f_corner(layout, content, again):
    """A photo with another date in the corner, such as cameras print it."""
    img = PHOTOS[layout.integers(len(PHOTOS))].copy()
    d = ImageDraw.Draw(img)
    size = max(img.height // 18, 10)
    t = f"20{content.integers(10, 27)}-{content.integers(1, 13):02d}-{content.integers(1, 29):02d}"
    d.text((img.width - d.textlength(t, font(size)) - 8, img.height - size * 1.5), t, (255, 190, 60), font(size))
    return jpeg(img, 85)


FAMILIES = {n[2:]: f for n, f in list(globals().items()) if n.startswith("f_") and n != "f_drawn"}
FAMILIES |= {f"drawn {k}": f_drawn(k) for k in ("bottle", "can", "box", "ball")}
UNSEEN = ("shelf", "keyboard", "remote", "lights", "clock", "card", "parcel", "blister", "chess", "seats", "gauge", "plate", "parking")
PER_LAYOUT = 30  # pictures
REPEATS = 0.1  # the share of pictures that show the content of an earlier one
PHOTOS = []


def family(name, half, each):
    """The pictures of a family and what each shows."""
    known = []
    for n in range(each):
        number = n // PER_LAYOUT
        rng = seed(name, half, n)
        here = [c for c in known if c[0] == number]
        if here and rng.uniform() < REPEATS:
            content = here[rng.integers(len(here))]
        else:
            content = (number, n)
            known.append(content)
        draw = lambda light: FAMILIES[name](seed("layout", name, half, number), seed("content", name, half, content), light)
        # Two contents may come out the same, such as a reading of three digits drawn twice.
        shows = hashlib.sha256(draw(seed("content", 0)).tobytes()).hexdigest()[:12]
        yield n, draw(rng), shows


# --- changes of a photo ---


def patched(img, rng, share, by):
    """A square of a share of the picture, lighter or darker by some levels."""
    side = max(round(math.sqrt(share * img.width * img.height)), 1)
    x, y = rng.integers(0, img.width - side + 1), rng.integers(0, img.height - side + 1)
    a = np.asarray(img).astype(np.int16)
    there = a[y : y + side, x : x + side]
    there += by if there.mean() < 128 else -by
    return jpeg(Image.fromarray(np.uint8(np.clip(a, 0, 255))), 75)


HUES = {"hue 30": (30, 1), "hue 60": (60, 1), "hue 120": (120, 1), "hue 180": (180, 1), "grey": (0, 0), "saturation 0.5": (0, 0.5)}
PATCHES = [(s, by) for s in (0.0001, 0.0003, 0.001, 0.003) for by in (30, 80)]


# --- writing ---


class Writer:
    def __init__(self, out, palettes=False):
        self.out, self.n, self.palettes = out, 0, palettes
        os.makedirs(out, exist_ok=True)
        self.list = open(os.path.join(out, "manifest.part"), "w", newline="")
        self.rows = csv.writer(self.list, delimiter="\t", lineterminator="\n")

    def save(self, img, quality=0):
        self.n += 1
        folder = f"{self.n // 1000:02d}"
        os.makedirs(os.path.join(self.out, folder), exist_ok=True)
        name = f"{folder}/{self.n:05d}." + ("jpg" if quality else "png")
        if quality:
            img.save(os.path.join(self.out, name), quality=quality)
        else:
            img.save(os.path.join(self.out, name), compress_level=1)
        return name

    def close(self):
        """Gives the list its name, so that there is one only if it is whole."""
        self.list.close()
        os.replace(os.path.join(self.out, "manifest.part"), os.path.join(self.out, "manifest.tsv"))

    def row(self, *fields):
        self.rows.writerow(fields)

    def changed_palette(self, name, half, original, other, moved):
        if self.palettes:
            self.row("change", name + IN_PALETTE, half, original, self.save(other.quantize(256)), moved)


def halves(names):
    """The names of each half."""
    return {h: [n for n in names if (seed("half", os.path.basename(n)).random() < 0.5) == (h == "A")] for h in "AB"}


def photos_below(folders):
    found = {}
    for folder in folders:
        for root, _, files in sorted(os.walk(folder)):
            for f in sorted(files):
                try:
                    img = Image.open(os.path.join(root, f))
                    img.draft("RGB", (2 * SIDE, 2 * SIDE))
                    img = img.convert("RGB")
                except (OSError, ValueError, SyntaxError) as e:
                    print("left out:", f, e, file=sys.stderr)
                    continue
                found[f] = scaled(img, SIDE / max(img.size)) if max(img.size) > SIDE else img
    return found


def write_copies(out, img, half, names, prefix=""):
    original = out.save(img)
    for name in names:
        made = COPIES[name](img)
        if name in AS_JPEG:
            copy = out.save(img, AS_JPEG[name]) if not prefix else out.save(made)
        else:
            copy = out.save(made)
        out.row("copy", prefix + name, half, original, copy, "-")
        if name == "crop 5 % a side" and not prefix:
            out.row("copy", ENTRY_CROPPED, half, copy, original, "-")
        if out.palettes and name == "256 colours (as in a GIF)":
            out.row("copy", ENTRY_PALETTE, half, copy, original, "-")
    return original


def write_changes(out, img, half, original, n):
    for name, (degrees, scale) in HUES.items():
        other, moved = recolour(img, degrees, scale)
        out.row("change", name, half, original, out.save(other), f"{moved:.1f}")
        out.changed_palette(name, half, original, other, f"{moved:.1f}")
    for share in (1, 3, 10):
        mask = ellipse(seed("part", half, n, share), *img.size, share / 100)
        other, moved = recolour(img, (60, 120, 180)[n % 3], 1, mask)
        name = f"part of {share} % in other colours"
        out.row("change", name, half, original, out.save(other), f"{moved:.1f}")
        out.changed_palette(name, half, original, other, f"{moved:.1f}")
    for share, by in PATCHES:
        other = patched(img, seed("patch", half, n, share, by), share, by)
        name = f"patch of {100 * share:.2f} % by {by}"
        out.row("change", name, half, original, out.save(other, 90), "-")
        out.changed_palette(name, half, original, other, "-")


def write_bottles(out, half):
    for one, two in (("green", "brown"), ("green", "clear"), ("blue", "brown"), ("brown", "clear")):
        for n in range(15):
            rng = seed("glass", half, one, two, n)
            base = backdrop(rng, WHITE)
            height, at = rng.uniform(0.55, 0.85) * base.shape[0], (rng.uniform(180, 300), rng.uniform(15, 40))
            first, _ = bottle(base, height, at, one)
            second, _ = bottle(base, height, at, two, like=one)
            out.row("change", f"glass, {one} and {two}", half, out.save(first), out.save(second), "99")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--photos", type=int, default=40)
    args.add_argument("--each", type=int, default=60)
    args.add_argument("--palettes", action="store_true")
    args.add_argument("out", metavar="OUT")
    args.add_argument("folders", nargs="+", metavar="FOLDER")
    args = args.parse_args()
    photos = photos_below(args.folders)
    if not photos:
        sys.exit(f"got no photos in {args.folders}, want some hundred: name a folder that has them")
    out = Writer(args.out, args.palettes)
    for half, names in halves(photos).items():
        PHOTOS[:] = [photos[n] for n in names[args.photos :] or names]
        for n, name in enumerate(names):
            if n < args.photos:
                original = write_copies(out, photos[name], half, COPIES)
                write_changes(out, photos[name], half, original, n)
            else:
                original = out.save(photos[name], 90)
            out.row("picture", "photos", half, original, name, "-")
            print(f"\r{half}: photo {n + 1} of {len(names)}", end="", file=sys.stderr)
        write_bottles(out, half)
        for name in FAMILIES:
            if half == "A" and name in UNSEEN:
                continue
            palettes = []
            for n, img, content in family(name, half, args.each):
                saved = out.save(img, 92 if name not in ("dialog", "slide", "seats") else 0)
                out.row("picture", name, half, saved, content, "-")
                if out.palettes:
                    palettes.append((out.save(img.quantize(256)) if n % 2 else saved, content))
                if n % 20 == 0:
                    write_copies(out, img, half, FAMILY_COPIES, "families: ")
            for saved, content in palettes:
                out.row("picture", name + IN_PALETTE, half, saved, content, "-")
            print(f"\r{half}: {name}          ", end="", file=sys.stderr)
    out.close()
    print(f"\r{out.n} pictures", file=sys.stderr)


if __name__ == "__main__":
    main()
