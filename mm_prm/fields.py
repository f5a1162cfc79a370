"""Fields of a record: what they may hold, under which names others write them, and the pictures that they name."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mm_prm.files import as_object
from mm_prm.pictures import look, picture_path

# What others call our fields, in small letters alone.
_PICTURES = {"image", "images", "img", "imgs", "picture", "pictures", "figure", "figures", "video", "videos"}
_PICTURES |= {kind + what for kind in ("image", "images", "img") for what in ("path", "paths", "file", "files", "url")}
NEARLY = {
    "image_path": _PICTURES,
    "image": _PICTURES,
    "id": {"id", "pid", "qid", "questionid", "problemid", "index", "idx"},
    "question": {"question", "problem", "query", "prompt"},
    "correct_answer": {"correctanswer", "answer", "finalanswer", "groundtruth", "gt", "reference"},
}


def nearly(record: dict[str, Any], name: str) -> str | None:
    """The key of a record that lacks `name` under which it probably has it: `images`, `imagePath` or `image_1` for
    `image_path`."""
    for key, value in () if name in record else record.items():
        if re.sub("[^a-z]", "", key.lower()) in NEARLY.get(name, ()) and value not in (None, "", []):
            return key
    return None


def pictures_of(record: dict[str, Any], name: str = "image_path") -> Any:
    """A record's pictures, None without any. Raises ValueError where it has them under another key: it would silently
    go on without them."""
    if key := nearly(record, name):
        raise ValueError(f"field {key!r}: pictures are read from {name!r}")
    return record.get(name)


def image_list(image: Any) -> list[str]:
    """`image_path`/`image` of any record as a list: a string, a list of strings, or null/absent/'' for none."""
    if image is None or image == "":
        return []
    images = [image] if isinstance(image, str) else image
    if not isinstance(images, list) or not all(isinstance(entry, str) and entry for entry in images):
        raise ValueError("must be a path, a list of paths, or null")
    return images


def image_value(images: list[str]) -> str | list[str] | None:
    """The inverse of `image_list`: one path as a string, several as a list, none as null."""
    return images[0] if len(images) == 1 else (images or None)


def rebased(value: Any, images: list[str], folder: Path) -> str | list[str] | None:
    """`image_path` of a record that goes to a file in `folder`: relative paths lead from there to the same pictures.

    images: the absolute paths.
    """
    folder = Path(os.path.realpath(folder))  # `..` of a folder that is a link is where the link leads
    pairs = zip(image_list(value), images, strict=True)
    return image_value([path if os.path.isabs(path) else os.path.relpath(full, folder) for path, full in pairs])


def whole_images(value: Any, folder: Path, name: str = "image_path") -> list[str]:
    """Absolute paths of a record's images, decoded once; relative ones belong to `folder`. Raises ValueError that names
    the field."""
    try:
        images = [picture_path(image, folder) for image in image_list(value)]
        for image in images:
            look(image)  # decodes it, once
    except ValueError as error:
        raise ValueError(f"field {name!r}: {error}") from None
    return images


def as_text(value: Any) -> Any:
    """An id or answer that is a number as text; anything else as it is."""
    return str(value) if is_number(value) else value


def text_field(record: dict[str, Any], name: str) -> str:
    value = as_text(record.get(name))
    if not is_text(value):
        hint = f": is it {key!r}?" if (key := nearly(record, name)) else ""
        raise ValueError(f"field {name!r} is missing, blank or not text{hint}")
    return value


def check_text(record: Any) -> None:
    """Raises ValueError that names the field with half of a surrogate pair: JSON can carry it, UTF-8 cannot."""
    if _is_writable(record) or not isinstance(record, dict):
        return
    name = next(name for name, value in record.items() if not _is_writable([name, value]))
    raise ValueError(f"field {name!r}: holds half of a surrogate pair, which is no text")


def _is_writable(value: Any) -> bool:
    try:
        return bool(json.dumps(value, ensure_ascii=False, default=lambda other: None).encode("utf-8"))
    except UnicodeEncodeError:
        return False


def field_of(data: dict[str, Any], name: str, is_right: Callable[[Any], bool], expected: str, *default: Any) -> Any:
    """Raises ValueError that names the field where it is wrong, KeyError where it is missing and has no default."""
    value = data.get(name, *default) if default else data[name]
    if not is_right(value):
        raise ValueError(f"field {name!r}: expected {expected}")
    return value


def is_list_of(is_right: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(map(is_right, value))


def is_text(value: Any) -> bool:
    """A text that says something."""
    return isinstance(value, str) and value.strip() != ""


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_probability(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def is_number(value: Any) -> bool:
    """A finite number that a float can hold."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # NaN is not; float() would fail where an integer is larger


def checked(record: Any, **types: type | tuple[type, ...]) -> dict[str, Any]:
    """The record, its id as text, when it has the fields. Raises ValueError that names the field."""
    as_object(record)
    record = {**record, "id": as_text(record.get("id"))}
    for name, kind in {"id": str, **types}.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"field {name!r} is missing or of the wrong type")
    image_list(pictures_of(record))
    return record
