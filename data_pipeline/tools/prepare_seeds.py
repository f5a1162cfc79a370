"""Turn published problems into a seed file and its pictures.

    python data_pipeline/tools/prepare_seeds.py --input MM-K12 \\
        --output_file seed.json --image_dir images

The defaults are those of MM-K12's training split, and fit MMK12
(FanqingM/MMK12) as well. --input is a parquet, JSON or
JSONL file, or the folder with the published files of --split. Other columns of
text and numbers travel along. Rows that are chats (MM-Eureka-Dataset, both
versions) are known by their column `conversations` or `message`; their
`file://` pictures are looked for under --image_root too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mm_prm import cli
from mm_prm.chats import is_chat, question_and_pictures
from mm_prm.fields import nearly
from mm_prm.files import write_json
from mm_prm.tables import ANSWER, Row, cell, hub_table, local_tables, read_problems


def parse_args() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input", type=Path, help="file or folder with the problems")
    parser.add_argument("--output_file", type=Path, required=True, help="seed file, a JSON list")
    parser.add_argument("--image_dir", type=Path, required=True, help="folder for pictures that are inside the rows")
    parser.add_argument("--image_root", type=Path, help="folder of relative picture paths; default: the file's")
    parser.add_argument("--image_column", default="image", help="a picture, its path, a list of them, or null")
    parser.add_argument("--question_column", default="question", help="the problem, with its choices")
    parser.add_argument("--answer_column", default="answer", help="the answer to verify solutions by")
    parser.add_argument("--id_column", default="id", help="where there is no such column, rows are numbered")
    parser.add_argument("--download", action="store_true", help="read --dataset from the hub instead of --input")
    parser.add_argument("--dataset", default="Cierra0506/MM-K12", help="name on the Hugging Face hub")
    parser.add_argument("--split", default="train", help="of the data set, or of the files in a folder")
    parser.add_argument("--skip_invalid", action="store_true", help="leave bad rows out and list them")
    args = parser.parse_args()
    if not (args.input or args.download):
        parser.error("--input is needed, or --download")
    return args


def seed_record(row: Row, args: argparse.Namespace) -> Row:
    """A row as read_problems wants it. Raises ValueError that names a bad column."""
    if is_chat(row):
        question, images = question_and_pictures(row)
        read = {"id", args.id_column, args.answer_column, "conversations", "message", "image_urls"}
        record = {"question": question, "correct_answer": cell(row, args.answer_column, ANSWER), "images": images}
        return record | others(row, {*record, *read})
    if args.image_column not in row:  # a misspelt column must not make every problem a text-only one
        raise ValueError(f"field {args.image_column!r} is missing; it may be null")
    image = row[args.image_column]
    rest = {name: value for name, value in row.items() if name != args.image_column and isinstance(value, (str, dict))}
    if not image and (key := nearly(rest, "image")):
        raise ValueError(f"field {key!r}: has a picture, {args.image_column!r} is empty (--image_column)")
    record = {
        "question": cell(row, args.question_column),
        "correct_answer": cell(row, args.answer_column, ANSWER),
        "images": image if isinstance(image, list) else [image] if image else [],
    }
    read = {*record, "id", args.id_column, args.image_column, args.question_column, args.answer_column}
    return record | others(row, read)


def others(row: Row, read: set[str]) -> Row:
    """The columns of text and numbers that were not read; NaN, a table's missing value, is no number."""
    return {
        name: value for name, value in row.items() if name not in read and isinstance(value, ANSWER) and value == value
    }


def main() -> None:
    args = parse_args()
    if args.download:
        tables = [hub_table(args.dataset, None, args.split)]
    else:
        tables = local_tables(args.input, args.split, args.image_root)
    problems, skipped = read_problems(
        tables,
        lambda row: seed_record(row, args),
        id_column=args.id_column,
        folder=args.output_file.parent,
        image_dir=args.image_dir,
        skip_invalid=args.skip_invalid,
    )
    for line in skipped:
        print(f"skipped: {line}")
    write_json(args.output_file, [problem.record for problem in problems])
    pictures = sum(len(problem.images) for problem in problems)
    print(f"{args.output_file}: {len(problems)} problems, {pictures} pictures, {len(skipped)} rows skipped")


if __name__ == "__main__":
    cli.run(main)
