"""Dataset JSON -> checked rows, and which of them belong to one problem."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mm_prm.cli import BadInput
from mm_prm.fields import is_count, is_number, is_probability, pictures_of, whole_images
from mm_prm.files import as_object, read_jsonl, read_object
from mm_prm.prm_format import MARKER, check_placeholders, placeable, question_of
from mm_prm.records import check_label_counts, parse_records


@dataclass(frozen=True)
class Row:
    """One training row. images: absolute paths; target: the reply (sft) or one label or None per marker (prm); counts:
    rollouts behind each label, where the row says it."""

    id: str
    images: list[str]
    text: str
    target: str | list[float | None]
    counts: list[int | None] | None = None


def parse_row(record: Any, root: Path, objective: str) -> Row:
    """One line of the training JSONL. Raises ValueError that names the field."""
    as_object(record)
    images = whole_images(pictures_of(record, "image"), root, "image")
    turns = record.get("conversations")
    try:
        (human, text), (gpt, target) = ((turn["from"], turn["value"]) for turn in turns)  # type: ignore[union-attr]
    except (TypeError, ValueError, KeyError):
        raise ValueError("field 'conversations': expected one human and one gpt turn") from None
    if (human, gpt) != ("human", "gpt") or not isinstance(text, str):
        raise ValueError("field 'conversations': expected one human and one gpt turn")
    counts = record.get("label_counts") if objective == "prm" else None
    if objective == "prm":
        _check_labels(text, target)
        check_label_counts(counts, target)
    else:
        if not isinstance(target, str) or not target:
            raise ValueError("field 'conversations': the gpt turn must be text")
    try:
        check_placeholders(placeable(text, objective), len(images))
    except ValueError as error:
        raise ValueError(f"field 'conversations': {error}") from None
    return Row(str(record.get("id", "")), images, text, target, counts)


def _check_labels(text: str, labels: Any) -> None:
    known = [label for label in labels if label is not None] if isinstance(labels, list) else []
    if not known or not all(map(is_probability, known)):
        raise ValueError(
            "field 'conversations': the gpt turn must be a list of numbers between 0 and 1 or null, at least one number"
        )
    if text.count(MARKER) != len(labels):
        raise ValueError(f"field 'conversations': {text.count(MARKER)} {MARKER} but {len(labels)} labels")


def read_rows(meta_path: str, objective: str, seed: int, skip_bad_rows: int = 0) -> list[Row]:
    """All rows of a dataset JSON, `repeat_time` applied (2: twice; 0.5: a seeded half).

    Relative paths belong to the dataset JSON's folder. Up to skip_bad_rows bad rows are left out, each said in a line;
    more raise BadInput naming every one.
    """
    meta = read_object(meta_path)
    if not meta:
        raise BadInput(f"{meta_path}: holds no dataset")
    if problems := [f"{meta_path}: dataset {name!r}: {line}" for name in meta for line in entry_faults(meta[name])]:
        raise BadInput(*problems)
    folder, rows = Path(meta_path).parent, []
    wrong_length, bad = [], []
    for name, entry in meta.items():
        annotation, root = folder / entry["annotation"], folder / (entry.get("root") or "")
        records = read_jsonl(annotation)
        if entry.get("length") not in (None, len(records)):
            found = f"length is {entry['length']}, but it has {len(records)} rows"
            wrong_length.append(f"{meta_path}: dataset {name!r}: {found}")
        good, wrong = parse_records(annotation, records, partial(parse_row, root=root, objective=objective))
        whole, part = divmod(entry.get("repeat_time", 1), 1)
        rows += good * int(whole) + random.Random(f"{seed} {name}").sample(good, round(part * len(good)))
        bad += wrong
    if wrong_length or len(bad) > skip_bad_rows:
        raise BadInput(*wrong_length, *bad)
    for line in bad:
        print(f"bad row left out ({len(bad)} of {skip_bad_rows} allowed): {line}", flush=True)
    if not rows:
        raise BadInput(f"{meta_path}: holds no row")
    return rows


MAX_REPEAT = 1000
# Field of a dataset's entry: is it right, and what was expected; only the annotation must be there.
ENTRY: dict[str, tuple[Callable[[Any], bool], str]] = {
    "annotation": (lambda value: isinstance(value, str) and value != "", "the path of a JSONL file"),
    "root": (lambda value: value is None or isinstance(value, str), "the path of a folder"),
    "repeat_time": (lambda value: is_number(value) and 0 <= value <= MAX_REPEAT, f"a number from 0 to {MAX_REPEAT}"),
    "length": (lambda value: value is None or is_count(value), "a whole number"),
    "data_augment": (lambda value: isinstance(value, (bool, int, type(None))), "true or false"),
}


def entry_faults(entry: Any) -> list[str]:
    """What is wrong with a dataset's entry, one line a field."""
    if not isinstance(entry, dict):
        return [f"expected an object, found {type(entry).__name__}"]
    given = {"annotation": None, **entry}
    wrong = [name for name, (is_right, _) in ENTRY.items() if name in given and not is_right(given[name])]
    return [f"field {name!r}: expected {ENTRY[name][1]}, found {shown(given[name])}" for name in wrong]


def shown(value: Any) -> str:
    """A value in a message, a long one by its kind."""
    text = ascii(value)
    return text if len(text) <= 60 else type(value).__name__


def by_problem(rows: Sequence[Row]) -> list[list[int]]:
    """Positions of the rows of each problem (same pictures, same question), problems in order of appearance."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault((question_of(row.text), *row.images), []).append(position)
    return list(groups.values())


def hold_out(rows: list[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows): a seeded `fraction` of the problems, at least one, is held out whole."""
    if not fraction:
        return rows, []
    problems = by_problem(rows)
    chosen = random.Random(f"{seed} held out").sample(problems, max(1, round(fraction * len(problems))))
    held = {position for problem in chosen for position in problem}
    if len(held) == len(rows):
        raise BadInput(f"--eval_fraction {fraction}: holds out all {len(problems)} problems")
    return (
        [row for position, row in enumerate(rows) if position not in held],
        [row for position, row in enumerate(rows) if position in held],
    )
