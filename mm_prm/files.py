"""Files, read whole and checked before anything is done with them; written under a temporary name, flushed to disk and
renamed, so that a finished file is a fact."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mm_prm.cli import BadInput, naming


def read_text(path: str | Path) -> str:
    """A file's text; a UTF-8 byte order mark is accepted. Raises BadInput that names the file."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except IsADirectoryError:
        raise BadInput(f"{path}: is a folder, not a file") from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise
        raise BadInput(missing(path)) from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8, so not JSON ({error})") from None
    except ValueError as error:  # a NUL or half of a surrogate pair, from another file's field
        raise BadInput(f"{str(path)!r}: no such file ({error})") from None


def missing(path: str | Path, what: str = "file") -> str:
    """What to say of a path where nothing is."""
    url = "; it is a URL, and nothing is fetched: download it first" if re.search(r"(^|/)\w+:/", str(path)) else ""
    return f"{str(path)[:300]}: no such {what}{url}"


def parse_json(text: str) -> Any:
    """The value. Raises ValueError that says in one line what is wrong and where."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error})") from None
    except ValueError:  # an integer of more digits than Python converts
        most = sys.get_int_max_str_digits()
        number = re.search(rf"\d{{{most + 1},}}(?=\s*[],}}])", text)
        raise json.JSONDecodeError(
            f"a number has more than {most} digits", text, number.start() if number else 0
        ) from None


def read_json(path: str | Path) -> Any:
    """Read one JSON file. Raises BadInput that names the file and the line."""
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        if _is_json(text.strip().split("\n")[0]):
            raise BadInput(f"{path}: is JSONL, one value a line, where JSON, one value, is wanted: {error}") from None
        raise BadInput(f"{path}: {error}") from None


def _is_json(text: str) -> bool:
    try:
        return isinstance(parse_json(text), (dict, list))
    except ValueError:
        return False


def as_object(value: Any) -> dict[str, Any]:
    """The value, where it is a JSON object. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    return value


def read_object(path: str | Path) -> dict[str, Any]:
    try:
        return as_object(read_json(path))
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None


def read_json_list(path: str | Path) -> list[Any]:
    data = read_json(path)
    if not isinstance(data, list):
        raise BadInput(f"{path}: expected a JSON list of records, found {type(data).__name__}")
    return data


def read_jsonl(path: str | Path) -> list[Any]:
    """Read one JSON value per line; blank lines are skipped. Raises BadInput that names the bad line."""
    text, rows = read_text(path), []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(parse_json(line))
            except ValueError as error:
                if not rows and _is_json(text):
                    break
                raise BadInput(f"{path}: line {number}: {error}") from None
    if len(rows) == 1 and isinstance(rows[0], list) or not rows and text.strip():
        raise BadInput(f"{path}: is JSON, one value, where JSONL, one value a line, is wanted")
    return rows


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write, under a temporary name in the same folder, then fsync and rename: readers see the old file or
    the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomic(path: str | Path, content: str | bytes) -> None:
    with replacing(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: str | Path, data: Any) -> None:
    """An object indented, a list with one record a line, so that both can be read and large lists are written fast."""
    if isinstance(data, list):
        text = "[" + ",".join("\n" + json.dumps(record, ensure_ascii=False) for record in data) + "\n]\n"
    else:
        text = json.dumps(data, ensure_ascii=False, indent=1) + "\n"
    write_atomic(path, text)


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
