"""Split a seed file into chunks that several machines annotate side by side.

    python data_pipeline/process_json.py --input_file seed.json \\
        --output_dir chunks --num_splits 16

Writes questions_part_1.json ... questions_part_N.json: the same records in the
same order, sizes differing by at most one. Relative image paths are rewritten
so that they lead from the chunk to the same picture.
"""

from __future__ import annotations

import re
from pathlib import Path

from mm_prm import cli
from mm_prm.fields import rebased
from mm_prm.files import write_json
from mm_prm.records import Problem, read_seed

CHUNK = re.compile(r"questions_part_(\d+)\.json")


def split(problems: list[Problem], parts: int) -> list[list[Problem]]:
    """Consecutive parts whose sizes differ by at most one."""
    size, longer = divmod(len(problems), parts)
    starts = [index * size + min(index, longer) for index in range(parts + 1)]
    return [problems[start:end] for start, end in zip(starts, starts[1:], strict=False)]


def chunk_record(problem: Problem, folder: Path) -> dict[str, object]:
    """The record as it was read, its relative image paths now relative to the chunk's folder."""
    moved = rebased(problem.record.get("image_path"), problem.images, folder)
    return {**problem.record, "image_path": moved} if moved else problem.record


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="seed file: a JSON list of problems")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the chunks")
    parser.add_argument("--num_splits", type=cli.positive_int, default=16, help="number of chunks")
    parser.add_argument("--skip_invalid", action="store_true", help="leave bad records out and list them")
    args = parser.parse_args()
    problems, skipped = read_seed(args.input_file, args.skip_invalid)
    if args.num_splits > len(problems):
        raise cli.BadInput(f"--num_splits {args.num_splits}: only {len(problems)} problems, so at most as many chunks")
    if CHUNK.fullmatch(args.input_file.name) and args.input_file.parent.resolve() == args.output_dir.resolve():
        raise cli.BadInput(f"{args.input_file}: is a chunk in --output_dir itself; its siblings would be lost")
    for line in skipped:
        print(f"skipped: {line}")
    chunks = split(problems, args.num_splits)
    for number, chunk in enumerate(chunks, 1):
        records = [chunk_record(problem, args.output_dir) for problem in chunk]
        write_json(args.output_dir / f"questions_part_{number}.json", records)
    for stale in args.output_dir.glob("questions_part_*.json"):
        if (found := CHUNK.fullmatch(stale.name)) and int(found[1]) > len(chunks):
            stale.unlink()
            print(f"removed {stale}, of an earlier split into more chunks: it would be annotated twice")
    print(f"{args.output_dir}: {len(problems)} problems in {len(chunks)} chunks, {len(skipped)} records skipped")


if __name__ == "__main__":
    cli.run(main)
