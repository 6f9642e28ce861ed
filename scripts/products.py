"""Draw product images: shoes, bags, lamps and more, in any of six colours, plain, striped or dotted.

Each kind is a list of shapes on a canvas of 320 by 320 pixels, drawn three times as large and scaled down. The shapes
are our own; no fonts, photos or random numbers are used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter

SIDE = 320
_SCALE = 3
_FULL = SIDE * _SCALE

Point = tuple[float, float]
Corners = tuple[float, float, float, float]  # left, top, right, bottom
Shape = Callable[[ImageDraw.ImageDraw], None]  # draws itself in white
# A shape and its paint: `body` and `light` have the product's colour and pattern, `dark` a darker shade, `hole` shows
# the background, and anything else is a fixed colour.
Part = tuple[str, Shape]

COLORS = {
    "red": "#d81e26",
    "blue": "#1f55c8",
    "green": "#2f9a3c",
    "yellow": "#f5c816",
    "black": "#25252a",
    "brown": "#7d4a24",
}
PATTERNS = ("plain", "striped", "dotted")
_WALL = ("#dfe6ec", "#f2f4f6")
_FLOOR = ("#c9ccd0", "#a9adb2")
_HORIZON = 198


def polygon(*points: Point) -> Shape:
    return lambda draw: draw.polygon(_scaled(points), fill=255)


def curve(*points: Point) -> Shape:
    """Fill a closed curve through `points`: a Catmull-Rom spline."""
    dense: list[Point] = []
    for i in range(len(points)):
        around = [points[(i + k) % len(points)] for k in (-1, 0, 1, 2)]
        xs, ys = zip(*around, strict=True)
        dense += [(_spline(step / 16, *xs), _spline(step / 16, *ys)) for step in range(16)]
    return polygon(*dense)


def both_sides(*points: Point) -> tuple[Point, ...]:
    """Complete the right half of an outline, given from top to bottom, with its mirror image."""
    return (*points, *((SIDE - x, y) for x, y in reversed(points)))


def ellipse(*corners: float) -> Shape:
    return lambda draw: draw.ellipse(_scaled_corners(corners), fill=255)


def block(left: float, top: float, right: float, bottom: float, radius: float = 0) -> Shape:
    return lambda draw: draw.rounded_rectangle(_scaled_corners((left, top, right, bottom)), radius * _SCALE, fill=255)


def arc(corners: Corners, start: float, end: float, width: float) -> Shape:
    return lambda draw: draw.arc(_scaled_corners(corners), start, end, fill=255, width=round(width * _SCALE))


def line(width: float, *points: Point) -> Shape:
    return lambda draw: draw.line(_scaled(points), fill=255, width=round(width * _SCALE), joint="curve")


def _spline(t: float, a: float, b: float, c: float, d: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def _scaled(points: tuple[Point, ...]) -> list[Point]:
    return [(x * _SCALE, y * _SCALE) for x, y in points]


def _scaled_corners(corners: tuple[float, ...]) -> Corners:
    left, top, right, bottom = (each * _SCALE for each in corners)
    return left, top, right, bottom


KINDS: dict[str, tuple[Part, ...]] = {
    "shirt": (
        ("body", polygon(*both_sides((188, 62), (222, 74), (292, 138), (258, 178), (226, 152), (226, 276)))),
        ("dark", ellipse(124, 36, 196, 96)),
        ("hole", ellipse(131, 34, 189, 86)),
        ("dark", line(3, (226, 152), (219, 118))),
        ("dark", line(3, (94, 152), (101, 118))),
    ),
    "hat": (
        ("body", ellipse(24, 172, 296, 254)),
        ("dark", ellipse(74, 164, 246, 228)),
        ("body", curve((84, 200), (92, 120), (128, 78), (160, 86), (192, 78), (228, 120), (236, 200), (160, 218))),
        ("band", polygon((83, 180), (86, 158), (160, 176), (234, 158), (237, 180), (236, 200), (160, 218), (84, 200))),
    ),
    "shoe": (
        ("body", curve(
            (36, 216), (34, 150), (50, 122), (74, 136), (104, 134), (132, 112), (160, 128), (206, 168), (268, 182),
            (290, 212), (284, 228), (160, 232),
        )),
        ("#f2f2f0", curve((30, 216), (90, 222), (180, 226), (292, 212), (294, 238), (270, 248), (60, 248), (32, 240))),
        ("#c4c6ca", line(4, (34, 242), (150, 246), (288, 240))),
        ("#f2f2f0", line(8, (136, 142), (160, 122))),
        ("#f2f2f0", line(8, (152, 156), (178, 136))),
        ("#f2f2f0", line(8, (170, 170), (196, 150))),
        ("#f2f2f0", line(8, (190, 182), (214, 162))),
        ("light", curve((60, 196), (110, 200), (150, 172), (158, 180), (116, 214), (62, 212))),
        ("dark", line(4, (52, 124), (74, 138), (104, 136), (130, 114))),
    ),
    "boot": (
        ("body", curve(
            (92, 44), (176, 40), (184, 60), (182, 130), (196, 172), (250, 190), (278, 214), (280, 240), (180, 246),
            (92, 246), (86, 200), (98, 130),
        )),
        ("#2a1a12", polygon((86, 240), (282, 236), (282, 256), (156, 258), (148, 252), (142, 276), (90, 276))),
        ("dark", polygon((90, 42), (180, 38), (184, 62), (92, 64))),
        ("dark", line(4, (104, 130), (150, 150), (182, 132))),
        ("dark", line(3, (150, 150), (160, 236))),
    ),
    "bag": (
        ("dark", arc((102, 40, 218, 210), 180, 360, 14)),
        ("body", curve((64, 136), (110, 128), (210, 128), (256, 136), (276, 256), (262, 274), (58, 274), (44, 256))),
        ("light", curve((66, 134), (110, 126), (210, 126), (254, 134), (250, 176), (160, 206), (70, 176))),
        ("dark", line(3, (68, 178), (110, 196), (160, 206), (210, 196), (252, 178))),
        ("#e8c34a", block(146, 190, 174, 218, 6)),
    ),
    "backpack": (
        ("dark", arc((128, 22, 192, 90), 180, 360, 10)),
        ("dark", curve((70, 150), (48, 180), (48, 240), (72, 270))),
        ("dark", curve((250, 150), (272, 180), (272, 240), (248, 270))),
        ("body", curve(
            (72, 120), (96, 66), (160, 48), (224, 66), (248, 120), (256, 260), (236, 284), (160, 288), (84, 284),
            (64, 260),
        )),
        ("light", block(92, 186, 228, 268, 16)),
        ("dark", line(4, (92, 206), (228, 206))),
        ("dark", arc((84, 60, 236, 250), 200, 340, 4)),
        ("#e8c34a", block(152, 200, 168, 222, 3)),
    ),
    "umbrella": (
        ("#6a4a30", line(8, (160, 40), (160, 262))),
        ("#6a4a30", arc((160 - 44, 236, 164, 292), 0, 180, 8)),
        ("#6a4a30", line(6, (160, 30), (160, 60))),
        ("body", curve(
            (22, 176), (40, 110), (96, 62), (160, 48), (224, 62), (280, 110), (298, 176), (272, 162), (244, 162),
            (216, 178), (188, 164), (160, 162), (132, 164), (104, 178), (76, 162), (48, 162),
        )),
        ("dark", line(3, (160, 48), (128, 90), (104, 176))),
        ("dark", line(3, (160, 48), (192, 90), (216, 176))),
    ),
    "chair": (
        ("dark", line(12, (96, 180), (84, 292))),
        ("dark", line(12, (206, 180), (216, 262))),
        ("body", line(16, (92, 40), (98, 190))),
        ("body", line(16, (204, 40), (208, 190))),
        ("body", block(88, 40, 212, 72, 8)),
        ("body", block(94, 92, 210, 116, 6)),
        ("body", block(96, 136, 210, 156, 6)),
        ("light", polygon((90, 176), (208, 172), (246, 204), (110, 212))),
        ("body", polygon((110, 212), (246, 204), (246, 220), (110, 228))),
        ("body", polygon((90, 176), (110, 212), (110, 228), (90, 192))),
        ("body", line(14, (116, 222), (112, 300))),
        ("body", line(14, (238, 214), (244, 292))),
    ),
    "lamp": (
        ("#b08a3c", block(152, 140, 168, 270)),
        ("#b08a3c", ellipse(104, 252, 216, 288)),
        ("#fff3b0", ellipse(138, 142, 182, 180)),
        ("body", polygon((112, 44), (208, 44), (264, 166), (56, 166))),
        ("light", ellipse(56, 154, 264, 178)),
        ("#fff3b0", ellipse(66, 158, 254, 175)),
        ("#b08a3c", line(3, (214, 172), (214, 214))),
    ),
    "mug": (
        ("body", arc((188, 116, 290, 230), 0, 360, 20)),
        ("body", block(58, 92, 226, 274, 24)),
        ("body", ellipse(58, 72, 226, 122)),
        ("dark", ellipse(66, 78, 218, 116)),
        ("#4a2a16", ellipse(74, 88, 210, 115)),
    ),
}  # fmt: skip


def draw_product(kind: str, color: str, pattern: str = "plain") -> Image.Image:
    """Draw a product in front of a grey wall, as an RGB image of 320 by 320 pixels.

    Args:
        kind: The name of one of `KINDS`.
        color: The name of one of `COLORS`.
        pattern: One of `PATTERNS`.
    """
    art = Image.new("RGB", (_FULL, _FULL))
    outline = Image.new("L", art.size)
    paints = _paints(color)
    for paint, shape in KINDS[kind]:
        mask = Image.new("L", art.size)
        shape(ImageDraw.Draw(mask))
        if paint == "hole":
            outline = ImageChops.subtract(outline, mask)
            continue
        art.paste(paints.get(paint, paint), mask=mask)
        if paint in ("body", "light"):
            art.paste(paints["ink"], mask=ImageChops.multiply(mask, _print(pattern)))
        outline = ImageChops.lighter(outline, mask)
    size = (SIDE, SIDE)
    art, outline = (each.resize(size, Image.Resampling.BOX) for each in (art, outline))
    darker_below = Image.linear_gradient("L").resize(size).point(lambda level: level * 7 // 25)
    art.paste("black", mask=darker_below)
    picture = _backdrop().copy()
    shadow = Image.new("L", size)
    shadow.paste(outline.point(lambda alpha: alpha // 3), (4, 6))
    picture.paste("black", mask=shadow.filter(ImageFilter.GaussianBlur(4)))
    picture.paste(art, mask=outline)
    return picture


def _paints(color: str) -> dict[str, str]:
    base = COLORS[color]
    return {
        "body": base,
        "light": _mix(base, "white", 0.16),
        "dark": _mix(base, "white", 0.25) if color == "black" else _mix(base, "black", 0.38),
        "band": "#c8c8c8" if color == "black" else "#2b2b30",
        "ink": "#3a3a3a" if color == "yellow" else "#ffffff",
    }


def _mix(color: str, other: str, share: float) -> str:
    pairs = zip(ImageColor.getrgb(color), ImageColor.getrgb(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


@functools.cache
def _print(pattern: str) -> Image.Image:
    """Draw the mask for the second colour of a pattern."""
    mask = Image.new("L", (_FULL, _FULL))
    draw = ImageDraw.Draw(mask)
    step = 26 * _SCALE
    for row, y in enumerate(range(0, _FULL, step)):
        if pattern == "striped":
            draw.rectangle((0, y, _FULL, y + step * 0.3), fill=255)
        if pattern == "dotted":
            for x in range(step // 2 * (row % 2), _FULL, step):
                draw.circle((x, y), step * 0.16, fill=255)
    return mask


@functools.cache
def _backdrop() -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE))
    for (top, bottom), colors in zip(pairwise((0, _HORIZON, SIDE)), (_WALL, _FLOOR), strict=True):
        gradient = Image.linear_gradient("L").resize((SIDE, bottom - top))
        upper, lower = (Image.new("RGB", gradient.size, each) for each in colors)
        picture.paste(Image.composite(lower, upper, gradient), (0, top))
    return picture
