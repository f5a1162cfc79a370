"""Every other record on disk, and the only code that checks them: seed problems (stages 1 and 2 in), labelled paths
(stage 3 out), rollouts and their scores (stage 6)."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mm_prm.cli import BadInput
from mm_prm.fields import (
    as_text,
    check_text,
    checked,
    is_count,
    is_number,
    is_probability,
    pictures_of,
    text_field,
    whole_images,
)
from mm_prm.files import as_object, read_json_list
from mm_prm.pictures import lost_pointers, place_pictures


@dataclass(frozen=True)
class Problem:
    """A seed problem. question: as `place_pictures` spells it; images: absolute paths, in order, empty for a text-only
    problem; record: the row as read."""

    id: str
    question: str
    answer: str
    images: list[str]
    record: dict[str, Any] = field(compare=False)

    @property
    def key(self) -> str:
        """md5 of the seed record, the name of its tree file.

        Image paths count by file name alone, so the key is the same from the seed file and from a chunk of it.
        """
        names = [Path(image).name for image in self.images]
        content = json.dumps({**self.record, "image_path": names}, ensure_ascii=False, sort_keys=True)
        return hashlib.md5(content.encode("utf-8")).hexdigest()


def parse_problem(record: Any, folder: Path) -> Problem:
    """One seed record; relative image paths belong to `folder`. Raises ValueError that names the field."""
    as_object(record)
    id_, question, answer = (text_field(record, name) for name in ("id", "question", "correct_answer"))
    images = whole_images(pictures_of(record), folder)
    return Problem(id_, placed_question(question, images), answer, images, record)


def placed_question(question: str, images: list[str]) -> str:
    """`place_pictures`, its ValueError naming the field."""
    try:
        return place_pictures(question, len(images))
    except ValueError as error:
        raise ValueError(f"field 'question': {error}") from None


def say_lost(path: str | Path, questions: Iterable[tuple[str, str, list[str]]]) -> None:
    """A line about questions (id, text, images) that point to pictures which are not there: many of MATH-V name the
    parts of one."""
    if ids := list(dict.fromkeys(id_ for id_, text, images in questions if lost_pointers(text, len(images)))):
        what = f"{len(ids)} questions point to more pictures than they have"
        print(f"warning: {path}: {what}: id {', '.join(ids[:5])}{', ...' * (len(ids) > 5)}", file=sys.stderr)


def parse_records(path: str | Path, rows: Iterable[Any], parse: Callable[[Any], Any]) -> tuple[list[Any], list[str]]:
    """Parse every row; return the good ones and one line `file: record N (id ...): what is wrong` per bad one."""
    good, bad = [], []
    # A bar where it takes more than a moment: the pictures are decoded
    bar = tqdm(rows, desc=Path(path).name, unit=" records", delay=3, mininterval=1, leave=False)
    for number, row in enumerate(bar, 1):
        try:
            check_text(row)
            good.append(parse(row))
        except (ValueError, RecursionError) as error:
            what = "nested too deeply" if isinstance(error, RecursionError) else error
            bad.append(f"{path}: record {number}{_id_of(row)}: {what}")
    return good, bad


def _id_of(row: Any) -> str:
    id_ = row.get("id") if isinstance(row, dict) else None
    shown = " ".join(f"{'' if id_ is None else id_}".split())[:80].encode("utf-8", "backslashreplace").decode("utf-8")
    return f" (id {shown})" if shown else ""


def read_seed(path: str | Path, skip_invalid: bool = False) -> tuple[list[Problem], list[str]]:
    """Read a seed file or chunk. Returns the problems and a line per record left out.

    Raises BadInput naming every bad record, unless skip_invalid; always when nothing good is left.
    """
    rows, seen = read_json_list(path), set()

    def parse(row: Any) -> Problem:
        problem = parse_problem(row, Path(path).parent)
        if problem.id in seen:
            raise ValueError("field 'id': an earlier record has the same id")
        seen.add(problem.id)
        return problem

    problems, bad = parse_records(path, rows, parse)
    if bad and not skip_invalid:
        raise BadInput(*bad)
    if not problems:
        raise BadInput(*bad, f"{path}: holds no usable record")
    say_lost(path, ((problem.id, problem.question, problem.images) for problem in problems))
    return problems, bad


def parse_path(record: Any) -> dict[str, Any]:
    """{id, question, answer, image_path, steps: [[step, ...], ...], process, labels}: one label per entry of steps.

    A label is a number, or null for an entry without one; label_counts, where it is there, says of how many rollouts.
    """
    record = checked(record, question=str, steps=list, process=str, labels=list)
    if len(record["steps"]) != len(record["labels"]):
        raise ValueError(f"field 'labels': {len(record['labels'])} labels for {len(record['steps'])} entries of steps")
    known = [label for label in record["labels"] if label is not None]
    if not known or not all(map(is_probability, known)):
        raise ValueError("field 'labels': must be numbers between 0 and 1 or null, at least one number")
    check_label_counts(record.get("label_counts"), record["labels"])
    return record


def check_label_counts(counts: Any, labels: list[Any]) -> None:
    """Raises ValueError unless there are none, or one for each label: rollouts behind it, at least 1; null for null."""
    if counts is None:
        return
    if not isinstance(counts, list) or len(counts) != len(labels):
        raise ValueError(f"field 'label_counts': expected a list of {len(labels)}, one for every label")
    for label, count in zip(labels, counts, strict=True):
        if count is not None if label is None else not (is_count(count) and count):
            expected = "null" if label is None else "a whole number above 0"
            raise ValueError(f"field 'label_counts': expected {expected} for the label {label}, found {count!r}")


CANDIDATE_FIELDS: dict[str, type | tuple[type, ...]] = {
    "solutions_splits": list,
    "labels": int,
    "undecided": int,
    "answers": (str, type(None)),
    "solutions": str,
    "logprobs": (int, float),
    "prm_scores": list,
}


def outcome_fields(verdicts: Iterable[bool | None]) -> dict[str, list[int]]:
    """`labels` of candidates and, where there are such, which of those labelled 0 are `undecided`."""
    verdicts = list(verdicts)
    undecided = {"undecided": [int(verdict is None) for verdict in verdicts]} if None in verdicts else {}
    return {"labels": [int(verdict is True) for verdict in verdicts], **undecided}


def parse_rollouts(record: Any) -> dict[str, Any]:
    """{id, question, image_path, answer, solutions_splits: [[step, ...]], answers, labels: [0|1], ...}.

    undecided: [0|1], where there are candidates without a verdict; their label is 0.
    """
    record = checked(record, question=str, solutions_splits=list, labels=list)
    if not isinstance(as_text(record.get("answer")), (str, type(None))):
        raise ValueError("field 'answer': expected a text or a number")
    record = {**record, "answer": as_text(record.get("answer"))}
    count = len(record["solutions_splits"])
    if count == 0:
        raise ValueError("field 'solutions_splits': no candidate")
    for name, kind in CANDIDATE_FIELDS.items():
        entries = record.get(name)
        if entries is None:
            continue
        if not isinstance(entries, list) or len(entries) != count:
            raise ValueError(f"field {name!r}: expected a list with one entry for each of the {count} candidates")
        if not all(
            isinstance(entry, kind) and (name != "logprobs" or is_number(entry) or entry == -inf) for entry in entries
        ):
            raise ValueError(f"field {name!r}: an entry is of the wrong type or not a number")
    if not all(isinstance(step, str) for steps in record["solutions_splits"] for step in steps):
        raise ValueError("field 'solutions_splits': every step must be text")
    for name in ("labels", "undecided"):
        if not all(value in (0, 1) for value in record.get(name) or ()):
            raise ValueError(f"field {name!r}: must be 0 or 1")
    if any(label and unknown for label, unknown in zip(record["labels"], record.get("undecided") or (), strict=False)):
        raise ValueError("field 'undecided': a candidate with label 1 is decided")
    return record


def parse_scored(record: Any) -> dict[str, Any]:
    """A rollouts record that has been scored: one number per step of every candidate."""
    record = parse_rollouts(record)
    if record.get("prm_scores") is None:
        raise ValueError("field 'prm_scores' is missing: run evaluate_prm.py first")
    for steps, scores in zip(record["solutions_splits"], record["prm_scores"], strict=True):
        if len(scores) != len(steps) or not all(map(is_probability, scores)):
            raise ValueError("field 'prm_scores': must be one number between 0 and 1 per step")
    return record


def dataset_entry(root: Path, annotation: Path, length: int) -> dict[str, Any]:
    """One entry of the dataset JSON that the fine-tune script reads."""
    return {
        "root": str(root.resolve()),
        "annotation": str(annotation.resolve()),
        "data_augment": False,
        "repeat_time": 1,
        "length": length,
    }


def read_checked(path: str | Path, parse: Callable[[Any], Any]) -> list[Any]:
    """A JSON list, every record turned by `parse`; raises BadInput naming each one that it refuses."""
    good, bad = parse_records(path, read_json_list(path), parse)
    if bad:
        raise BadInput(*bad)
    if not good:
        raise BadInput(f"{path}: holds no record")
    return good
