"""What one shared encoding of picture and question is worth in scoring.

    python benchmarks/score_candidates.py      # float32, scaled to a CPU
    python benchmarks/score_candidates.py --shape 8b --dtype bfloat16

One problem at the paper's shape: a picture of 7 tiles (1,792 tokens), a
question of 60 tokens, 16 candidates of 8 steps of 50 tokens that have nothing
in common. Random weights. Both rows run in this process, one after the other,
round after round; the fastest round of each counts, and their scores must
agree.

    released   candidate by candidate, its picture encoded with it, logits of
               the whole vocabulary at every token
    ours       all candidates as one tree behind one encoding
               (mm_prm/prm_model.py), Yes and No at the markers
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from internvl.train.trainer import flops_of_micro_batch, peak_flops
from torch import Tensor
from train_prm import SHAPES, STEPS, TILES, head, make_model, make_pixels, marked, measure, random_steps

from mm_prm import cli
from mm_prm.files import write_json
from mm_prm.packing import Packed
from mm_prm.prm_format import Encoded
from mm_prm.prm_model import row_tensors, with_position_logits

CANDIDATES, YES_NO = 16, [1, 2]


def candidates(shape: str) -> list[Encoded]:
    generator = random.Random(0)
    asked = head(shape, generator)
    return [marked(asked + random_steps(STEPS, generator)) for _ in range(CANDIDATES)]


def released(model: Any, problem: list[Encoded], pixels: Tensor) -> Tensor:
    """P(Yes), [candidates * steps]."""
    scores = []
    for candidate in problem:
        ids = torch.tensor([candidate.input_ids], device=pixels.device)
        logits = type(model).forward(model, input_ids=ids, pixel_values=pixels, use_cache=False).logits.float()
        scores.append(logits[0, candidate.marker_positions][:, YES_NO].softmax(-1)[:, 0])
    return torch.cat(scores)


def ours(model: Any, problem: list[Encoded], pixels: Tensor) -> Tensor:
    row = Packed()
    row.add(problem)
    inputs = {name: tensor.to(pixels.device) for name, tensor in row_tensors(row, [pixels]).items()}
    return model(**inputs, vocabulary=torch.tensor(YES_NO, device=pixels.device)).softmax(-1)[:, 0]


def work(model: Any, problem: list[Encoded], way: str) -> float:
    """Floating-point operations of the forward passes of one way."""
    if way == "released":
        return flops_of_micro_batch(model, sum(len(one.input_ids) for one in problem), TILES * CANDIDATES)
    row = Packed()
    row.add(problem)
    return flops_of_micro_batch(model, len(row.input_ids), TILES)


@torch.no_grad()
def bench(shape: str, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = with_position_logits(make_model(shape, dtype, device)).eval().requires_grad_(False)
    pixels = make_pixels(shape, dtype, device)
    problem, scores = candidates(shape), {}
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for name, attention, run in (("released", "sdpa", released), ("ours", "segments", ours)):
            model.set_attn_implementation({"text_config": attention, "vision_config": "sdpa"})

            def once(name: str = name, run: Any = run) -> None:
                scores[name] = run(model, problem, pixels)

            best[name] = min(best.get(name, (float("inf"), 0.0)), measure(once, model))  # (seconds, GiB)
    top = peak_flops()
    rows = {
        name: {
            "candidates_per_second": CANDIDATES / seconds,
            "ratio": best["released"][0] / seconds,
            "peak_gib": memory,
            **({"mfu": work(model, problem, name) / seconds / top} if top else {}),
        }
        for name, (seconds, memory) in best.items()
    }
    return {"rows": rows, "largest_difference": (scores["ours"] - scores["released"]).abs().max().item()}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="cpu", help="model to build from random weights")
    parser.add_argument("--dtype", nargs="+", default=["float32"], help="float32, bfloat16")
    parser.add_argument("--rounds", type=cli.positive_int, default=3, help="times every row is run")
    parser.add_argument("--output_file", type=Path, help="JSON of the table")
    args = parser.parse_args()
    tables = {}
    for dtype in args.dtype:
        table = tables[dtype] = bench(args.shape, getattr(torch, dtype), args.rounds)
        print(f"\n{args.shape}, {dtype}, {torch.get_num_threads()} threads; largest difference of a score ", end="")
        print(f"{table['largest_difference']:.1e}\n")
        print("| row | candidates/s | ratio | peak GiB | MFU |\n|---|---|---|---|---|")
        for name, row in table["rows"].items():
            print(
                f"| {name} | {row['candidates_per_second']:.2f} | {row['ratio']:.2f} | {row['peak_gib']:.2f} "
                f"| {row.get('mfu', float('nan')):.2f} |",
                flush=True,
            )
    if args.output_file:
        write_json(args.output_file, tables)


if __name__ == "__main__":
    cli.run(main)
