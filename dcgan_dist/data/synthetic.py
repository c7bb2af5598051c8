"""Flowers drawn by a program: 24 known modes with known, skewed shares, so that mode collapse can be counted.

A mode is a colour, a number of petals and a petal shape. The shares are products of the three tables below, skewed
as photographs of flowers are (Flowers-17 is mostly yellow and purple): yellow 40 %, purple 30 %, white 18 %, red
12 %; five petals 50 %, eight 30 %, three 20 %; round 60 %, pointed 40 %. The commonest mode, ``yellow-5-round``, is
12 % of the images, the rarest, ``red-3-pointed``, 0.96 %. The mode of an image is drawn by these shares, so counts in
a finite set scatter about them.

What does not define a mode varies from image to image: backdrop, leaves, light, tilt, place, size, tint, outline. Two
things go with the mode: the palette of the centre with the colour, the size of the centre and the sepals with the
number of petals.

An image is a pure function of (seed, index, size). Its random numbers come from
``np.random.Generator(np.random.Philox(key=[seed, index]))``: the first picks the mode, the rest make the picture. It
is painted on a canvas of 128 pixels, or twice ``size`` if that is more, in units of the flower's radius, and shrunk by
area averaging: one flower at every size, but for rims thinner than a pixel. Bytes are equal on one machine with the
same numpy and OpenCV; another processor may round a value the other way.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Shape = Literal["round", "pointed"]
Hsv = tuple[float, float, float]  # hue in degrees; saturation and value from 0 to 1
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]  # colours and images: RGB from 0 to 1
Points = NDArray[np.float64]  # (2, n): x to the right, y down

SMALLEST_SIZE = 8
_SMALLEST_CANVAS = 128
_BACKDROP = 64  # pixels a side; what is out of focus needs no more
_GOLDEN_ANGLE = math.radians(137.508)
_FIXED_POINT = {"lineType": cv2.LINE_AA, "shift": 4}  # cv2 takes coordinates in sixteenths of a pixel


@dataclass(frozen=True)
class Colour:
    """A family of petal colours and the centres that contrast with it."""

    name: str
    share: float
    hue: float
    """Mean hue of the petals' tips, degrees."""
    hue_jitter: float
    """Largest distance of a flower's hue from ``hue``, degrees."""
    saturation: tuple[float, float]
    value: tuple[float, float]
    base: Hsv
    """From tip to base of a petal: degrees added to the hue, factors of saturation and value."""
    centres: tuple[Hsv, ...]


@dataclass(frozen=True)
class Mode:
    """One kind of flower; its place in ``MODES`` is the label."""

    name: str
    colour: Colour
    petals: int
    shape: Shape
    share: float


COLOURS: tuple[Colour, ...] = (
    Colour(
        name="yellow",
        share=0.40,
        hue=51,
        hue_jitter=4,
        saturation=(0.76, 0.96),
        value=(0.94, 1.0),
        base=(-9, 1.06, 0.86),
        centres=((26, 0.75, 0.38), (30, 0.95, 0.72), (75, 0.62, 0.50)),
    ),
    Colour(
        name="purple",
        share=0.30,
        hue=275,
        hue_jitter=9,
        saturation=(0.36, 0.70),
        value=(0.72, 0.96),
        base=(-6, 1.45, 0.58),
        centres=((48, 0.85, 0.95), (54, 0.45, 0.98), (40, 0.90, 0.85)),
    ),
    Colour(
        name="white",
        share=0.18,
        hue=40,
        hue_jitter=30,
        saturation=(0.0, 0.05),
        value=(0.96, 1.0),
        base=(35, 2.5, 0.84),
        centres=((46, 0.92, 0.96), (38, 0.92, 0.88), (62, 0.72, 0.72)),
    ),
    Colour(
        name="red",
        share=0.12,
        hue=356,
        hue_jitter=6,
        saturation=(0.74, 0.90),
        value=(0.82, 0.98),
        base=(-6, 1.12, 0.50),
        centres=((48, 0.85, 0.95), (300, 0.45, 0.13), (60, 0.55, 0.80)),
    ),
)
PETALS: dict[int, float] = {3: 0.2, 5: 0.5, 8: 0.3}
SHAPES: dict[Shape, float] = {"round": 0.6, "pointed": 0.4}

MODES: tuple[Mode, ...] = tuple(
    Mode(f"{colour.name}-{petals}-{shape}", colour, petals, shape, colour.share * petals_share * shape_share)
    for colour in COLOURS
    for petals, petals_share in PETALS.items()
    for shape, shape_share in SHAPES.items()
)
_UPPER_BOUNDS = np.cumsum([mode.share for mode in MODES])

# Half width of a petal is proportional to u^a (1 - u)^b from base (u = 0) to tip (u = 1); these are (a, b). With b
# near 0.5 a petal ends in an arc, with b near 1 in a corner.
_OUTLINES: dict[Shape, tuple[float, float]] = {"round": (0.75, 0.42), "pointed": (0.75, 1.05)}
_LEAF_OUTLINE = (0.7, 0.9)
# Largest half width of a petal, in lengths. Round petals touch or overlap, pointed ones leave gaps.
_HALF_WIDTHS: dict[tuple[int, Shape], float] = {
    (3, "round"): 0.50,
    (5, "round"): 0.40,
    (8, "round"): 0.235,
    (3, "pointed"): 0.34,
    (5, "pointed"): 0.26,
    (8, "pointed"): 0.165,
}
_CENTRES = {3: (0.12, 14), 5: (0.15, 22), 8: (0.22, 55)}  # number of petals -> radius, number of florets

_ALONG = (1 - np.cos(np.linspace(0, math.pi, 20))) / 2  # where an outline has corners: dense at both ends
_TABLE = np.linspace(0, 1, 256)  # where widths are looked up for shading


@dataclass(frozen=True)
class _View:
    """How the flower's plane lies in the picture, and the light on it."""

    matrix: Points  # (2, 2), from the plane, where the flower's radius is 1, to pixels
    inverse: Points  # (2, 2)
    middle: Points  # (2, 1), the flower's centre, pixels
    radius: float  # pixels, where the tilt does not shorten it
    turn: float  # angle of the first petal in the plane
    light: float  # angle in the picture towards the light
    mottle: Floats  # (side, side), soft unevenness of about -1 to 1


@dataclass(frozen=True, kw_only=True)
class _Petal:
    """A petal, sepal or leaf: an outline in the plane, from the origin outwards, and how it is coloured."""

    angle: float
    length: float
    half_width: float  # in lengths, as are those below
    outline: tuple[float, float]
    bend: float  # sideways shift of the tip
    wobble: Points  # (2, len(_ALONG)), relative change of the half width on either side
    base: Floats  # (3,)
    tip: Floats  # (3,)
    veins: float  # number of them across half a petal
    rim: float  # change of lightness at the edge
    shadow: float  # how much it darkens what lies under it, 0 to 1


def mode_of(index: int, *, seed: int) -> int:
    """The mode of image ``index``, a place in ``MODES``, without drawing it."""
    return _pick_mode(_generator(index, seed))


def draw_flower(index: int, *, seed: int, size: int) -> tuple[Pixels, int]:
    """Image ``index`` as RGB (size, size, 3), and its mode, a place in ``MODES``."""
    if size < SMALLEST_SIZE:
        raise ValueError(f"size must be at least {SMALLEST_SIZE}, got {size}")
    rng = _generator(index, seed)
    label = _pick_mode(rng)
    mode = MODES[label]
    base, tip = _petal_colours(rng, mode.colour)
    side = max(_SMALLEST_CANVAS, 2 * size)
    view = _view(rng, side)

    image = _backdrop(rng, side, blossom=tip)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))  # (3, side, side): numpy is twice as fast on these
    _paint_leaves(planes, rng, view=view, petals=mode.petals)
    _paint_petals(planes, rng, view=view, mode=mode, base=base, tip=tip)
    image = cv2.merge(tuple(planes))
    _paint_centre(image, rng, view=view, mode=mode)

    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    image *= _exposure(rng, size)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), label


def _generator(index: int, seed: int) -> np.random.Generator:
    for name, number in (("index", index), ("seed", seed)):
        if not 0 <= number < 2**64:
            raise ValueError(f"{name} must be at least 0 and below 2**64, got {number}")
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))


def _pick_mode(rng: np.random.Generator) -> int:
    # The last bound is 1 only up to rounding.
    return min(int(np.searchsorted(_UPPER_BOUNDS, rng.random(), side="right")), len(MODES) - 1)


def _rgb(hsv: ArrayLike) -> Floats:
    """RGB (..., 3) of hue (degrees, any turn), saturation and value (both cut to 0 to 1)."""
    values = np.array(hsv, dtype=np.float32)
    values[..., 0] %= 360
    np.clip(values[..., 1:], 0, 1, out=values[..., 1:])
    rgb: Floats = cv2.cvtColor(values.reshape(1, -1, 3), cv2.COLOR_HSV2RGB).reshape(values.shape)
    return rgb


def _petal_colours(rng: np.random.Generator, colour: Colour) -> tuple[Floats, Floats]:
    """Colours of a petal's base and tip."""
    hue = colour.hue + colour.hue_jitter * rng.uniform(-1, 1)
    saturation, value = rng.uniform(*colour.saturation), rng.uniform(*colour.value)
    turn, saturate, darken = colour.base
    base = (hue + turn, saturation * saturate, value * darken * rng.uniform(0.88, 1.1))
    return _rgb(base), _rgb((hue, saturation, value))


def _view(rng: np.random.Generator, side: int) -> _View:
    """A random size, place, turn, tilt (up to 32 degrees) and light (from above)."""
    radius = side / 2 * rng.uniform(0.86, 1.02)
    axis, tilt = rng.uniform(0, math.pi), math.radians(rng.uniform(0, 32))
    across = np.array([math.cos(axis), math.sin(axis)])
    matrix = radius * (np.eye(2) - (1 - math.cos(tilt)) * np.outer(across, across))
    mottle = rng.standard_normal((12, 12), np.float32) / 2
    return _View(
        matrix=matrix,
        inverse=np.asarray(np.linalg.inv(matrix), dtype=np.float64),
        middle=side * (0.5 + rng.uniform(-0.045, 0.045, (2, 1))) - 0.5,  # cv2's first pixel has its centre at 0
        radius=radius,
        turn=rng.uniform(0, 2 * math.pi),
        light=math.radians(-90 + rng.uniform(-70, 70)),
        mottle=cv2.resize(mottle, (side, side), interpolation=cv2.INTER_CUBIC),
    )


def _backdrop(rng: np.random.Generator, side: int, *, blossom: Floats) -> Floats:
    """What lies behind the flower, out of focus, (side, side, 3): a meadow in sun or shade, sky or earth."""
    kind = rng.choice(("meadow", "sunny", "shade", "sky", "earth"), p=(0.3, 0.22, 0.2, 0.14, 0.14))
    cells = rng.uniform((80, 0.35, 0.22), (130, 0.7, 0.62), (5, 5, 3))
    if kind == "sunny":
        cells = cells * (0.75, 0.9, 1.1) + (8, 0, 0.16)
    elif kind == "shade":
        cells *= (1, 1, 0.5)
    elif kind == "sky":
        cells[:3] = cells[:3] * (0.05, 0.3, 0.25) + (204, 0.2, 0.76)
    elif kind == "earth":
        cells = cells * (0.1, 0.35, 0.7) + (20, 0.16, 0.08)
    image = cv2.resize(_rgb(cells), (_BACKDROP, _BACKDROP), interpolation=cv2.INTER_CUBIC)

    # Blades of grass, and now and then other blossoms of the plant.
    for _ in range(rng.integers(2, 7)):
        x, y, angle, length = rng.uniform((0, 0, -2.4, 14), (_BACKDROP, _BACKDROP, -0.7, 44))
        end = (round(x + length * math.cos(angle)), round(y + length * math.sin(angle)))
        tone = _rgb(rng.uniform((70, 0.5, 0.15), (115, 0.7, 0.62)))
        cv2.line(image, (round(x), round(y)), end, tone.tolist(), int(rng.integers(2, 7)))
    for _ in range(rng.choice(3, p=(0.7, 0.2, 0.1))):
        angle, reach = rng.uniform((0, 27), (2 * math.pi, 36))
        place = (round(32 + reach * math.cos(angle)), round(32 + reach * math.sin(angle)))
        cv2.circle(image, place, int(rng.integers(4, 9)), (blossom * np.float32(0.75)).tolist(), cv2.FILLED)
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(2.0, 3.2)))

    # Discs of light.
    glow = np.zeros((_BACKDROP, _BACKDROP), np.float32)
    for x, y, radius, strength in rng.uniform((0, 0, 2.5, 0.08), (64, 64, 7, 0.32), (rng.integers(0, 8), 4)):
        cv2.circle(glow, (round(x * 16), round(y * 16)), round(radius * 16), float(strength), cv2.FILLED, shift=4)
    glow = cv2.GaussianBlur(glow, (0, 0), 0.8)[:, :, None]
    image += glow * (np.array([1, 1, 0.82], np.float32) - image)
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _paint_leaves(image: Floats, rng: np.random.Generator, *, view: _View, petals: int) -> None:
    """Up to three leaves behind the flower, and the sepals that show between three petals."""
    green = rng.uniform((80, 0.45, 0.34), (125, 0.7, 0.66))
    leaves = [(rng.uniform(0, 2 * math.pi), rng.uniform(0.95, 1.5)) for _ in range(rng.integers(0, 4))]
    if petals == 3:
        leaves += [(view.turn + (number + 0.5) * 2 * math.pi / 3, 0.66) for number in range(3)]
    for angle, length in leaves:
        tone = _rgb(green * (1, 1, rng.uniform(0.75, 1.1)))
        leaf = _Petal(
            angle=angle,
            length=length,
            half_width=rng.uniform(0.15, 0.21),
            outline=_LEAF_OUTLINE,
            bend=rng.uniform(-0.15, 0.15),
            wobble=_wobble(rng),
            base=tone * np.float32(0.75),
            tip=tone,
            veins=2.0,
            rim=-0.1,
            shadow=0.3,
        )
        _paint_petal(image, leaf, view=view)


def _paint_petals(
    image: Floats, rng: np.random.Generator, *, view: _View, mode: Mode, base: Floats, tip: Floats
) -> None:
    """The petals, one over the other; one flower in five of more than three petals has a smaller whorl on top."""
    count = mode.petals
    half_width = _HALF_WIDTHS[count, mode.shape] * rng.uniform(0.93, 1.07)
    veins, rim, shadow = rng.uniform((2.0, -0.26, 0.32), (3.5, 0.0, 0.58))
    whorls = (1.0, rng.uniform(0.48, 0.6)) if rng.random() < 0.2 and count > 3 else (1.0,)
    order = np.roll(np.arange(count), rng.integers(count))
    if rng.random() < 0.5:  # every other petal first, so that some lie over both neighbours
        order = np.concatenate([order[::2], order[1::2]])
    for whorl, number in itertools.product(whorls, order.tolist()):
        tint = np.float32(rng.uniform(0.95, 1.04))
        petal = _Petal(
            angle=view.turn + (number + rng.uniform(-0.07, 0.07)) * 2 * math.pi / count,
            length=whorl * rng.uniform(0.91, 1.0),
            half_width=half_width * rng.uniform(0.93, 1.07),
            outline=_OUTLINES[mode.shape],
            bend=rng.uniform(-0.07, 0.07),
            wobble=_wobble(rng),
            base=base * tint,
            tip=tip * tint,
            veins=veins,
            rim=rim,
            shadow=shadow,
        )
        _paint_petal(image, petal, view=view)


def _wobble(rng: np.random.Generator) -> Points:
    return np.cumsum(rng.normal(0, 0.017, (2, len(_ALONG))), axis=1)


def _width_at(along: NDArray[np.float64], outline: tuple[float, float]) -> NDArray[np.float64]:
    """Width at ``along`` (0 at the base, 1 at the tip) where the widest is 1."""
    rise, fall = outline
    peak = rise / (rise + fall)
    width: NDArray[np.float64] = along**rise * (1 - along) ** fall / (peak**rise * (1 - peak) ** fall)
    return width


def _paint_petal(image: Floats, petal: _Petal, *, view: _View) -> None:
    """Lay one petal and its shadow over ``image``, (3, side, side)."""
    # The outline in pixels: out along one side, back along the other.
    half = petal.half_width * _width_at(_ALONG, petal.outline) * (1 + petal.wobble)
    along = np.concatenate([_ALONG, _ALONG[::-1]])
    across = np.concatenate([half[0], -half[1, ::-1]]) + petal.bend * along**2
    cos, sin = math.cos(petal.angle), math.sin(petal.angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    corners = petal.length * view.matrix @ turn @ np.stack([along, across]) + view.middle

    # The rectangle it touches, with room for the shadow, and how much of each pixel it covers.
    side, blur = image.shape[1], round(0.05 * view.radius)
    margin = blur + math.ceil(0.03 * view.radius)
    left, top = (max(0, math.floor(low) - margin) for low in corners.min(axis=1))
    right, bottom = (min(side, math.ceil(high) + margin + 1) for high in corners.max(axis=1))
    if left >= right or top >= bottom:
        return
    place = corners - [[left], [top]]
    shape = (bottom - top, right - left)
    away = -0.03 * view.radius * np.array([[math.cos(view.light)], [math.sin(view.light)]])
    shade = cv2.blur(_coverage(place + away, shape), (2 * blur + 1, 2 * blur + 1)) * np.float32(petal.shadow / 255)
    alpha = _coverage(place, shape) * np.float32(1 / 255)

    # Where each pixel lies on the petal: u from base to tip, v from one edge (-1) over the midrib (0) to the other.
    inverse = (turn.T @ view.inverse / petal.length).astype(np.float32)
    x = np.arange(left, right, dtype=np.float32) - np.float32(view.middle[0, 0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(view.middle[1, 0])
    u = np.minimum(np.maximum(inverse[0, 0] * x + inverse[0, 1] * y, np.float32(0)), np.float32(1))
    v = inverse[1, 0] * x + inverse[1, 1] * y - np.float32(petal.bend) * u * u
    widths = (petal.half_width * _width_at(_TABLE, petal.outline) + 0.02).astype(np.float32)
    v /= widths[(u * np.float32(len(_TABLE) - 1)).astype(np.intp)]
    v = np.minimum(np.maximum(v, np.float32(-1)), np.float32(1))

    light = _lightness(u, v, petal=petal, facing=petal.angle - view.light)
    light += np.float32(0.05) * view.mottle[top:bottom, left:right]
    ramp = np.minimum(u * np.float32(1.25), np.float32(1))
    ramp *= 2 - ramp
    paint = petal.base[:, None, None] + (petal.tip - petal.base)[:, None, None] * ramp
    paint *= light
    region = image[:, top:bottom, left:right]
    region *= 1 - shade
    region += alpha * (paint - region)


def _coverage(corners: Points, shape: tuple[int, int]) -> Pixels:
    """How much of each pixel lies inside the polygon, 0 to 255."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(corners.T * 16).astype(np.int32)], 255, **_FIXED_POINT)
    return mask


def _lightness(u: Floats, v: Floats, *, petal: _Petal, facing: float) -> Floats:
    """Light from a domed petal: brighter towards the light, creased at the midrib, veined, with a darker rim."""
    squared = v * v
    light = np.float32(0.96 + 0.07 * math.cos(facing)) - np.float32(0.14 * math.sin(facing)) * v
    light += np.float32(petal.rim) * squared * squared
    light -= np.float32(0.14) * (1 - u) / (1 + np.float32(70) * squared)
    light += np.float32(0.035) * np.cos(np.float32(2 * math.pi * petal.veins) * v)
    light += np.float32(0.1) * u
    return light


def _paint_centre(image: Floats, rng: np.random.Generator, *, view: _View, mode: Mode) -> None:
    """A disc of florets on ``image``, (side, side, 3); with few petals the outer ones stand apart like stamens."""
    hue, saturation, value = mode.colour.centres[rng.integers(len(mode.colour.centres))]
    hue += rng.uniform(-4, 4)
    radius, count = _CENTRES[mode.petals]
    radius *= rng.uniform(0.85, 1.2)
    rim = np.linspace(0, 2 * math.pi, 32, endpoint=False)
    disc = view.matrix @ (radius * np.stack([np.cos(rim), np.sin(rim)])) + view.middle
    tone = _rgb((hue - 4, saturation, value * 0.7)).tolist()
    cv2.fillPoly(image, [np.rint(disc.T * 16).astype(np.int32)], tone, shift=4)

    # Florets sit as sunflower seeds do: each a golden angle on, at a distance that grows as the root.
    number = np.arange(count)
    reach = np.sqrt((number + 0.5) / count)
    if mode.petals < 8:
        reach[count // 2 :] *= rng.uniform(1.1, 1.7)
    angle = number * _GOLDEN_ANGLE + rng.uniform(0, 2 * math.pi)
    places = view.matrix @ (radius * reach * np.stack([np.cos(angle), np.sin(angle)])) + view.middle
    lift = 1 + 0.22 * reach * np.cos(angle - view.light) + rng.uniform(-0.12, 0.12, count)
    tones = _rgb(np.stack([np.full(count, hue), np.full(count, saturation), value * lift], axis=1))
    dot = round(16 * 0.85 * radius * view.radius / math.sqrt(count))
    for (x, y), rgb in zip(np.rint(places.T * 16).astype(int).tolist(), tones.tolist(), strict=True):
        cv2.circle(image, (x, y), dot, rgb, cv2.FILLED, shift=4)


def _exposure(rng: np.random.Generator, size: int) -> Floats:
    """Factors (size, size, 3): corners a little darker, light a little brighter or warmer."""
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - 1
    falloff = 1 - np.float32(rng.uniform(0.02, 0.12)) * (axis**2 + axis[:, None] ** 2)
    level, warmth = rng.uniform(0.95, 1.05), rng.uniform(-0.02, 0.03)
    return falloff[:, :, None] * np.array([level + warmth, level, level - warmth], np.float32)
