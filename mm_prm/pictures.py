"""Pictures: how a file becomes the pixels that policy and PRM see, and how a question points to its pictures.

Nothing else opens a picture that is looked at, so training, scoring and the policy's server see the same.
"""

from __future__ import annotations

import io
import os
import re
from base64 import b64encode
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

MAX_IMAGE_PIXELS = 64_000_000  # 8000 x 8000; a larger picture is refused before it is decoded
NOT_DECODED_HERE = ("EPS", "WMF")  # Pillow starts Ghostscript, or asks Windows, to draw these
PLAIN = ("PNG", "JPEG")  # formats that every server reads alike; other files are sent as PNG

_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
_POINTER = re.compile(r"<\|?(?:image|img)[ _:#-]*(\d*)\s*/?\|?>|<img\s[^<>]*>", re.IGNORECASE)
LAST_ORDINAL = 99  # a larger number, as in <img_3362>, is a name


# ---------------------------------------------------------------- files


class Look(NamedTuple):
    """A picture's size, turned upright; plain: the MIME type under which the file itself can be sent, None if not."""

    width: int
    height: int
    plain: str | None


def open_picture(path: str | Path) -> Image.Image:
    """The first frame as RGB: turned upright as EXIF says, laid on white, 8 bits deep. Raises ValueError that names
    the file, whatever its decoder stumbles over.

    Depth: 16-bit grey is 0..65535. Whole numbers of 32 bits and floats do not say their range: it is the smallest of
    0..1 (floats), 0..255 and 0..65535 that holds the largest value, else 0..the largest value.
    """
    with _opened(path) as image:
        return _flat(_upright(image))


@lru_cache(maxsize=100_000)
def look(path: str) -> Look:
    """Open a picture once to know that it can be opened. Raises ValueError as `open_picture`."""
    with _opened(path) as image:
        plain = image.format in PLAIN and image.mode in ("RGB", "L") and not image.has_transparency_data
        kind = f"image/{str(image.format).lower()}" if plain and not _is_turned(image) else None
        return Look(*_flat(_upright(image)).size, kind)


def picture_bytes(path: str) -> tuple[str, bytes]:
    """MIME type and bytes that any server decodes to the pixels of `open_picture`: the file itself where it is plain,
    else a PNG. Servers differ in what they do with the rest: vLLM shows 16-bit grey as white, and some of what is
    transparent as it lies beneath. Raises ValueError, OSError."""
    if kind := look(path).plain:
        return kind, Path(path).read_bytes()
    open_picture(path).save(file := io.BytesIO(), "PNG", compress_level=1)  # the tightest takes ten times as long
    return "image/png", file.getvalue()


def data_uri(path: str | Path, max_side: int) -> str:
    """A picture as text for a page, at most max_side pixels wide and high, without its metadata. Raises ValueError when
    it is broken."""
    small = open_picture(path)
    small.thumbnail((max_side, max_side))
    small.save(file := io.BytesIO(), "WEBP", quality=90)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"


def picture_format(data: bytes) -> str:
    """The suffix of a picture's bytes, undecoded. Raises ValueError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return (image.format or "image").lower()
    except Exception as error:
        raise ValueError(f"cannot be opened as an image ({_reason(error)})") from None


def picture_path(image: str, folder: Path) -> str:
    """Absolute path of a picture; a relative one belongs to `folder`. Raises ValueError for a URL."""
    if _URL.match(image):
        what = "a data URI" if image[:5].lower() == "data:" else _short(image)
        raise ValueError(f"{what} is not the path of a file: pictures are not fetched")
    if ".." in Path(image).parts:  # above a folder that is a link is where the link leads, not where it lies
        folder = Path(os.path.realpath(folder))
    return os.path.abspath(folder / image)


def _short(text: str) -> str:
    """A name for a message: what stands for a path may be a whole picture in base64."""
    return text if len(text) <= 200 else f"{text[:80]}... ({len(text)} characters)"


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The decoded picture as it is in the file. Any exception, in the body too, is a ValueError that names the file."""
    name = _short(str(path))
    over = f"over the limit {MAX_IMAGE_PIXELS}"
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise _Refused(f"{name} has {image.width * image.height} pixels, {over}")
            if image.format in NOT_DECODED_HERE:
                raise _Refused(f"{name} cannot be opened as an image (it is {image.format}; convert it to PNG)")
            image.load()
            yield image
    except _Refused as error:
        raise ValueError(str(error)) from None
    except FileNotFoundError:
        raise ValueError(f"{name} does not exist") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{name}: its pixels are {over}, or the pixel limit of Pillow") from None
    except Exception as error:  # Pillow's decoders raise what they like: SyntaxError, IndexError, struct.error, ...
        raise ValueError(f"{name} cannot be opened as an image ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no known format"
    return _short(" ".join((getattr(error, "strerror", None) or f"{type(error).__name__}: {error}").split()))


class _Refused(Exception):
    """A picture that will not be decoded."""


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # broken EXIF: whoever decodes the file may make something of it
        return True


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF: the picture itself is decoded already
        return image


def _flat(image: Image.Image) -> Image.Image:
    """Any mode as RGB, on white where it is transparent."""
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image).convert("RGB")
    if image.mode == "LAB":  # Pillow has no conversion of its own
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")  # type: ignore[return-value]
    if not image.has_transparency_data:
        return image.convert("RGB")
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of a PNG of 16 bits, whose colours Pillow cuts to 8
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode in ("La", "RGBa"):  # premultiplied: there is only one way out
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or floats, as 8 bits: see `open_picture`. Below 0, and no number, is black."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0)
    top = float(values.max(initial=0))
    ranges = (65535,) if image.mode.startswith("I;16") else (1, 255, 65535) if image.mode == "F" else (255, 65535)
    full = next((limit for limit in ranges if top <= limit), top)
    levels = np.rint(values.clip(0) * (255 / full)).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):  # a PNG's grey that stands for nothing
        levels[values == transparent] = 255
    return Image.fromarray(levels)


# ---------------------------------------------------------------- in a question


def place_pictures(question: str, count: int) -> str:
    """A question whose `count` pictures stand before it, in their order, as policy and PRM see them. Raises ValueError
    when it points to a picture and there is none at all.

    `<image>`s at its beginning fall away. Every other pointer becomes readable text: `<image2>`, `<image_2>`, `<img_2>`
    and the like `[image 2]`; `<image>` the next picture in order. Names (`<img_3362>`, `<img src=...>`) are numbered as
    they come, each always the same picture.
    """
    if count == 0 and (found := _POINTER.search(question)):
        raise ValueError(f"points to a picture ({_short(found[0])}), but there is none")
    leading = re.match(rf"(\s*<image>\s*){{0,{count}}}", question)
    start = leading.end() if leading and leading.end() < len(question) else 0
    places: dict[Hashable, int] = {place: place for place in range(1, question.count("<image>", 0, start) + 1)}
    numbers = [int(found[1]) for found in _POINTER.finditer(question) if found[1]]
    ordinal, first = max(numbers, default=0) <= LAST_ORDINAL, 0 if 0 in numbers else 1

    def text(found: re.Match[str]) -> str:
        if found[1] and ordinal:
            return f"[image {int(found[1]) - first + 1}]"
        # A bare <image> is a picture of its own: where it stands is its name.
        name = found[0] if found[1] or "=" in found[0] else ("at", found.start())
        return f"[image {places.setdefault(name, len(places) + 1)}]"

    return _POINTER.sub(text, question[start:])


def lost_pointers(question: str, count: int) -> int:
    """How many pointers of a question from `place_pictures` lead to no picture."""
    return sum(int(number) > count for number in re.findall(r"\[image (\d{1,9})\]", question))
