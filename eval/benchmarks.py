"""The paper's benchmarks, from their published files to problems.

    python eval/benchmarks.py --list
    python eval/benchmarks.py --benchmark mathverse_prm --data MathVerse \\
        --output_file data/mathverse.json

The second command writes a seed file, and its pictures beside it in
images_<benchmark>/. generate_rollouts.py reads the published files just as
well. A benchmark only says how to read a row, and shows one.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mm_prm import cli
from mm_prm.files import read_json, write_json
from mm_prm.records import Problem, read_seed
from mm_prm.tables import ANSWER, Row, Table, cell, hub_table, local_tables, read_problems

# What a rollouts record keeps of its problem. Rows with one problem_index are versions of one problem: not independent.
DETAILS = ("subject", "level", "source", "problem_index", "problem_version")


def without_dollars(text: str) -> str:
    """The rule judge reads LaTeX without the dollars around it."""
    return re.sub(r"(?<!\\)\$", "", text).strip()


def letters(options: list[str]) -> list[str]:
    return [chr(ord("A") + index) for index in range(len(options))]


def choice(options: list[str], letter: str) -> str:
    """`B. 75`, which the rule judge takes for B and for 75; the letter alone where the options are letters."""
    option = without_dollars(str(options[letters(options).index(letter)]))
    return letter if option == letter else f"{letter}. {option}"


def pictures(row: Row, *columns: str) -> list[Any]:
    """The pictures of the first column that has any. Raises ValueError when none has."""
    for name in columns:
        if row.get(name):
            return row[name] if isinstance(row[name], list) else [row[name]]
    raise ValueError(f"field {columns[0]!r} is missing")


def read_k12(row: Row) -> Row:
    """MM-K12, test: school problems, fill-in and multiple choice, the choices inside the question.

    {"id": "...", "question": "As shown in the figure, in △ABC, ... then the degree of ∠C is ___.", "answer": "40",
     "image": {"bytes": ..., "path": ...}}
    Or `correct_answer` and `image_path`. `subject` and `level` are read where they are; rows without `id` are numbered.
    """
    return {
        "question": cell(row, "question").strip(),
        "correct_answer": cell(row, "correct_answer" if "correct_answer" in row else "answer", ANSWER),
        "images": pictures(row, "image", "image_path"),
        "subject": row.get("subject"),
        "level": row.get("level"),
    }


def read_mmk12(row: Row) -> Row:
    """MMK12 (MM-Eureka), test: multiple choice in mathematics, physics, chemistry and biology, 500 each.

    {"id": "...", "question": "As shown in the figure, ...\nA. 60°\nB. 70°\nC. 80°\nD. 90°", "answer": "B",
     "subject": "math", "image": {"bytes": ..., "path": None}}
    """
    return read_k12(row)


def read_olympiadbench(row: Row) -> Row:
    """OlympiadBench, OE_MM_maths_en_COMP: open-ended competition problems in English, up to 9 pictures each.

    {"id": 2231, "question": "... as shown below. <image_1> Find $x$.", "context": None, "image_1": {"bytes": ...},
     "image_2": None, "final_answer": ["$2$", "$3$"], "is_multiple_answer": True, "unit": None, "error": None,
     "answer_type": "Numerical", "subfield": "Geometry", "difficulty": "Competition", ...}
    In the JSON files <img_3362> in the text is images/img_3362.jpg of --image_root; they have no image_1. The context
    goes before the question. Several answers are a list, in any order. The unit is not part of the answer, as the rule
    judge lets one be left out; neither is the tolerance `error`, as it compares exactly.
    """
    columns = sorted((name for name in row if re.fullmatch(r"image_\d+", name) and row[name]), key=lambda n: int(n[6:]))
    context = cell(row, "context") if row.get("context") else ""
    question = "\n\n".join(filter(None, (context, cell(row, "question"))))
    named = [] if columns else list(dict.fromkeys(re.findall(r"<(img_\d+)>", question)))
    for number, name in enumerate(named, 1):
        question = question.replace(f"<{name}>", f"<image_{number}>")
    return {
        "question": question,
        "correct_answer": ", ".join(without_dollars(str(answer)) for answer in cell(row, "final_answer", list)),
        "images": [(f"images/{name}.jpg", f"{name}.jpg") for name in named]
        or [image for name in columns or ["image_1"] for image in pictures(row, name)],
        "subject": row.get("subfield"),
        "level": row.get("difficulty"),
    }


def read_mathvista(row: Row) -> Row:
    """MathVista, testmini: mathematics in figures of all kinds, multiple choice and free form.

    {"pid": "23", "query": "Hint: Please answer the question and provide the correct option letter, ...\\nQuestion: The
     derivative of f(x) at x=2 is ____ that at x=5\\nChoices:\\n(A) larger than\\n(B) equal to\\n(C) smaller than",
     "question": "The derivative ...", "decoded_image": {"bytes": ...}, "image": "images/23.jpg", "answer": "equal to",
     "choices": ["larger than", "equal to", "smaller than"], "question_type": "multi_choice", "answer_type": "text",
     "unit": None, "precision": None, "metadata": {"task": "textbook question answering", "grade": "college",
     "source": "FunctionQA", ...}}
    `query` names choices, unit and digits, so a free-form answer is the number alone, compared exactly. On GitHub it is
    not in testmini.json but in query.json beside it; annot_testmini.json holds no problems.
    """
    answer, metadata = cell(row, "answer", ANSWER), cell(row, "metadata", dict)
    if cell(row, "question_type") == "multi_choice":
        options = cell(row, "choices", list)
        if answer not in options:
            raise ValueError(f"field 'answer': {answer!r} is none of the choices")
        answer = choice(options, letters(options)[options.index(answer)])
    return {
        "question": cell(row, "query"),
        "correct_answer": answer,
        "images": pictures(row, "decoded_image", "image"),
        "subject": metadata.get("task"),
        "level": metadata.get("grade"),
        "source": metadata.get("source"),
    }


def with_queries(table: Table) -> Iterator[Any]:
    """The rows, `query` taken from query.json beside their file where they have none. Raises BadInput without one, and
    for a file of notes on the problems."""
    file = Path(table.name).with_name("query.json")
    queries = read_json(file) if file.is_file() else {}
    if not isinstance(queries, dict):
        raise cli.BadInput(f"{file}: expected an object of texts by pid, found {type(queries).__name__}")
    for row in table.rows:
        if isinstance(row, dict) and "query" not in row:
            if "question" not in row:
                where = "testmini.json, with query.json beside it, or in testmini-*.parquet"
                raise cli.BadInput(f"{table.name}: holds no problems: they are in {where}")
            if not queries:
                raise cli.BadInput(f"{table.name}: has no 'query': put query.json of the same folder beside it")
            row = {**row, "query": queries.get(str(row.get("pid")))}
        yield row


def read_mathverse(row: Row) -> Row:
    """MathVerse, testmini: 788 problems in 5 versions that move the text into the picture, the last one all of it.

    {"sample_index": "1", "problem_index": "1", "problem_version": "Text Dominant", "question_type": "multi-choice",
     "query_cot": "Please first conduct reasoning, and then answer the question and provide the correct option letter,
     ...\\nQuestion: As shown in the figure, ...\\nChoices:\\nA:40°\\nB:60°\\nC:120°\\nD:140°", "answer": "D",
     "image": {"bytes": ...}, "metadata": {"source": "GeoQA+", "subject": "Plane Geometry", "subfield": "Angle", ...}}
    `question` is empty in the last version, `query_cot` never.
    """
    metadata = cell(row, "metadata", dict)
    return {
        "question": cell(row, "query_cot"),
        "correct_answer": cell(row, "answer", ANSWER),
        "images": pictures(row, "image"),
        "subject": metadata.get("subject"),
        "source": metadata.get("source"),
        "problem_index": cell(row, "problem_index", (str, int)),
        "problem_version": cell(row, "problem_version"),
    }


def read_mathvision(row: Row) -> Row:
    """MathVision, test: competition problems in 16 subjects and 5 levels.

    {"id": "3", "question": "Which kite has the longest string?\\n<image1>", "options": ["A", "B", "C", "D", "E"],
     "decoded_image": {"bytes": ...}, "image": "images/3.jpg", "answer": "C", "solution": None, "level": 1,
     "subject": "metric geometry - length"}
    The choices follow the question, except where they are letters in the picture.
    """
    question, answer = cell(row, "question"), cell(row, "answer", ANSWER)
    options = cell(row, "options", list) if row.get("options") else []
    if options and answer not in letters(options):
        raise ValueError(f"field 'answer': {answer!r} is none of the {len(options)} choices")
    if options != letters(options):
        question += "".join(f"\n({letter}) {option}" for letter, option in zip(letters(options), options, strict=True))
    return {
        "question": question,
        "correct_answer": choice(options, answer) if options else answer,
        "images": pictures(row, "decoded_image", "image"),
        "subject": row.get("subject"),
        "level": row.get("level"),
    }


@dataclass(frozen=True)
class Benchmark:
    """read: a row to a record (see read_problems); problems: how many were published; hub: data set, configuration and
    split; stem: what its files are called; id: the column of the id; complete: a file's rows to those for `read`."""

    read: Callable[[Row], Row]
    problems: int
    hub: tuple[str, str | None, str]
    stem: str
    id: str
    complete: Callable[[Table], Iterator[Any]] = lambda table: iter(table.rows)


OLYMPIAD = ("Hothan/OlympiadBench", "OE_MM_maths_en_COMP", "train")
VISTA = ("AI4Math/MathVista", None, "testmini")
VERSE = ("AI4Math/MathVerse", "testmini", "testmini")
BENCHMARKS: dict[str, Benchmark | None] = {
    "seed": None,  # any seed-format file
    "k12_prm": Benchmark(read_k12, 500, ("Cierra0506/MM-K12", None, "test"), "test", "id"),
    "olympiadbench_prm": Benchmark(read_olympiadbench, 150, OLYMPIAD, OLYMPIAD[1], "id"),
    "mathvista_prm": Benchmark(read_mathvista, 1000, VISTA, "testmini", "pid", with_queries),
    "mathverse_prm": Benchmark(read_mathverse, 3940, VERSE, "testmini", "sample_index"),
    "mathvision_prm": Benchmark(read_mathvision, 3040, ("MathLLMs/MathVision", None, "test"), "test", "id"),
    "mmk12": Benchmark(read_mmk12, 2000, ("FanqingM/MMK12", None, "test"), "test", "id"),
}


def describe(name: str) -> str:
    """What --list says about one benchmark."""
    benchmark = BENCHMARKS[name]
    if benchmark is None:
        return f"{name}: any file in the seed format (docs/pipeline.md, stage 1)"
    dataset, config, split = benchmark.hub
    lines = inspect.cleandoc(benchmark.read.__doc__ or "").splitlines() + [
        f"problems: {benchmark.problems}",
        f"hub: {dataset}, configuration {config or 'default'}, split {split}",
        f"files: {benchmark.stem}.parquet or {benchmark.stem}-*.parquet; or .jsonl, .json with pictures as files",
    ]
    return f"{name}: " + "\n    ".join(line for line in lines if line)


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="the benchmark's file, or the folder of its published files")
    parser.add_argument(
        "--image_root",
        type=Path,
        help="folder of the relative picture paths in --data, such as the one that holds images/; default: the file's",
    )
    parser.add_argument("--download", action="store_true", help="read from the Hugging Face hub instead of --data")


def read_benchmark(
    name: str, data: Path | None, download: bool, folder: Path, image_root: Path | None = None
) -> list[Problem]:
    """The problems of a benchmark. Pictures inside its rows are written to `folder`/images_<name> and stay there; the
    records' image_path is relative to `folder`. image_root: of relative picture paths in `data`. Raises BadInput naming
    every bad row, Fault without the hub."""
    benchmark = BENCHMARKS[name]
    if benchmark and download:
        tables = [hub_table(*benchmark.hub)]
    elif data is None:
        raise cli.BadInput("--data PATH is needed" + (", or --download" if benchmark else ""))
    elif benchmark is None:
        if image_root:
            raise cli.BadInput("--image_root: pictures of a seed file lie where it says, from its own folder")
        return read_seed(data)[0]
    else:
        tables = local_tables(data, benchmark.stem, image_root)
        tables = [replace(table, rows=benchmark.complete(table)) for table in tables]
    problems, _ = read_problems(tables, benchmark.read, benchmark.id, folder, folder / f"images_{name}")
    if len(problems) != benchmark.problems:
        print(f"warning: {name}: {len(problems)} problems, {benchmark.problems} were published", file=sys.stderr)
    return problems


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--list", action="store_true", help="say what each benchmark is and needs, and stop")
    names = [name for name in BENCHMARKS if name != "seed"]
    parser.add_argument("--benchmark", choices=names, help="how to read --data: " + ", ".join(names))
    add_data_flags(parser)
    parser.add_argument("--output_file", type=Path, help="seed file, a JSON list; its pictures go beside it")
    args = parser.parse_args()
    if args.list:
        print("\n\n".join(map(describe, BENCHMARKS)))
        return
    if not (args.benchmark and args.output_file):
        parser.error("--benchmark and --output_file are needed, or --list")
    problems = read_benchmark(args.benchmark, args.data, args.download, args.output_file.parent, args.image_root)
    write_json(args.output_file, [problem.record for problem in problems])
    count = sum(len(problem.images) for problem in problems)
    print(f"{args.output_file}: {len(problems)} problems of {args.benchmark}, {count} pictures")


if __name__ == "__main__":
    cli.run(main)
