"""The desk's pictures, 112 x 112 pixels, one function for each kind; a random state decides what carries no number."""

from __future__ import annotations

import random

from PIL import ImageDraw, ImageFont

SIZE, PATCH = 112, 14  # pixels; one digit fills one 14-pixel patch of the vision tower, so that a tiny one can read it
FONT = ImageFont.load_default(size=13)
SMALL = ImageFont.load_default(size=10)
INK, LINE = (25, 25, 25), (90, 90, 90)
FILLS = [(174, 205, 240), (190, 226, 190), (250, 215, 170), (235, 200, 225), (205, 200, 240)]
ITEMS = ("pens", "caps", "bags")  # of the shopping list

Numbers = tuple[int, ...]


def number(draw: ImageDraw.ImageDraw, column: int, row: int, value: int) -> None:
    """Write a one- or two-digit number with its units in patch (column + 1, row), its tens in (column, row)."""
    for offset, digit in zip((0.62, 1.4), f"{value:2d}", strict=True):  # as close as two patches allow
        draw.text(((column + offset) * PATCH, (row + 0.5) * PATCH), digit, fill=INK, font=FONT, anchor="mm")


def draw_bars(draw: ImageDraw.ImageDraw, numbers: Numbers, rng: random.Random) -> None:
    """A bar chart of A, B and C, the value on top of each bar."""
    fill = rng.choice(FILLS)
    base = 7 * PATCH - 2
    for level in range(1, 6):
        draw.line((12, base - level * PATCH, SIZE - 4, base - level * PATCH), fill=(232, 232, 232))
    for index, value in enumerate(numbers):
        left, top_row = 14 + index * 2 * PATCH + PATCH // 2, 5 - round(value / 15 * 4)
        draw.rectangle((left + 4, (top_row + 1) * PATCH - 1, left + 24, base), fill=fill, outline=LINE)
        draw.rectangle((left + 1, top_row * PATCH, left + 27, (top_row + 1) * PATCH - 2), fill=(255, 255, 255))
        draw.text((left + 14, base + 8), "ABC"[index], fill=INK, font=SMALL, anchor="mm")
    for index, value in enumerate(numbers):
        number(draw, 2 * index + 1, 5 - round(value / 15 * 4), value)
    draw.line((10, 6, 10, base), fill=LINE)
    draw.line((10, base, SIZE - 3, base), fill=LINE)


def draw_quadrilateral(draw: ImageDraw.ImageDraw, numbers: Numbers, rng: random.Random) -> None:
    """A four-sided figure with three angles given and the fourth called x."""
    corners = [
        (x + rng.randint(-3, 3), y + rng.randint(-3, 3)) for x, y in ((7, 8), (SIZE - 8, 8), (SIZE - 8, 104), (7, 104))
    ]
    draw.polygon(corners, fill=(248, 246, 236), outline=LINE, width=2)
    for (column, row), value in zip(((1, 1), (5, 1), (5, 6)), numbers, strict=True):
        number(draw, column, row, value)
        draw.text(((column + 2) * PATCH + 1, row * PATCH + 1), "°", fill=INK, font=SMALL)
    draw.text((2 * PATCH, 6.5 * PATCH), "x", fill=INK, font=FONT, anchor="mm")


def draw_l_shape(draw: ImageDraw.ImageDraw, numbers: Numbers, rng: random.Random) -> None:
    """An L made of two rectangles: the upright part a by b, the foot c by d, sides written along the edges."""
    a, b, c, d = numbers
    left, middle, right, top, step, bottom = 2 * PATCH, 4 * PATCH, 7 * PATCH - 2, PATCH + 2, 4 * PATCH, 6 * PATCH + 10
    outline = [(left, top), (middle, top), (middle, step), (right, step), (right, bottom), (left, bottom)]
    draw.polygon(outline, fill=rng.choice(FILLS), outline=LINE, width=2)
    for y in range(step, bottom, 6):
        draw.line((middle, y, middle, y + 3), fill=LINE)
    for column, row, value in ((1, 0, a), (-1, 3, b), (4, 7, c), (6, 5, d)):
        number(draw, column, row, value)


def draw_table(draw: ImageDraw.ImageDraw, numbers: Numbers, rng: random.Random) -> None:
    """A shopping list with count and price; numbers = (count, price) of pens, caps, bags, then the two rows asked."""
    draw.rectangle((2, 1, SIZE - 3, 2 * PATCH - 4), fill=rng.choice(FILLS))
    for x, title in ((56, "count"), (92, "price")):
        draw.text((x, 12), title, fill=INK, font=SMALL, anchor="mm")
    for index, item in enumerate(ITEMS):
        row = 2 + 2 * index
        draw.text((5, (row + 0.5) * PATCH), item, fill=INK, font=SMALL, anchor="lm")
        number(draw, 3, row, numbers[2 * index])
        number(draw, 5, row, numbers[2 * index + 1])
        draw.line((2, (row + 1.5) * PATCH, SIZE - 3, (row + 1.5) * PATCH), fill=(190, 190, 190))
    draw.rectangle((2, 1, SIZE - 3, SIZE - 8), outline=LINE)
    draw.line((36, 1, 36, SIZE - 8), fill=LINE)


def draw_field(draw: ImageDraw.ImageDraw, numbers: Numbers, rng: random.Random) -> None:
    """A field with four sides, the lengths written inside along each side."""
    corners = [
        (x + rng.randint(-4, 4), y + rng.randint(-4, 4)) for x, y in ((9, 9), (SIZE - 9, 7), (SIZE - 8, 103), (8, 104))
    ]
    draw.polygon(corners, fill=(226, 240, 214), outline=LINE, width=2)
    for (column, row), value in zip(((3, 1), (5, 3), (3, 6), (1, 4)), numbers, strict=True):
        number(draw, column, row, value)
