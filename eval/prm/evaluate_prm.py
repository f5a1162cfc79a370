"""Score every step of every candidate with a PRM.

    python eval/prm/evaluate_prm.py --checkpoint work_dirs/mm_prm \\
        --input_file rollouts.json --output_file scored.json
    torchrun --nproc_per_node 8 eval/prm/evaluate_prm.py ...    # 8 GPUs

Rollouts in, the same records plus `prm_scores` out. A problem's candidates
share one encoding of picture, question and common steps. Scored problems are
kept in <output_file>.partial-<process>.jsonl until all are done: run the same
command to resume.
"""

from __future__ import annotations

import glob
import hashlib
import os
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from mm_prm import __version__, cli
from mm_prm.fields import rebased, whole_images
from mm_prm.files import write_json
from mm_prm.journal import Journal, read_rows
from mm_prm.prm import Piece, Prm
from mm_prm.prm_format import PRM_TEXTS, check_placeholders, placeable, prm_text
from mm_prm.records import parse_rollouts, read_checked

Record = tuple[dict[str, Any], list[str]]  # with its absolute image paths


def with_images(record: dict[str, Any], image_root: Path) -> Record:
    """A record and its absolute image paths. Raises ValueError when an image is missing or broken, or the question has
    another number of `<image>`."""
    images = whole_images(record.get("image_path"), image_root)
    try:
        check_placeholders(placeable(prm_text(record["question"], ""), "prm"), len(images))
    except ValueError as error:
        raise ValueError(f"field 'question': {error}") from None
    return record, images


def scored(record: Record, scores: list[list[float]], image_root: Path, folder: Path) -> dict[str, Any]:
    """The record with its scores, for a file in `folder`: relative image paths lead from there to the same pictures."""
    row, images = record
    moved = images and os.path.abspath(folder) != os.path.abspath(image_root)
    paths = {"image_path": rebased(row["image_path"], images, folder)} if moved else {}
    return {**row, **paths, "prm_scores": scores}


def encoded(prm: Prm, record: Record) -> tuple[list[list[str]], list[Piece]]:
    """Candidates and pieces of one problem, as `Prm.score_each` takes them."""
    row, images = record
    candidates = row["solutions_splits"]
    return candidates, prm.pieces(row["question"], images, candidates)


def score(prm: Prm, records: list[Record], todo: list[int], journal: Journal, show: bool) -> None:
    """Append the scores of the records numbered `todo` to the journal."""
    workers = 4 if torch.cuda.is_available() else 0  # read and tokenise ahead of the model
    loader = DataLoader(
        [records[number] for number in todo],
        batch_size=None,
        collate_fn=partial(encoded, prm),
        num_workers=workers,
        prefetch_factor=8 if workers else None,
    )
    found = zip(todo, prm.score_each(loader), strict=True)
    for number, scores in tqdm(found, total=len(todo), desc="scoring", unit="problem", mininterval=1, disable=not show):
        journal.append({"number": number, "prm_scores": scores})


def partial_files(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f"{glob.escape(output.name)}.partial-*.jsonl"))


def scored_before(output: Path, run: dict[str, Any]) -> dict[int, list[list[float]]]:
    """Scores by record number from the journals of all processes. Raises BadInput when one is of another run."""
    found: dict[int, list[list[float]]] = {}
    for path in partial_files(output):
        rows = read_rows(path)
        if len(rows) > 1 and rows[0] != {"run": run}:
            raise cli.BadInput(f"{path} was begun with other flags or input: repeat them, or remove it to begin anew")
        found |= {row["number"]: row["prm_scores"] for row in rows[1:]}
    return found


def wait_for_all(processes: int) -> None:
    """Until every process of torchrun is here."""
    if processes > 1:
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="PRM checkpoint folder")
    parser.add_argument("--input_file", type=Path, required=True, help="rollouts, a JSON list")
    parser.add_argument("--output_file", type=Path, required=True, help="scored rollouts")
    parser.add_argument(
        "--text",
        choices=list(PRM_TEXTS),
        default="training",
        help="what the PRM reads: as in training, or exactly what the released evaluation shows it (user turn not "
        "closed, nothing between <prm> and the next step)",
    )
    parser.add_argument(
        "--step_separator", help=r"text between <prm> and the next step, \n for a line break; default: that of --text"
    )
    parser.add_argument("--image_root", type=Path, help="folder of relative image paths; default: the input file's")
    parser.add_argument("--batch_tokens", type=cli.positive_int, help="tokens of a forward pass (GPU 16384, CPU 4096)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU, else float32")
    args = parser.parse_args()
    process, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    root = args.image_root or args.input_file.parent
    records: list[Record] = read_checked(args.input_file, lambda record: with_images(parse_rollouts(record), root))
    separator, closes_user = PRM_TEXTS[args.text]
    if args.step_separator is not None:
        separator = args.step_separator.replace("\\n", "\n")
    prm = Prm.load(args.checkpoint, separator, args.batch_tokens, args.dtype, closes_user)
    run = {
        "checkpoint": os.path.abspath(args.checkpoint),
        "written": os.stat(Path(args.checkpoint) / "config.json").st_mtime_ns,
        "image_root": os.path.abspath(root),
        "input": hashlib.md5(args.input_file.read_bytes()).hexdigest(),
        "text": args.text,
        "step_separator": separator,
        "dtype": str(prm.model.dtype),
    }
    before = scored_before(args.output_file, run)
    share = [number for number in range(process, len(records), processes) if number not in before]
    with Journal(args.output_file.with_name(f"{args.output_file.name}.partial-{process}.jsonl")) as journal:
        journal.begin(run)
        if before and process == 0:
            print(f"{args.input_file}: {len(before)} of {len(records)} problems already scored", flush=True)
        score(prm, records, share, journal, show=process == 0)
        wait_for_all(processes)
        if process == 0:
            done = scored_before(args.output_file, run)
            write_json(args.output_file.with_name(f"{args.output_file.stem}_run.json"), {"version": __version__} | run)
            folder = args.output_file.parent
            write_json(args.output_file, [scored(row, done[i], root, folder) for i, row in enumerate(records)])
            for path in partial_files(args.output_file):
                path.unlink()
            print(f"{args.output_file}: {sum(map(len, done.values()))} candidates scored")


if __name__ == "__main__":
    cli.run(main)
