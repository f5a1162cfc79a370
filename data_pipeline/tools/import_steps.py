"""Turn published step labels into labelled paths.

    python data_pipeline/tools/import_steps.py --format prm800k \\
        --input phase2_train.jsonl --output_file paths.json

prm_data_format.py makes the paths into training rows. Labels lie between 0 and
1; null is a step that nobody labelled, and it stays in the text. By format:

    trl                 `soft_labels` where export.py wrote them, else true is 1
                        and false 0
    visualprm400k       the share of right continuations; null where none was
                        drawn (behind a step with 0)
    prm800k             rating 1 is 1, -1 is 0; 0 (neutral: not wrong, no
                        progress) is null, as is a flagged step
    visualprocessbench  the same for 1, -1 and 0
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mm_prm import cli
from mm_prm.fields import image_list, image_value, is_number, is_text
from mm_prm.files import as_object, write_json
from mm_prm.pictures import look
from mm_prm.prm_format import process_text
from mm_prm.records import parse_path, parse_records, placed_question, say_lost
from mm_prm.tables import ANSWER, Row, Table, cell, local_tables, picture_file

# Neutral is null: people rated whether a step is wrong, not how often one comes from it to the answer.
RATINGS = {1: 1.0, 0: None, -1: 0.0}


class Solution(NamedTuple):
    """What a reader takes from a row. images: a picture (as `picture_file` takes it), a list of them, or None;
    labels: one per entry of steps; blanks: how many steps without any text were left out; counts: rollouts behind each
    label, where the row says it."""

    question: str
    answer: Any
    images: Any
    steps: list[list[str]]
    labels: list[Any]
    blanks: int = 0
    counts: list[int | None] | None = None


def rating(value: Any, name: str) -> float | None:
    if not isinstance(value, int) or value not in RATINGS:
        raise ValueError(f"field {name!r}: expected 1, 0 or -1, found {value!r}")
    return RATINGS[value]


def objects(row: Row, name: str) -> list[Row]:
    values = cell(row, name, list)
    if not all(isinstance(value, dict) for value in values):
        raise ValueError(f"field {name!r}: expected a list of objects")
    return values


def read_trl(row: Row) -> Iterator[Solution]:
    """{"prompt": "...", "completions": ["...", "..."], "labels": [true, false], "images": [{"bytes": ...}]}

    What export.py wrote has `steps`, `soft_labels`, `label_counts`, `id` and `answer` as well.
    """
    steps = cell(row, "steps", list) if row.get("steps") else [[step] for step in cell(row, "completions", list)]
    labels = cell(row, "soft_labels" if row.get("soft_labels") else "labels", list)
    labels = [float(label) if isinstance(label, bool) else label for label in labels]
    images, counts = row.get("images") or row.get("image"), row.get("label_counts") if row.get("soft_labels") else None
    yield Solution(cell(row, "prompt"), row.get("answer"), images, steps, labels, counts=counts)


def share_right(step: Row) -> float | None:
    """`score`, which must be the share that the counts give where there are some."""
    score, right, drawn = cell(step, "score", (int, float)), step.get("num_mc_correct"), step.get("num_mc_total")
    if not is_number(score):
        raise ValueError("field 'score': is no number between 0 and 1")
    if drawn == 0:
        return None
    if isinstance(drawn, int) and not (
        isinstance(right, int) and 0 <= right <= drawn and abs(score - right / drawn) < 0.01
    ):
        raise ValueError(f"field 'score': {score}, but {right} of {drawn} continuations are right")
    return score


def read_visualprm400k(row: Row) -> Iterator[Solution]:
    """VisualPRM400K-v1.1-Raw (OpenGVLab). `question` is the prompt of its policy, `question_orig` the problem.

    {"image": "VisualPRM400K-v1.1-Raw/Geometry3K/1.png", "question_orig": "...", "question": "...", "answer": "52",
     "steps_with_score": [{"step": "...", "score": 0.125, "num_mc_correct": 2, "num_mc_total": 16}]}
    A list of two pictures in the rows of nlvr2. A blank step is left out with its label: it is no state of its own.
    """
    question = cell(row, "question_orig" if row.get("question_orig") else "question")
    scored = objects(row, "steps_with_score")
    written = [step for step in scored if cell(step, "step").strip()]
    labels = [share_right(step) for step in written]
    steps = [[step["step"]] for step in written]
    drawn = [step.get("num_mc_total") for step in written]
    counts = [None if label is None else count for label, count in zip(labels, drawn, strict=True)]
    yield Solution(
        question,
        row.get("answer"),
        row.get("image"),
        steps,
        labels,
        len(scored) - len(written),
        None if None in drawn else counts,
    )


def read_prm800k(row: Row) -> Iterator[Solution]:
    """PRM800K (OpenAI), either phase: the chosen steps, and a path for every other completion that is right or wrong.

    {"question": {"problem": "...", "ground_truth_answer": "..."}, "is_quality_control_question": false, ...,
     "label": {"finish_reason": "found_error", "steps": [{"completions": [{"text": "...", "rating": -1,
      "flagged": null}], "chosen_completion": null, "human_completion": null}]}}
    A step that a person wrote counts as right. Left out are the solutions that every labeller got (quality control,
    screening) and problems reported as broken.
    """
    problem, label = cell(row, "question", dict), cell(row, "label", dict)
    repeated = row.get("is_quality_control_question") or row.get("is_initial_screening_question")
    if repeated or label.get("finish_reason") == "bad_problem":
        return

    def solution(path: list[tuple[str, float | None]]) -> Solution:
        steps, labels = [[text] for text, _ in path], [value for _, value in path]
        return Solution(cell(problem, "problem"), problem.get("ground_truth_answer"), None, steps, labels)

    chosen: list[tuple[str, float | None]] = []
    for step in objects(label, "steps"):
        completions = [
            (cell(one, "text"), None if one.get("flagged") else rating(one.get("rating") or 0, "rating"))
            for one in (objects(step, "completions") if step.get("completions") else [])
        ]
        number = step.get("chosen_completion")
        if number is None and step.get("human_completion"):
            number = len(completions)
            completions.append((cell(cell(step, "human_completion", dict), "text"), 1.0))
        others = [other for n, other in enumerate(completions) if n != number and other[1] is not None]
        yield from (solution([*chosen, other]) for other in others)
        if number is None and others:
            return  # they hold the chosen steps
        if number is None:
            break
        if number not in range(len(completions)):
            raise ValueError(f"field 'chosen_completion': {number}, but there are {len(completions)} completions")
        chosen.append(completions[number])
    yield solution(chosen)


def read_visualprocessbench(row: Row) -> Iterator[Solution]:
    """VisualProcessBench (OpenGVLab).

    {"image": ["images/MathVision/12.png"], "question": "...", "answer": "C",
     "response": {"steps": ["...", "..."], "process_correctness": [1, -1]}}
    """
    question, response = cell(row, "question"), cell(row, "response", dict)
    steps = [[step] for step in cell(response, "steps", list)]
    labels = [rating(mark, "process_correctness") for mark in cell(response, "process_correctness", list)]
    yield Solution(question, row.get("answer"), row.get("image"), steps, labels)


FORMATS: dict[str, Callable[[Row], Iterator[Solution]]] = {
    "trl": read_trl,
    "visualprm400k": read_visualprm400k,
    "prm800k": read_prm800k,
    "visualprocessbench": read_visualprocessbench,
}


def unpacked(image: str) -> tuple[str, ...]:
    """The places of a picture: as it is named, else where images.zip of VisualPRM400K-v1.1-Raw puts it, which is
    images/X for VisualPRM400K-v1.1-Raw/X and for X, and images/nlvr2/images/X for the images/X of nlvr2."""
    inside = image.removeprefix("VisualPRM400K-v1.1-Raw/")
    return image, f"images/{inside}", f"images/nlvr2/{image}", inside, f"nlvr2/{image}"


def picture(value: Any, root: Path, image_dir: Path) -> str:
    """Absolute path. Bytes get a name by content, so that the paths of a problem share a file. Raises ValueError."""
    if isinstance(value, str) and value:
        value = unpacked(value)
    data = value.get("bytes") if isinstance(value, dict) else value
    name = hashlib.md5(data).hexdigest() if isinstance(data, bytes) else "picture"
    path = Path(os.path.abspath(picture_file(value, root, image_dir / name)))
    look(str(path))
    return str(path)


def path_record(id_: str, solution: Solution, root: Path, image_dir: Path) -> Row:
    """One record of the paths file. Raises ValueError that names the field."""
    question, answer, images, steps, labels, *_ = solution
    if not is_text(question):
        raise ValueError("field 'question': is blank")
    if answer is not None and (not isinstance(answer, ANSWER) or answer != answer):  # NaN is not equal to itself
        raise ValueError(f"field 'answer': expected a text or a number, found {answer!r}")
    if not all(isinstance(entry, list) and entry for entry in steps) or not all(map(is_text, sum(steps, []))):
        raise ValueError("field 'steps': expected texts, none of them blank")
    try:
        images = images if isinstance(images, list) else [images] if images else []
        images = [picture(image, root, image_dir) for image in images]
    except ValueError as error:
        raise ValueError(f"field 'image': {error}") from None
    question = placed_question(question.strip(), images)
    record: Row = {"id": id_, "question": question, "answer": None if answer is None else str(answer)}
    record["image_path"] = image_value(images)
    process = process_text(["\n".join(entry) for entry in steps])
    counts = {"label_counts": solution.counts} if solution.counts else {}
    return parse_path({**record, "steps": steps, "process": process, "labels": labels, **counts})


def read_paths(
    table: Table, read: Callable, root: Path, image_dir: Path, numbers: Iterator[int]
) -> tuple[list[list[Row]], list[str], int]:
    """For each good row its paths, those without any label left out; a line per bad row; how many blank steps the good
    ones had.

    numbers: of the rows, over all tables, for ids.
    """
    blanks = 0

    def parse(row: Any) -> list[Row]:
        nonlocal blanks
        number = next(numbers)
        as_object(row)
        id_ = str(f"{Path(table.name).stem}-{number}" if row.get("id") in (None, "") else row["id"])
        labelled = [solution for solution in read(row) if any(label is not None for label in solution.labels)]
        paths = [path_record(id_, solution, root, image_dir) for solution in labelled]
        blanks += sum(solution.blanks for solution in labelled)
        return paths

    return *parse_records(table.name, table.rows, parse), blanks


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--format", choices=list(FORMATS), required=True, help="how to read a row")
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="files: parquet, JSON list or JSONL")
    parser.add_argument(
        "--output_file", type=Path, required=True, help="paths, a JSON list; pictures in rows: <output>_images"
    )
    parser.add_argument(
        "--image_root",
        type=Path,
        help="folder of relative image paths (VisualPRM400K: the one that holds images/); default: that of the file",
    )
    parser.add_argument("--skip_invalid", action="store_true", help="leave bad rows out and list them")
    args = parser.parse_args()
    image_dir = args.output_file.with_name(f"{args.output_file.stem}_images")
    rows: list[list[Row]] = []
    bad: list[str] = []
    numbers = itertools.count(1)
    blanks = 0
    for table in (table for file in args.input for table in local_tables(file, "train", args.image_root)):
        good, lines, left_out = read_paths(table, FORMATS[args.format], table.folder, image_dir, numbers)
        rows += good
        bad += lines
        blanks += left_out
    paths = [path for row in rows for path in row]
    if (bad and not args.skip_invalid) or not paths:
        raise cli.BadInput(*bad, *([] if paths else [f"{args.input[0]}: holds no labelled path"]))
    for line in bad:
        print(f"skipped: {line}")
    say_lost(args.output_file, ((path["id"], path["question"], image_list(path["image_path"])) for path in paths))
    write_json(args.output_file, paths)
    labels = [label for path in paths for label in path["labels"]]
    nulls, empty = labels.count(None), rows.count([])
    print(f"{args.output_file}: {len(paths)} paths, {len(labels) - nulls} labels, {nulls} nulls")
    if blanks:
        print(f"{blanks} blank steps left out")
    print(f"rows: {len(rows) - empty} used, {empty} without a label, {len(bad)} skipped")


if __name__ == "__main__":
    cli.run(main)
