"""Published data sets as problems: rows of parquet, JSON or the hub in, pictures in a folder and seed records out."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mm_prm.cli import BadInput, Fault, first_line
from mm_prm.fields import image_value
from mm_prm.files import as_object, missing, read_json, read_jsonl, write_atomic
from mm_prm.pictures import picture_format, picture_path
from mm_prm.records import Problem, parse_problem, parse_records, placed_question, say_lost

BATCH = 64  # rows in memory at once: each may hold pictures of megabytes
ANSWER = (str, int, float)  # what an answer may be
Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows, the name that error lines give them, and the folder of the relative picture paths in them."""

    name: str
    folder: Path
    rows: Iterable[Any]


def local_tables(data: Path, stem: str, image_root: Path | None = None) -> list[Table]:
    """One file, or from a folder those of one split: `test.parquet`, `test-00000-of-00002.parquet`, ...

    JSON is taken where there is no parquet. image_root: of relative picture paths, by default each file's own folder.
    Raises BadInput when there is neither.
    """
    if data.is_file():
        return [Table(str(data), image_root or data.parent, _file_rows(data))]
    if not data.exists():
        raise BadInput(missing(data, "file or folder"))
    name = re.compile(rf"{re.escape(stem)}(-\d.*)?")
    for suffix in (".parquet", ".jsonl", ".json"):
        if files := sorted(path for path in data.rglob(f"*{suffix}") if name.fullmatch(path.stem)):
            return [Table(str(path), image_root or path.parent, _file_rows(path)) for path in files]
    raise BadInput(f"{data}: holds no {stem}.parquet, {stem}-*.parquet, {stem}.jsonl or {stem}.json")


def _file_rows(path: Path) -> Iterator[Any]:
    if path.suffix != ".parquet":
        data = read_jsonl(path) if path.suffix == ".jsonl" else read_json(path)
        yield from data.values() if isinstance(data, dict) else data if isinstance(data, list) else [data]
        return
    import pyarrow.parquet  # not imported for nothing: stage 6 reads seed files as well

    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(BATCH):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path}: not valid parquet ({first_line(error)})") from None


def hub_table(dataset: str, config: str | None, split: str) -> Table:
    """A split on the Hugging Face hub, streamed: other splits are not fetched. Reading its rows may raise Fault."""
    return Table(f"{dataset} ({split})", Path(), _hub_rows(dataset, config, split))


def _hub_rows(dataset: str, config: str | None, split: str) -> Iterator[Any]:
    import httpx
    from datasets import load_dataset

    try:
        rows = load_dataset(dataset, config, split=split, streaming=True)
        for batch in rows.with_format("arrow").iter(BATCH):  # as arrow, pictures stay the bytes that were published
            yield from batch.to_pylist()
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        raise Fault(f"{dataset} ({split}): cannot be read from the hub ({first_line(error)})") from None


def cell(row: Row, name: str, kind: type | tuple[type, ...] = str) -> Any:
    """A row's value in one column. Raises ValueError that names the column."""
    if not isinstance(row.get(name), kind):
        raise ValueError(f"field {name!r} is missing or of the wrong type")
    return row[name]


def picture_file(value: Any, folder: Path, target: Path) -> Path:
    """Where a picture lies: a path belongs to `folder`, and of a tuple of paths the first that is there is meant;
    bytes, alone or as {bytes, path}, are written to `target` with their format as suffix. Raises ValueError."""
    if isinstance(value, tuple):
        value = next((path for path in value if os.path.exists(folder / path)), value[0])
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return Path(picture_path(value, folder))
    if not isinstance(value, bytes):
        raise ValueError("is neither a path nor the bytes of a picture")
    path = target.with_name(f"{target.name}.{picture_format(value)}")
    if not path.exists() or path.read_bytes() != value:
        write_atomic(path, value)
    return path


def file_stem(id_: str) -> str:
    """A file name for an id: the id itself where it is a plain name, so that none leads out of the folder."""
    return id_ if re.fullmatch(r"\w[\w.-]{0,79}", id_, re.ASCII) else hashlib.md5(id_.encode("utf-8")).hexdigest()


def read_problems(
    tables: list[Table],
    read_row: Callable[[Row], Row],
    id_column: str,
    folder: Path,
    image_dir: Path,
    skip_invalid: bool = False,
) -> tuple[list[Problem], list[str]]:
    """All rows as problems, and a line per row left out.

    read_row: from a row to its seed record, but for `id` and with `images` (paths, bytes or {bytes, path}) in place of
    `image_path`. Bytes are written to `image_dir`; image_path becomes relative to `folder`. Where there is no column
    `id_column`, rows are numbered from 0. Raises BadInput naming every bad row, unless skip_invalid; always when
    nothing good is left.
    """
    problems: list[Problem] = []
    bad: list[str] = []
    seen: set[str] = set()
    numbers = itertools.count()

    def with_id(row: Any) -> Any:
        number = next(numbers)
        return {**row, "id": row.get(id_column, number)} if isinstance(row, dict) else row

    def parse(row: Any, source: Path) -> Problem:
        as_object(row)
        id_ = str(cell(row, id_column if id_column in row else "id", ANSWER))
        if id_ in seen:
            raise ValueError(f"field {id_column!r}: an earlier record has the same id")
        record = {name: value for name, value in read_row(row).items() if value is not None}
        paths = []
        for number, image in enumerate(record.pop("images"), 1):
            try:
                path = picture_file(image, source, image_dir / f"{file_stem(id_)}_{number}")
            except ValueError as error:
                raise ValueError(f"field 'image_path': picture {number} {error}") from None
            paths.append(os.path.relpath(path, folder))
        record["question"] = placed_question(cell(record, "question"), paths)
        problem = parse_problem({"id": id_, **record, "image_path": image_value(paths)}, folder)
        seen.add(id_)
        return problem

    for table in tables:
        good, lines = parse_records(table.name, map(with_id, table.rows), partial(parse, source=table.folder))
        problems += good
        bad += lines
    if bad and not skip_invalid:
        raise BadInput(*bad)
    if not problems:
        raise BadInput(*bad, f"{', '.join(table.name for table in tables)}: holds no usable record")
    say_lost(tables[0].name, ((problem.id, problem.question, problem.images) for problem in problems))
    return problems, bad
