#!/usr/bin/env python3
"""Draws the sample pictures of `onceover demo`: python make_samples.py [OUT_FOLDER]

Needs numpy and Pillow, nothing else. Each picture is a small still life: distance fields, marched by numpy, lit by one
soft lamp and the sky, seen through a lens with some blur, with film grain. Seeds are fixed, so the same versions of
numpy and Pillow draw the same files. An original that is there already is kept: delete it to have it drawn anew (some
four minutes of one core each). The environment variables WIDTH (640) and SAMPLES (rays per pixel, 40) are for trying things out.
"""

import io
import multiprocessing
import os
import sys
import zlib

import numpy as np
from PIL import Image, ImageFilter

from scenes import SCENES, mix, norm, smooth

WIDTH = int(os.environ.get("WIDTH", "640"))
HEIGHT = WIDTH * 3 // 4
SAMPLES = int(os.environ.get("SAMPLES", "40"))
SKY, FLOOR, WALL, OBJECT = -1, 0, 1, 2  # what a ray hit; objects count up from OBJECT


def march(distance, origin, direction, near, far, steps=110):
    """Walks each ray from near to far; returns where it meets the surface, or inf."""
    t = near.copy()
    hit = np.full(t.shape, np.inf, np.float32)
    live = np.flatnonzero(near < far)
    for _ in range(steps):
        if not live.size:
            break
        d = distance(origin[:, live] + direction[:, live] * t[live])
        touched = d < 0.0012
        hit[live[touched]] = t[live[touched]]
        t[live] += np.maximum(d, 0.0008)
        live = live[~touched & (t[live] < far[live])]
    return hit


def normal(distance, p, e=0.0025):
    """The gradient of the distance field, by four probes at the corners of a tetrahedron."""
    n = np.zeros_like(p)
    for k in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        k = np.array(k, np.float32)[:, None]
        n += k * distance(p + k * e)
    return norm(n)


def reflect(d, n):
    return d - 2 * (d * n).sum(0) * n


def refract(d, n, eta):
    """Snell's law; where it has no answer (total reflection) the ray is mirrored."""
    c = -(d * n).sum(0)
    k = 1 - eta * eta * (1 - c * c)
    return np.where(k < 0, reflect(d, n), norm(eta * d + (eta * c - np.sqrt(np.maximum(k, 0))) * n))


def around(n, u, v, spread=None):
    """A direction about n: cosine-distributed over the hemisphere, or within a narrow spread."""
    phi = 2 * np.pi * u
    z = 2 * v - 1
    r = np.sqrt(np.maximum(1 - z * z, 0))
    ball = np.stack([r * np.cos(phi), r * np.sin(phi), z]).astype(np.float32)
    return norm(n * 1.001 + ball * (1 if spread is None else spread))


class Renderer:
    def __init__(self, scene, seed):
        self.s = scene
        self.rng = np.random.default_rng(seed)
        self.lamp = np.array(scene.lamp, np.float32)[:, None]

    def opaque(self, p):
        return np.minimum.reduce([body.distance(p) for body in self.s.bodies])

    def span(self, o, d):
        """Where each ray is inside the box around all bodies."""
        lo, hi = (np.array(v, np.float32)[:, None] for v in (self.s.low, self.s.high))
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (lo - o) / d, (hi - o) / d
        return np.maximum(np.minimum(a, b).max(0), 0.002), np.maximum(a, b).min(0)

    def trace(self, o, d):
        """The nearest opaque thing: distance along the ray and its kind."""
        near, far = self.span(o, d)
        t = march(self.opaque, o, d, near, far)
        kind = np.where(np.isfinite(t), OBJECT, SKY)
        with np.errstate(divide="ignore", invalid="ignore"):
            for plane, axis, level in ((FLOOR, 1, 0.0), (WALL, 2, self.s.wall_z)):
                u = (level - o[axis]) / d[axis]
                nearer = (u > 0.002) & (u < t)
                t, kind = np.where(nearer, u, t), np.where(nearer, plane, kind)
        return t.astype(np.float32), kind

    def sky(self, d):
        """What reflections see of the room: a dim gradient, a tall window and a strip light."""
        up = smooth(-0.4, 0.9, d[1])
        c = mix(np.array(self.s.sky_low)[:, None], np.array(self.s.sky_high)[:, None], up)
        az = np.arctan2(d[0], d[2])
        window = smooth(0.36, 0.30, abs(az + 0.95)) * smooth(0.05, 0.12, d[1]) * smooth(0.82, 0.75, d[1])
        panes = smooth(0.012, 0.03, abs(az + 0.95)) * smooth(0.012, 0.03, abs(d[1] - 0.42))
        strip = smooth(0.16, 0.10, abs(az - 1.25)) * smooth(-0.1, 0.0, d[1]) * smooth(0.75, 0.6, d[1])
        return c + (5.5 * window * panes + 1.9 * strip) * np.array([[1.0], [0.97], [0.92]])

    def light(self, p, n, u, shadows=True):
        """Direct light of the lamp, a ball of some size: colour by point."""
        ball = around(np.zeros_like(p), u[0], u[1], 1.0) * self.s.lamp_size
        way = self.lamp + ball - p
        dist = np.sqrt((way * way).sum(0))
        way = way / dist
        power = np.maximum((way * n).sum(0), 0) * self.s.lamp_power * (self.s.lamp_far / dist) ** 2
        power = np.repeat(power[None], 3, 0) * np.array(self.s.lamp_colour)[:, None]
        if not shadows:
            return power
        power *= self.s.gobo(p, way)
        o = p + n * 0.006
        live = np.flatnonzero(power[0] > 1e-4)
        near, far = self.span(o[:, live], way[:, live])
        blocked = np.isfinite(march(self.opaque, o[:, live], way[:, live], near, far, 60))
        power[:, live[blocked]] = 0
        if self.s.glass:
            live, near, far = live[~blocked], near[~blocked], far[~blocked]
            t = march(self.s.glass.distance, o[:, live] + way[:, live] * 0.02, way[:, live], near, far, 60)
            thru = np.isfinite(t)
            live, t = live[thru], t[thru]
            g = normal(self.s.glass.distance, o[:, live] + way[:, live] * t)
            facing = abs((g * way[:, live]).sum(0))
            tint = np.array(self.s.glass.tint)[:, None]
            power[:, live] *= tint * (0.25 + 0.95 * facing**1.5)  # a glass gathers light behind its middle
        return power

    def shade(self, p, d, kind, u, depth):
        """The colour seen along d at p. depth 0 follows mirrors and one bounce, 1 casts shadows, 2 only lights."""
        out = np.zeros_like(p)
        for group in (SKY, FLOOR, WALL, OBJECT):
            i = np.flatnonzero(kind == group)
            if not i.size:
                continue
            q, v, w = p[:, i], d[:, i], u[:, i]
            if group == SKY:
                out[:, i] = self.sky(v)
                continue
            if group == OBJECT:
                n = normal(self.opaque, q)
                which = np.argmin(np.stack([b.distance(q) for b in self.s.bodies]), 0)
                albedo, f0, rough = np.zeros_like(q), np.zeros_like(q), np.zeros(i.size, np.float32)
                for k, body in enumerate(self.s.bodies):
                    j = np.flatnonzero(which == k)
                    if j.size:
                        albedo[:, j], f0[:, j], rough[j] = body.surface(q[:, j], n[:, j])
            else:
                n = np.zeros_like(q)
                n[1 if group == FLOOR else 2] = 1
                surface = self.s.floor if group == FLOOR else self.s.wall
                albedo, f0, rough = (np.broadcast_to(x, s) for x, s in zip(surface(q, n), (q.shape, q.shape, i.shape)))
            out[:, i] = self.lit(q, v, n, albedo, f0, rough, w, depth)
        return out

    def lit(self, q, v, n, albedo, f0, rough, w, depth):
        c = albedo * self.light(q, n, w[2:4], depth < 2)
        if depth:
            return c + albedo * self.s.ambient * (0.6 + 0.4 * n[1]) + f0 * self.sky(reflect(v, n)) * (0.3 if depth > 1 else 0.6)
        o = q + n * 0.006
        b = around(n, w[4], w[5])
        c += albedo * self.s.bounce * np.minimum(self.seen(o, b, w, 2), 2.5)
        m = norm(reflect(v, n) + 0.0)
        m = np.where((m * n).sum(0) > 0, m, n)
        m = around(m, w[6], w[7], rough * rough + 0.001)
        fresnel = f0 + (1 - f0) * np.clip(1 + (v * n).sum(0), 0, 1) ** 5 * (1 - rough) ** 2
        shiny = np.flatnonzero(fresnel.max(0) > 0.01)
        c[:, shiny] += fresnel[:, shiny] * np.minimum(self.seen(o[:, shiny], m[:, shiny], w[:, shiny], 2), 6)
        return c

    def seen(self, o, d, u, depth):
        t, kind = self.trace(o, d)
        return self.shade(o + d * np.where(np.isfinite(t), t, 0), d, kind, u, depth)

    def through(self, o, d, t, u):
        """A ray that meets glass: mirrored part plus what is seen through it, tinted by the way inside."""
        g = self.s.glass
        p = o + d * t
        n = normal(g.distance, p)
        facing = np.clip(-(d * n).sum(0), 0, 1)
        fresnel = 0.03 + 0.8 * (1 - facing) ** 5
        r = reflect(d, n)
        mirrored = self.seen(p + n * 0.01, r, u, 2)
        inward = refract(d, n, 1 / g.index)
        start = p - n * 0.012
        near, far = self.span(start, inward)
        way = march(lambda x: -g.distance(x), start, inward, np.full_like(near, 0.004), far)
        way = np.where(np.isfinite(way), way, 0.05).astype(np.float32)
        ot, okind = self.trace(start, inward)
        inside = ot < way
        leave = start + inward * way
        m = -normal(g.distance, leave)
        outward = refract(inward, m, g.index)
        bt, bkind = self.trace(leave - m * 0.012, outward)
        end = np.where(inside, start + inward * np.where(inside, ot, 0), leave - m * 0.012 + outward * np.where(np.isfinite(bt), bt, 0))
        seen = self.shade(end, np.where(inside, inward, outward), np.where(inside, okind, bkind), u, 1)
        depth = np.minimum(ot, way)
        back = 0.3 * self.sky(reflect(inward, m)) * (1 - abs((inward * m).sum(0))) ** 3
        tint = np.array(g.tint)[:, None] ** (g.density * depth)
        rim = 1 - g.rim * (1 - facing) ** 2.5
        return fresnel * np.minimum(mirrored, 6) + (1 - fresnel) * tint * rim * (seen + back)

    def picture(self):
        s, count = self.s, WIDTH * HEIGHT
        eye, look = (np.array(v, np.float32) for v in (s.eye, s.look))
        ahead = norm((look - eye)[:, None])
        right = norm(np.cross(ahead[:, 0], [0, 1, 0]).astype(np.float32)[:, None])
        up = np.cross(right[:, 0], ahead[:, 0]).astype(np.float32)[:, None]
        x, y = (v.ravel().astype(np.float32) for v in np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)))
        focus = float(np.sqrt(((look - eye) ** 2).sum()))
        offset = self.rng.random((10, count), np.float32)
        steps = (1.0 / 1.0711) ** np.arange(1, 11)  # an additive sequence: even over all ten dimensions
        total = np.zeros((3, count))
        for k in range(SAMPLES):
            u = ((offset + k * steps[:, None]) % 1).astype(np.float32)
            sx = ((x + u[8]) / WIDTH - 0.5) * s.zoom
            sy = (0.5 - (y + u[9]) / HEIGHT) * s.zoom * 0.75
            aim = eye[:, None] + (ahead + right * sx + up * sy) * focus
            r, a = np.sqrt(u[0]) * s.lens, 2 * np.pi * u[1]
            o = (eye[:, None] + right * (r * np.cos(a)) + up * (r * np.sin(a))).astype(np.float32)
            d = norm(aim - o).astype(np.float32)
            t, kind = self.trace(o, d)
            front = np.zeros(count, bool)
            if s.glass:
                near, far = self.span(o, d)
                tg = march(s.glass.distance, o, d, near, np.minimum(far, t))
                front = np.isfinite(tg) & (tg < t)
            colour = np.zeros((3, count))
            i = np.flatnonzero(~front)
            colour[:, i] = self.shade(o[:, i] + d[:, i] * np.where(np.isfinite(t[i]), t[i], 0), d[:, i], kind[i], u[:, i], 0)
            i = np.flatnonzero(front)
            if i.size:
                colour[:, i] = self.through(o[:, i], d[:, i], tg[i], u[:, i])
            total += np.minimum(colour, 8)
        return self.develop((total / SAMPLES).reshape(3, HEIGHT, WIDTH))

    def develop(self, light):
        """From light to an 8-bit picture: lens shading, film curve, a little glow, grain."""
        gy, gx = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
        light = light * self.s.exposure * (1 - 0.22 * smooth(0.3, 1.9, gx * gx + gy * gy))
        film = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
        flat = np.clip(film, 0, 1) ** (1 / 2.2)
        grain = self.rng.normal(0, 1, (HEIGHT, WIDTH)) * 0.006 * self.s.grain
        img = Image.fromarray(np.uint8(np.clip(flat + grain, 0, 1).transpose(1, 2, 0) * 255 + 0.5))
        glow = img.filter(ImageFilter.GaussianBlur(WIDTH / 60))
        return Image.blend(img, glow, 0.08)


def encode(img, form, **options):
    out = io.BytesIO()
    img.save(out, form, **options)
    return out.getvalue()


def jpeg(img, quality=85):
    return encode(img, "JPEG", quality=quality, optimize=True)


def draw(job):
    name, path = job
    data = jpeg(Renderer(SCENES[name](), zlib.crc32(name.encode())).picture())
    with open(path, "wb") as f:
        f.write(data)


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "pictures")
    os.makedirs(out, exist_ok=True)
    jobs = [(name, os.path.join(out, name + ".jpg")) for name in SCENES]
    with multiprocessing.Pool(2) as pool:
        pool.map(draw, [job for job in jobs if not os.path.exists(job[1])], chunksize=1)
    files, img = {}, {}
    for name, path in jobs:
        with open(path, "rb") as f:
            files[name + ".jpg"] = f.read()
        img[name] = Image.open(io.BytesIO(files[name + ".jpg"]))  # copies start from the stored file, as in life
    for name, data in copies(files, img).items():
        with open(os.path.join(out, name), "wb") as f:
            f.write(data)


def copies(files, img):
    """What people send the second time: other qualities, formats, sizes; and the two bad ones."""
    w, h = img["bottle"].size
    rng = np.random.default_rng(4)
    broken = files["bottle.jpg"]
    return {
        "bottle-quality-40.jpg": jpeg(img["bottle"], 40),
        "jar-quality-50.jpg": jpeg(img["jar"], 50),
        "can-webp.webp": encode(img["can"], "WEBP", quality=75, method=6),
        "newspapers-60-percent.jpg": jpeg(img["newspapers"].resize((w * 3 // 5, h * 3 // 5), Image.Resampling.LANCZOS)),
        "batteries-40-percent.png": encode(
            img["batteries"].resize((w * 2 // 5, h * 2 // 5), Image.Resampling.LANCZOS).quantize(256), "PNG", optimize=True
        ),
        "box-cropped.jpg": jpeg(img["box"].crop((3, 2, w - 3, h - 2))),
        "broken.jpg": broken[: int(len(broken) * rng.uniform(0.3, 0.6))],
        "flat.png": encode(Image.new("RGB", (w, h), (196, 203, 188)), "PNG", optimize=True),
    }


if __name__ == "__main__":
    main()
