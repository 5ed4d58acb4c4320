"""The still lifes that make_samples.py draws. A point set p has the shape (3, n); y points up, one unit is about 10 cm."""

import dataclasses
import typing

import numpy as np


def norm(v):
    return v / np.sqrt(np.maximum((v * v).sum(0), 1e-20))


def mix(a, b, t):
    return a + (b - a) * t


def smooth(a, b, x):
    """0 at a, 1 at b, an S between; a may be greater than b."""
    t = np.clip((x - a) / (b - a), 0, 1)
    return t * t * (3 - 2 * t)


def rgb(r, g, b):
    """A colour as a screen shows it (0-255), as light (0-1)."""
    return (np.array([r, g, b], np.float32)[:, None] / 255) ** 2.2


def rotate(p, axis, degrees, about=(0, 0, 0)):
    """p turned about an axis (0 x, 1 y, 2 z) through a point."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    q = p - np.array(about, np.float32)[:, None]
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out = q.copy()
    out[i], out[j] = c * q[i] + s * q[j], c * q[j] - s * q[i]
    return out.astype(np.float32)


def noise(p):
    """Value noise, 0 to 1."""
    cell = np.floor(p)
    f = p - cell
    f = f * f * (3 - 2 * f)
    cell = cell.astype(np.int64).astype(np.uint32)

    def corner(dx, dy, dz):
        h = (cell[0] + np.uint32(dx)) * np.uint32(73856093)
        h ^= (cell[1] + np.uint32(dy)) * np.uint32(19349663)
        h ^= (cell[2] + np.uint32(dz)) * np.uint32(83492791)
        h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
        return (h ^ (h >> np.uint32(16))) / np.float32(2**32)

    sides = [mix(mix(corner(0, 0, z), corner(1, 0, z), f[0]), mix(corner(0, 1, z), corner(1, 1, z), f[0]), f[1]) for z in (0, 1)]
    return mix(sides[0], sides[1], f[2])


def fbm(p, octaves=4):
    return sum(noise(p * 2.0**k + 17 * k) / 2.0**k for k in range(octaves)) / (2 - 2.0 ** (1 - octaves))


# --- shapes: each gives the distance of every point to its surface, negative inside ---


def ball(p, centre, radius):
    q = p - np.array(centre, np.float32)[:, None]
    return np.sqrt((q * q).sum(0)) - radius


def slab(p, half, edge=0.02):
    """A box about the origin with rounded edges."""
    q = abs(p) - (np.array(half, np.float32) - edge)[:, None]
    return np.sqrt((np.maximum(q, 0) ** 2).sum(0)) + np.minimum(q.max(0), 0) - edge


class Lathe:
    """A body of revolution about the y axis, from (height, radius) points joined softly."""

    def __init__(self, points, soft=0.02, slope=0.7, edge=0.015):
        ys, rs = np.array(points, np.float64).T
        self.low, self.high, self.slope, self.edge = ys[0], ys[-1], slope, edge
        self.y = np.linspace(ys[0], ys[-1], 600)
        r = np.interp(self.y, ys, rs)
        reach = max(int(3 * soft / (self.y[1] - self.y[0])), 1)
        w = np.exp(-np.linspace(-3, 3, 2 * reach + 1) ** 2 / 2)
        self.r = np.convolve(np.pad(r, reach, "edge"), w / w.sum(), "valid")

    def __call__(self, p):
        side = np.hypot(p[0], p[2]) - np.interp(p[1], self.y, self.r).astype(np.float32) + self.edge
        ends = np.maximum(self.low - p[1], p[1] - self.high) + self.edge
        outside = np.hypot(np.maximum(side, 0), np.maximum(ends, 0))
        return ((outside + np.minimum(np.maximum(side, ends), 0) - self.edge) * self.slope).astype(np.float32)


@dataclasses.dataclass
class Body:
    distance: typing.Callable
    surface: typing.Callable  # (p, n) -> colour, mirror strength, roughness


@dataclasses.dataclass
class Glass:
    distance: typing.Callable
    tint: tuple = (0.93, 0.97, 0.98)
    density: float = 1.0
    index: float = 1.12
    rim: float = 0.55


@dataclasses.dataclass
class Scene:
    bodies: list
    low: tuple  # the box that holds all bodies and the glass
    high: tuple
    floor: typing.Callable
    wall: typing.Callable
    glass: Glass | None = None
    wall_z: float = -4.5
    lamp: tuple = (-4.5, 6.0, 3.5)
    lamp_size: float = 0.8
    lamp_power: float = 2.6
    lamp_far: float = 8.2
    lamp_colour: tuple = (1.0, 0.95, 0.86)
    sky_low: tuple = (0.16, 0.15, 0.14)
    sky_high: tuple = (0.62, 0.68, 0.76)
    ambient: float = 0.35
    bounce: float = 0.9
    gobo: typing.Callable = lambda p, way: 1.0
    eye: tuple = (0.3, 2.1, 6.6)
    look: tuple = (0.0, 1.0, 0.0)
    zoom: float = 0.62
    lens: float = 0.06
    exposure: float = 0.62
    grain: float = 1.0


def plain(colour, mirror=0.04, rough=0.6):
    return lambda p, n: (np.broadcast_to(colour, p.shape), np.float32(mirror) * np.ones((3, 1), np.float32), np.float32(rough))


def wood(dark, bright, turn=0, width=1.3):
    """Planks along x."""

    def surface(p, n):
        q = rotate(p, 1, turn)
        plank = np.floor(q[2] / width)
        q = q + np.stack([plank * 7.3, plank * 3.1, plank * 0])
        grain = fbm(q * np.array([[0.5], [1.0], [5.0]], np.float32), 5)
        rings = 0.5 + 0.5 * np.sin(26 * fbm(q * np.array([[0.22], [1.0], [1.3]], np.float32), 2))
        gap = smooth(0.0, 0.025, abs((q[2] / width) % 1 - 0.5) * -1 + 0.5)
        shade = 0.86 + 0.14 * np.sin(plank * 12.9)
        return mix(dark, bright, 0.65 * grain + 0.35 * rings) * (shade * mix(0.3, 1, gap)), np.full((3, 1), 0.05, np.float32), 0.45

    return surface


def linen(a, b, scale=18.0):
    """A woven cloth with soft unevenness."""

    def surface(p, n):
        weave = 0.5 + 0.25 * np.sin(p[0] * scale * 2.1) + 0.25 * np.sin(p[2] * scale * 2.1)
        return mix(a, b, 0.45 * weave + 0.55 * fbm(p * 2.2)), np.full((3, 1), 0.015, np.float32), 0.9

    return surface


def gingham(a, b, size=0.62, turn=24):
    def surface(p, n):
        q = rotate(p, 1, turn) / size
        x, z = ((smooth(-0.03, 0.03, abs(v % 1 - 0.5) - 0.25)) for v in (q[0], q[2]))
        thread = 0.94 + 0.06 * np.sin(p[0] * 60) * np.sin(p[2] * 60)
        return mix(a, b, (x + z) / 2) * thread * (0.9 + 0.2 * fbm(p * 3)), np.full((3, 1), 0.015, np.float32), 0.9

    return surface


def stone(a, b, scale=1.6):
    def surface(p, n):
        speck = smooth(0.70, 0.78, noise(p * 21)) * 0.35
        return mix(a, b, fbm(p * scale, 5)) * (1 - speck), np.full((3, 1), 0.05, np.float32), 0.35

    return surface


def plaster(a, b):
    """A painted wall, a little uneven, darker to one side."""
    return lambda p, n: (
        mix(a, b, np.clip(0.5 + p[0] / 9 + 0.35 * (fbm(p * 0.9) - 0.5), 0, 1)),
        np.full((3, 1), 0.02, np.float32),
        np.float32(0.9),
    )


def window_light(turn=0.35, size=1.5, bar=0.12):
    """The shadow of a window's bars across the picture."""

    def gobo(p, way):
        x = (p[0] - way[0] / way[2] * p[2]) * 0.9 + p[1] * turn
        y = p[1] - way[1] / way[2] * p[2]
        bars = [smooth(bar * 0.4, bar * 1.3, abs((v / size) % 1 - 0.5)) for v in (x + 0.3, y + 0.55)]
        return 0.22 + 0.78 * bars[0] * bars[1]

    return gobo


METAL = np.array([[0.86], [0.86], [0.88]], np.float32)
BRASS = np.array([[0.90], [0.72], [0.42]], np.float32)


def bottle():
    points = [(0.0, 0.40), (0.06, 0.46)]
    for k in range(5):
        points += [(0.16 + 0.13 * k, 0.47), (0.225 + 0.13 * k, 0.44)]
    points += [(0.85, 0.47), (1.75, 0.47), (1.85, 0.455), (2.15, 0.37), (2.42, 0.21), (2.52, 0.165), (2.66, 0.165)]
    body = Lathe(points, soft=0.022)
    label = Lathe([(0.92, 0.479), (1.68, 0.479)], edge=0.004, slope=0.9)
    cap = Lathe([(2.6, 0.19), (2.85, 0.19)], edge=0.025, slope=0.8)

    def ribbed(p):
        return cap(p) + 0.006 * np.cos(44 * np.arctan2(p[0], p[2]))

    def paper(p, n):
        a = np.arctan2(p[0], p[2])
        hills = 1.14 + 0.10 * np.sin(2.1 * a + 0.6) + 0.03 * np.sin(5 * a)
        c = mix(rgb(232, 240, 236), rgb(46, 139, 108), smooth(0.008, -0.008, p[1] - hills))
        c = mix(c, rgb(24, 92, 84), smooth(0.008, -0.008, p[1] - hills + 0.15 + 0.05 * np.sin(3 * a)))
        sun = np.hypot((a - 0.25) * 0.48, p[1] - 1.44)
        c = mix(c, rgb(242, 166, 54), smooth(0.122, 0.110, sun))
        return mix(rgb(240, 243, 240), c, smooth(0.0, 0.008, 0.34 - abs(p[1] - 1.3))), np.full((3, 1), 0.04, np.float32), 0.35

    def lemon(centre, turn):
        def distance(p):
            q = rotate(p, 1, turn, centre)
            r = np.sqrt((q[0] * 0.80) ** 2 + q[1] ** 2 + q[2] ** 2)
            tip = 0.07 * smooth(0.30, 0.47, abs(q[0])) * smooth(0.2, 0.0, np.hypot(q[1], q[2]))
            return (r - 0.34 - tip) * 0.75

        return distance

    def peel(p, n):
        return mix(rgb(236, 178, 20), rgb(250, 214, 60), fbm(p * 5)), np.full((3, 1), 0.045, np.float32), 0.32 + 0.2 * noise(p * 34)

    return Scene(
        bodies=[
            Body(label, paper),
            Body(ribbed, plain(rgb(36, 96, 178), 0.05, 0.3)),
            Body(lemon((1.15, 0.34, 0.35), 25), peel),
            Body(lemon((1.72, 0.34, -0.45), -50), peel),
        ],
        glass=Glass(body, tint=(0.80, 0.93, 0.96), density=0.5, index=1.10, rim=0.62),
        low=(-0.7, -0.02, -1.3),
        high=(2.4, 3.0, 1.1),
        floor=wood(rgb(112, 70, 40), rgb(190, 138, 90), turn=8),
        wall=plaster(rgb(120, 148, 150), rgb(206, 212, 200)),
        gobo=window_light(),
        eye=(0.5, 2.0, 7.4),
        look=(0.42, 1.28, 0.0),
        zoom=0.60,
    )


def can():
    def folded(p, tall=1.15, radius=0.62, bend=0.22, folds=3.2, depth=0.13, seed=0.0):
        y = p[1]
        x, z = p[0] - bend * y * y + 0.05 * np.sin(7 * y + seed), p[2] + 0.06 * np.sin(5 * y + 1 + seed)
        a = np.arctan2(z, x)
        wave = y * folds + 0.30 * np.sin(2 * a + 1 + seed) + 0.16 * np.sin(3 * a + 4.0 + 2 * seed)
        crease = abs(wave % 1 - 0.5) * 2
        inner = smooth(0.0, 0.18, y) * smooth(tall, tall - 0.18, y)
        facet = 0.03 * abs(np.sin(4.5 * a + 3 * np.floor(wave) + seed))
        side = np.hypot(x, z) - (radius - 0.05 * (1 - smooth(0, 0.08, y) * smooth(tall, tall - 0.08, y)) - (depth * crease + facet) * inner)
        hollow = 0.05 * smooth(0.56, 0.50, np.hypot(x, z))
        ends = np.maximum(-y, y - tall + hollow)
        return np.maximum(side, ends) * 0.5

    def paint(base, stripe, tall):
        def surface(p, n, q):
            a = np.arctan2(q[0], q[2])
            t = q[1] + 0.10 * np.sin(2 * a)
            c = mix(base, stripe, smooth(0.012, -0.012, abs(t - tall * 0.55) - 0.13))
            c = mix(c, stripe, smooth(0.01, -0.01, abs(t - tall * 0.30) - 0.02))
            bare = np.maximum(smooth(0.06, 0.04, q[1]), smooth(tall - 0.06, tall - 0.04, q[1]))
            mouth = (q[1] > tall - 0.15) & (np.hypot(q[0] / 0.13, (q[2] - 0.28) / 0.19) < 1) & (abs(n[1]) > 0.5)
            bare = bare * (1 - 0.93 * mouth)
            c = np.where(mouth, 0.02, c)
            return mix(c * 0.75, METAL * 0.12, bare), mix(0.10 + 0.25 * c, METAL * 0.85, bare), 0.30 + 0.06 * bare

        return surface

    def placed(place, shape, colour):
        return Body(lambda p: shape(place(p)), lambda p, n: colour(p, n, place(p)))

    def stand(p):
        return rotate(rotate(p, 1, -35, (-0.55, -0.01, 0.35)), 2, 3)

    def lie(p):
        q = rotate(p, 1, 38, (1.05, 0.60, -0.75))
        return rotate(q, 2, 90) + np.array([[0], [0.85], [0]], np.float32)

    def straight(p):
        return folded(p, tall=1.75, radius=0.6, bend=0.0, folds=1.1, depth=0.16, seed=2.0)

    return Scene(
        bodies=[placed(stand, folded, paint(rgb(196, 30, 38), rgb(240, 232, 220), 1.15)), placed(lie, straight, paint(rgb(18, 116, 148), rgb(236, 196, 62), 1.75))],
        low=(-1.6, -0.02, -2.2),
        high=(2.6, 1.7, 1.4),
        floor=stone(rgb(120, 120, 118), rgb(188, 186, 180)),
        wall=plaster(rgb(92, 84, 96), rgb(186, 164, 150)),
        lamp=(-3.5, 6.5, 4.5),
        sky_low=(0.10, 0.10, 0.11),
        eye=(-0.5, 2.3, 6.2),
        look=(0.28, 0.62, -0.1),
        zoom=0.56,
    )


def box():
    half = (1.05, 0.62, 0.78)

    def place(p):
        return rotate(p, 1, 32, (0.05, half[1], 0.0))

    def carton(p):
        q = place(p)
        inner = slab(q - np.array([[0], [0.2], [0]], np.float32), (half[0] - 0.045, half[1] + 0.2 - 0.04, half[2] - 0.045), 0.01)
        d = np.maximum(slab(q, half, 0.015), -inner)
        for axis, sign, length, turn in ((0, 1, 0.70, 38), (0, -1, 0.70, 20), (2, 1, 0.60, 20), (2, -1, 0.74, 62)):
            hinge = [0, half[1] - 0.01, 0]
            hinge[axis] = sign * half[axis]
            f = q - np.array(hinge, np.float32)[:, None]
            if axis == 0:
                f = rotate(f, 2, sign * turn)
                flap = slab(f - np.array([[sign * length / 2], [0], [0]], np.float32), (length / 2, 0.022, half[2] - 0.02), 0.008)
            else:
                f = rotate(f, 0, -sign * turn)
                flap = slab(f - np.array([[0], [0], [sign * length / 2]], np.float32), (half[0] - 0.02, 0.022, length / 2), 0.008)
            d = np.minimum(d, flap)
        return d * 0.9

    def board(p, n):
        q = place(p)
        flute = 0.96 + 0.04 * np.sin((q[0] + q[2]) * 70)
        c = mix(rgb(158, 112, 66), rgb(204, 160, 108), 0.25 + 0.6 * fbm(q * np.array([[3.0], [9.0], [3.0]], np.float32))) * flute
        arrow = np.zeros_like(q[0])
        front = (q[2] > half[2] - 0.03) & (abs(q[1]) < half[1])
        for x in (0.45, 0.72):  # the "this way up" arrows
            stem = np.maximum(abs(q[0] - x) - 0.035, abs(q[1] + 0.12) - 0.18)
            head = np.maximum(abs(q[0] - x) + (q[1] - 0.22) * 0.85 - 0.02, 0.02 - q[1])
            arrow = np.maximum(arrow, smooth(0.008, -0.008, np.minimum(stem, head)))
        arrow = np.maximum(arrow, smooth(0.008, -0.008, np.maximum(abs(q[0] - 0.585) - 0.25, abs(q[1] + 0.37) - 0.02)))
        c = mix(c, rgb(66, 48, 38), 0.85 * arrow * front)
        tape = (abs(q[2]) < 0.17) & (abs(q[0]) > half[0] - 0.03) & (q[1] < half[1]) & (q[1] > half[1] - 0.75 + 0.03 * np.sin(60 * q[2]))
        c = np.where(tape, c * 0.55 + rgb(200, 164, 104) * 0.4, c)
        return c, np.where(tape, 0.06, 0.02) * np.ones((3, 1), np.float32), np.where(tape, 0.25, 0.85)

    return Scene(
        bodies=[
            Body(carton, board),
            Body(lambda p: ball(p, (1.75, 0.24, 1.0), 0.24), plain(rgb(54, 118, 190), 0.05, 0.3)),
        ],
        low=(-2.3, -0.02, -2.2),
        high=(2.4, 2.1, 2.1),
        floor=linen(rgb(146, 150, 146), rgb(206, 206, 198)),
        wall=plaster(rgb(154, 140, 116), rgb(222, 206, 176)),
        lamp=(4.6, 5.2, 3.4),
        lamp_colour=(1.0, 0.93, 0.82),
        eye=(0.6, 3.1, 7.2),
        look=(0.12, 0.78, 0.0),
        zoom=0.58,
    )


def jar():
    body = Lathe([(0.0, 0.62), (0.08, 0.74), (1.25, 0.75), (1.45, 0.70), (1.58, 0.60), (1.72, 0.60)], soft=0.04)
    lid = Lathe([(1.64, 0.655), (1.98, 0.655)], edge=0.035, slope=0.8)

    def jam(p):  # fills the glass, with a level that sags a little in the middle
        return np.maximum(body(p) + 0.02, (p[1] - 1.10 - 0.06 * (p[0] ** 2 + p[2] ** 2) - 0.015 * np.sin(7 * p[0] + 5 * p[2])) * 0.8)

    def knurled(p):
        return lid(p) + 0.007 * np.cos(50 * np.arctan2(p[0], p[2])) * smooth(1.96, 1.90, p[1])

    def fruit(p, n):
        seed = smooth(0.80, 0.86, noise(p * 24))
        c = mix(rgb(120, 8, 20), rgb(214, 34, 40), smooth(0.25, 0.75, fbm(p * 3.2)))
        return mix(c, rgb(236, 160, 96), seed * 0.7), np.full((3, 1), 0.05, np.float32), 0.3

    def berry(x, z, r, turn):
        def distance(p):
            q = rotate(p, 1, turn, (x, r * 0.92, z))
            q = rotate(q, 2, 70)
            width = 0.84 + 0.62 * smooth(-0.9, 1.5, q[1] / r)
            return (np.sqrt(q[1] ** 2 * 0.72 + (q[0] * width) ** 2 + (q[2] * width) ** 2) - r) * 0.6

        def surface(p, n):
            q = rotate(p, 1, turn, (x, r * 0.92, z)) * (13 / r * 0.3)
            seed = smooth(0.28, 0.18, np.sqrt((((q % 1) - 0.5) ** 2).sum(0)))
            return mix(rgb(190, 18, 28), rgb(240, 200, 110), seed * 0.8), np.full((3, 1), 0.05, np.float32), 0.3

        return Body(distance, surface)

    return Scene(
        bodies=[
            Body(jam, fruit),
            Body(knurled, lambda p, n: (np.broadcast_to(BRASS * 0.15, p.shape), BRASS * 0.85, np.float32(0.28))),
            berry(-1.35, 0.5, 0.30, 200),
            berry(-1.05, 1.15, 0.26, 60),
            berry(1.25, 0.75, 0.28, 320),
        ],
        glass=Glass(body, tint=(0.86, 0.95, 0.93), density=0.3, index=1.22, rim=0.5),
        low=(-1.9, -0.02, -0.9),
        high=(1.8, 2.1, 1.7),
        floor=gingham(rgb(244, 242, 236), rgb(78, 124, 176)),
        wall=plaster(rgb(150, 166, 140), rgb(226, 226, 200)),
        lamp=(-4.8, 5.0, 2.2),
        eye=(-0.3, 2.5, 6.0),
        look=(-0.08, 0.86, 0.1),
        zoom=0.56,
    )


def newspapers():
    rng = np.random.default_rng(11)
    sheets = [(0.07 + 0.15 * k, rng.uniform(-7, 7), rng.uniform(-0.07, 0.07), rng.uniform(-0.07, 0.07), rng.uniform(0.85, 1.05)) for k in range(9)]
    top = sheets[-1]

    def local(p, sheet):
        y, turn, x, z, _ = sheet
        return rotate(p, 1, turn - 24, (x, y, z))

    def stack(p):
        d = np.full(p.shape[1], 9.0, np.float32)
        for s in sheets:
            q = local(p, s)
            q[1] += 0.02 * np.sin(2.2 * q[0] + 5 * s[4]) * np.cos(1.7 * q[2])
            d = np.minimum(d, slab(q, (1.25, 0.072, 0.92), 0.05))
        return d * 0.85

    def cord(p):
        q = rotate(p, 1, -24, (0, 0.68, 0))
        d = np.full(p.shape[1], 9.0, np.float32)
        for across, along, half in ((2, 0, 1.25), (0, 2, 0.92)):
            ring = np.stack([abs(q[along]) - half, abs(q[1]) - 0.665])
            frame = np.sqrt((np.maximum(ring, 0) ** 2).sum(0)) + np.minimum(ring.max(0), 0)
            d = np.minimum(d, np.hypot(frame - 0.02, q[across] - 0.05) - 0.028)
        d = np.minimum(d, np.sqrt((q[0] - 0.05) ** 2 + ((q[1] - 0.71) * 1.3) ** 2 + (q[2] - 0.05) ** 2) - 0.075)
        return d * 0.9

    def print_(p, n):
        q = local(p, top)
        paper = mix(rgb(196, 188, 170), rgb(226, 220, 204), fbm(p * 3))
        leaves = 0.78 + 0.22 * np.sin(p[1] * 190 + 3 * fbm(p * 2))
        u, v = q[0], q[2]
        column = ((u + 1.25) / 0.42) % 1
        words = noise(np.stack([u * 17, np.floor(v / 0.065), v * 0 + 2]))
        line = smooth(0.26, 0.14, abs((v / 0.065) % 1 - 0.5)) * smooth(0.26, 0.32, words)
        ink = 0.95 * line * (column > 0.07) * (column < 0.93)
        photo = (abs(u - 0.40) < 0.62) & (abs(v + 0.02) < 0.30)
        hills = -0.02 - 0.12 * np.sin(4 * u) - 0.05 * np.sin(11 * u + 1)
        grey = mix(0.72, 0.30, smooth(-0.02, 0.02, v - hills)) - 0.25 * smooth(0.1, 0.3, v) + 0.2 * smooth(0.11, 0.09, np.hypot(u - 0.7, v + 0.15))
        ink = np.where((abs(u - 0.40) < 0.66) & (abs(v + 0.02) < 0.34), 0, ink)
        ink = np.where(photo, 1 - grey, ink)
        head = (v < -0.46) & (v > -0.80)  # bars where a title would stand
        bars = (abs(v + 0.63) < 0.10) & (noise(np.stack([u * 7, u * 0, u * 0 + 5])) > 0.36) & (abs(u) < 1.05)
        ink = np.where(head, 0.85 * bars, ink) * (abs(u) < 1.17) * (abs(v) < 0.85)
        up = smooth(0.6, 0.9, n[1])
        return mix(paper * leaves, paper * (1 - 0.9 * ink * (p[1] > top[0])), up), np.full((3, 1), 0.02, np.float32), 0.8

    outer, inner = Lathe([(0, 0.40), (0.9, 0.44)], edge=0.03, slope=0.85), Lathe([(0.07, 0.36), (1.1, 0.40)], edge=0.02, slope=0.85)

    def mug(p):
        q = p - np.array([[1.95], [0], [-1.0]], np.float32)
        handle = np.hypot(np.hypot(q[0] - 0.46, q[1] - 0.42) - 0.22, q[2]) - 0.05
        return np.minimum(np.maximum(outer(q), -inner(q)), handle * 0.9)


    return Scene(
        bodies=[Body(stack, print_), Body(cord, plain(rgb(150, 104, 58), 0.02, 0.9)), Body(mug, plain(rgb(206, 92, 60), 0.05, 0.25))],
        low=(-1.9, -0.02, -2.0),
        high=(2.75, 1.55, 1.75),
        floor=wood(rgb(74, 58, 48), rgb(132, 106, 84), turn=-14, width=1.6),
        wall=plaster(rgb(70, 88, 104), rgb(156, 172, 178)),
        lamp=(-4.2, 5.6, 1.6),
        gobo=window_light(turn=0.2, size=1.9),
        exposure=0.5,
        eye=(0.2, 3.8, 6.1),
        look=(0.22, 0.52, 0.0),
        zoom=0.60,
    )


def batteries():
    cell = Lathe([(0.0, 0.30), (2.0, 0.30)], edge=0.03, slope=0.9)
    nub = Lathe([(1.98, 0.115), (2.13, 0.115)], edge=0.03, slope=0.9)

    def shape(q):
        return np.minimum(cell(q), nub(q))

    def skin(body, top):
        def surface(q):
            c = mix(body, top, smooth(1.42, 1.44, q[1]))
            c = mix(c, rgb(236, 236, 230), smooth(0.012, 0.0, abs(q[1] - 1.43) - 0.014))
            a = np.arctan2(q[0], q[2])
            u, v = (a * 0.30 % 0.62) - 0.31, q[1] - 1.68  # a plus sign, seen from every side
            plus = np.minimum(np.maximum(abs(u) - 0.075, abs(v) - 0.02), np.maximum(abs(u) - 0.02, abs(v) - 0.075))
            c = mix(c, body, smooth(0.006, -0.006, plus))
            c = mix(c, top, smooth(0.006, -0.006, abs(abs(q[1] - 0.34) - 0.06) - 0.018))
            end = np.maximum(smooth(0.05, 0.035, q[1]), smooth(1.955, 1.97, q[1]))
            return mix(c * 0.85, METAL * 0.15, end), mix(0.06 + 0.18 * c, METAL * 0.85, end), 0.26 + 0.04 * end

        return surface

    def placed(place, colour):
        return Body(lambda p: shape(place(p)), lambda p, n: colour(place(p)))

    def lying(x, z, turn, r=0.30):
        def place(p):
            return rotate(rotate(p, 1, turn, (x, r, z)), 2, 90) + np.array([[0], [1.0], [0]], np.float32)

        return place

    def standing(x, z):
        return lambda p: rotate(p, 1, 20, (x, 0, z))

    return Scene(
        bodies=[
            placed(standing(-0.62, -0.55), skin(rgb(92, 46, 120), rgb(226, 214, 232))),
            placed(standing(0.12, -0.85), skin(rgb(92, 46, 120), rgb(226, 214, 232))),
            placed(lying(0.85, 0.25, 24), skin(rgb(38, 110, 74), rgb(222, 214, 180))),
            placed(lying(-0.55, 0.85, -18), skin(rgb(40, 78, 150), rgb(206, 208, 212))),
        ],
        low=(-1.9, -0.02, -1.4),
        high=(2.2, 2.2, 1.7),
        floor=stone(rgb(196, 186, 170), rgb(228, 222, 210), 1.1),
        wall=plaster(rgb(196, 150, 92), rgb(236, 210, 158)),
        lamp=(4.4, 5.6, 3.6),
        eye=(0.0, 2.7, 6.6),
        look=(0.10, 0.86, 0.0),
        zoom=0.58,
    )


SCENES = {f.__name__: f for f in (bottle, can, box, jar, newspapers, batteries)}
