"""Turn a published benchmark of step errors into rollouts to be scored.

    python eval/step_benchmarks.py --benchmark visualprocessbench \\
        --data VisualProcessBench --output_file vpb.json --dev_fraction 0.2

All solutions of a problem go into one record, so that a problem is never on
both sides of a split. Beside the fields of a rollouts file it has `benchmark`,
`source` (the data set the problem is from) and, per solution, `step_labels`
(one per step: 1 correct, 0 wrong, null not labelled), `policies` and
`sample_ids`. prm/step_errors.py turns the scores into the benchmark's numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mm_prm import cli
from mm_prm.fields import image_list, image_value, whole_images
from mm_prm.files import as_object, write_json
from mm_prm.records import parse_records, placed_question, say_lost
from mm_prm.tables import Row, Table, cell, local_tables

PER_SOLUTION = ("solutions_splits", "labels", "step_labels", "policies", "sample_ids")


def _steps(row: Row) -> list[str]:
    steps = cell(row, "steps", list)
    if not steps or not all(isinstance(step, str) for step in steps):
        raise ValueError("field 'steps': expected the texts of at least one step")
    return steps


def read_visualprocessbench(row: Row) -> Row:
    """VisualProcessBench (OpenGVLab): every step is labelled 1 correct, 0 neutral, -1 wrong.

    {"image": ["images/MathVision/12.png"], "question": "...", "answer": "C", "policy_model": "GPT-4o",
     "data_source": "MathVision", "response": {"steps": ["...", "..."], "process_correctness": [1, -1]}}
    Nobody judged the answers: `labels` says that no step is wrong.
    """
    response = cell(row, "response", dict)
    steps, marks = _steps(response), cell(response, "process_correctness", list)
    if len(marks) != len(steps) or not all(mark in (1, 0, -1) for mark in marks):
        raise ValueError(f"field 'process_correctness': expected 1, 0 or -1 for each of the {len(steps)} steps")
    if not row.get("image"):
        raise ValueError("field 'image' is missing or empty")
    return {
        "id": None,
        "question": cell(row, "question"),
        "image_path": row["image"],
        "answer": row.get("answer"),
        "source": cell(row, "data_source"),
        "solutions_splits": [steps],
        "labels": [int(-1 not in marks)],
        "step_labels": [[{1: 1, 0: None, -1: 0}[mark] for mark in marks]],
        "policies": [row.get("policy_model")],
    }


def read_processbench(row: Row) -> Row:
    """ProcessBench (Qwen), text only: `label` is the index of the first wrong step, -1 for none.

    {"id": "gsm8k-0", "generator": "Qwen2-7B-Instruct", "problem": "...", "steps": ["...", "..."],
     "final_answer_correct": false, "label": 1}
    The steps behind the first wrong one were not labelled. The id names the subset.
    """
    id_, steps, error = cell(row, "id"), _steps(row), cell(row, "label", int)
    if not -1 <= error < len(steps):
        raise ValueError(f"field 'label': {error}, but there are {len(steps)} steps")
    return {
        "id": id_,
        "question": cell(row, "problem"),
        "image_path": None,
        "answer": None,
        "source": id_.rpartition("-")[0] or "processbench",
        "solutions_splits": [steps],
        "labels": [int(cell(row, "final_answer_correct", bool))],
        "step_labels": [[1] * len(steps) if error == -1 else [1] * error + [0] + [None] * (len(steps) - error - 1)],
        "policies": [row.get("generator")],
    }


class Benchmark(NamedTuple):
    """read: a row to the record of one solution, raises ValueError that names the field; files: stems in a folder."""

    read: Callable[[Row], Row]
    files: tuple[str, ...]


BENCHMARKS = {
    "visualprocessbench": Benchmark(read_visualprocessbench, ("test",)),
    "processbench": Benchmark(read_processbench, ("gsm8k", "math", "olympiadbench", "omnimath")),
}


def tables_of(data: Path, benchmark: str) -> list[Table]:
    """One file (parquet, *.jsonl or a JSON list), or all files of a benchmark from a folder. Raises BadInput."""
    return [
        table
        for stem in BENCHMARKS[benchmark].files[: 1 if data.is_file() else None]
        for table in local_tables(data, stem)
    ]


def read_samples(tables: list[Table], benchmark: str, image_root: Path | None) -> list[Row]:
    """A record for each row; image paths become absolute, relative ones belong to image_root or the table's folder.

    A row without an id is named by its source and number. Raises BadInput that names every bad row.
    """
    samples: dict[str, Row] = {}
    bad: list[str] = []

    def parse(row: Any, folder: Path) -> None:
        as_object(row)
        sample = BENCHMARKS[benchmark].read(row) | {"benchmark": benchmark}
        images = whole_images(sample["image_path"], folder, "image")
        sample |= {"image_path": image_value(images), "question": placed_question(sample["question"], images)}
        sample["id"] = sample["id"] or f"{sample['source']}-{len(samples) + 1}"
        if sample["id"] in samples:
            raise ValueError("field 'id': an earlier row has the same id")
        samples[sample["id"]] = sample | {"sample_ids": [sample["id"]]}

    for table in tables:
        bad += parse_records(table.name, table.rows, partial(parse, folder=image_root or table.folder))[1]
    if bad or not samples:
        raise cli.BadInput(*(bad or [f"{tables[0].name}: holds no row"]))
    say_lost(tables[0].name, ((s["id"], s["question"], image_list(s["image_path"])) for s in samples.values()))
    return list(samples.values())


def group(samples: list[Row]) -> list[Row]:
    """One record per problem (source, question and images), in the order of the problems' first rows."""
    problems: dict[tuple[str, ...], Row] = {}
    for sample in samples:
        key = (sample["source"], sample["question"], *image_list(sample["image_path"]))
        if (problem := problems.setdefault(key, sample)) is not sample:
            for name in PER_SOLUTION:
                problem[name] += sample[name]
    return list(problems.values())


def split(records: list[Row], dev_fraction: float, seed: int) -> dict[str, list[Row]]:
    """Dev and test: where a problem goes follows from its id and the seed, whatever else is in the file."""
    parts: dict[str, list[Row]] = {"dev": [], "test": []}
    for record in records:
        digest = hashlib.md5(f"{seed}:{record['id']}".encode()).digest()
        is_dev = int.from_bytes(digest[:8], "big") < dev_fraction * 2**64
        parts["dev" if is_dev else "test"].append(record)
    if not all(parts.values()):
        none = f"of {len(records)} problems, one part would get none; another --seed draws others"
        raise cli.BadInput(f"--dev_fraction {dev_fraction}: {none}")
    return parts


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--benchmark", choices=list(BENCHMARKS), required=True, help="how to read --data")
    parser.add_argument("--data", type=Path, required=True, help="a published file, or the folder with all of them")
    parser.add_argument("--image_root", type=Path, help="folder of relative image paths; default: that of the file")
    parser.add_argument("--output_file", type=Path, required=True, help="rollouts, a JSON list")
    parser.add_argument(
        "--dev_fraction",
        type=cli.non_negative,
        help="write <output>_dev.json with about this share of the problems and <output>_test.json with the others",
    )
    parser.add_argument("--seed", type=int, default=0, help="decides which problems are dev")
    args = parser.parse_args()
    samples = read_samples(tables_of(args.data, args.benchmark), args.benchmark, args.image_root)
    parts = {"": group(samples)}
    if args.dev_fraction is not None:
        parts = {f"_{name}": part for name, part in split(parts[""], args.dev_fraction, args.seed).items()}
    for name, records in parts.items():
        path = args.output_file.with_stem(args.output_file.stem + name)
        write_json(path, records)
        labels = [label for record in records for steps in record["step_labels"] for label in steps]
        counts = f"{labels.count(1)} correct, {labels.count(0)} wrong, {labels.count(None)} not labelled"
        print(f"{path}: {len(records)} problems, {sum(len(r['labels']) for r in records)} solutions; steps: {counts}")


if __name__ == "__main__":
    cli.run(main)
