"""What a PRM that reads texts as they grow saves, and how full the server is.

    python benchmarks/guided_search.py prm      # float32, scaled to a CPU
    python benchmarks/guided_search.py prm --shape 8b --dtype bfloat16
    python benchmarks/guided_search.py serve --model runs/desk/policy \\
        --checkpoint runs/desk/prm_plain --problems runs/desk/data/test.json

prm: a beam of 8 over 8 steps of 50 tokens, 2 prefixes kept and 4 continuations
each, behind a picture of 7 tiles and a question of 60 tokens; random weights.
The three rows give the same scores, one after the other.

    anew      every text whole, one by one, its picture encoded with it
    packed    every step anew, but all texts of a step as one tree
    kept      ours: keys and values of what was read are kept

serve: tokens/s of 64 problems on a real server. The ceiling is whole solutions
without a PRM; then the same beam with scores drawn by lot, and with the PRM.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "eval"))  # a benchmark runs a stage's own code
# ruff: noqa: E402
import numpy as np
import torch
from beside_server import server_command
from guided.accounts import Accounts
from guided.growing import GrowingPrm, Reading, Row, tokens_in
from guided.growing import Path as Text
from guided.methods import Plan, StepScore
from train_prm import SHAPES, head, make_model, make_pixels, marked, random_steps

from mm_prm import cli
from mm_prm.cpu import Threads
from mm_prm.files import write_json
from mm_prm.packing import Packed
from mm_prm.prm import Prm
from mm_prm.prm_format import Encoded
from mm_prm.prm_model import row_tensors, with_position_logits
from mm_prm.records import Problem, read_seed

BEAM, KEPT, STEPS, YES_NO = 8, 2, 8, [1, 2]

# ---------------------------------------------------------------- the PRM


def texts_of_steps() -> list[list[tuple[str, ...]]]:
    """What a beam asks for after each step."""
    rounds: list[list[tuple[str, ...]]] = [[(f"{number}",) for number in range(BEAM)]]
    for _ in range(STEPS - 1):
        kept = rounds[-1][:: BEAM // KEPT]
        rounds.append([(*steps, f"{number}") for steps in kept for number in range(BEAM // KEPT)])
    return rounds


def ids_of(steps: tuple[str, ...], shape: str) -> Encoded:
    """Random tokens: the same prefix has the same."""
    ids = head(shape, random.Random("question"))
    for length in range(1, len(steps) + 1):
        ids += random_steps(1, random.Random(" ".join(steps[:length])))
    return marked(ids)


class Synthetic(GrowingPrm):
    """A growing PRM that reads `ids_of` in the place of text."""

    shape: str
    pixels: torch.Tensor

    def encoded(self, row: Row, reading: Reading, steps: tuple[str, ...]) -> Text:
        row.tiles += [] if reading.paths else [self.pixels]
        sequence = ids_of(steps, self.shape)
        return Text(np.array(sequence.input_ids), np.zeros(0, dtype=np.int64), sequence.marker_positions)


def packed(model: Any, sequences: list[Encoded], pixels: torch.Tensor) -> list[float]:
    """P(Yes) at the last marker of each."""
    row = Packed()
    row.add([Encoded(one.input_ids, one.marker_positions[-1:]) for one in sequences])
    inputs = {name: tensor.to(pixels.device) for name, tensor in row_tensors(row, [pixels]).items()}
    logits = model(**inputs, vocabulary=torch.tensor(YES_NO, device=pixels.device))
    return logits.double().softmax(-1)[:, 0].tolist()


def kept(model: Any, shape: str, pixels: torch.Tensor, accounts: Accounts) -> list[float]:
    def tokenizer(word: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [YES_NO[word == "No"]]}

    prm = SimpleNamespace(
        model=model, processor=SimpleNamespace(tokenizer=tokenizer), threads=Threads(), batch_tokens=10**9
    )
    growing: Any = Synthetic(prm, 10**9)  # type: ignore[arg-type]
    growing.shape, growing.pixels = shape, pixels
    reading = growing.open(Problem("1", "", "", [], {}), accounts)
    found = [asyncio.run(growing.score(reading, texts)) for texts in texts_of_steps()]
    return [scores[-1].p for of_step in found for scores in of_step]


@torch.no_grad()
def prm(args: argparse.Namespace) -> None:
    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, args.dtype)
    model = with_position_logits(make_model(args.shape, dtype, device)).eval().requires_grad_(False)
    model.set_attn_implementation({"text_config": "segments", "vision_config": "sdpa"})
    pixels, rounds = make_pixels(args.shape, dtype, device), texts_of_steps()
    sequences = [[ids_of(steps, args.shape) for steps in texts] for texts in rounds]
    ways: dict[str, Callable[[], list[float]]] = {
        "anew": lambda: [packed(model, [one], pixels)[0] for texts in sequences for one in texts],
        "packed": lambda: [score for texts in sequences for score in packed(model, texts, pixels)],
        "kept": lambda: kept(model, args.shape, pixels, accounts),
    }
    tokens = {
        "anew": sum(len(one.input_ids) for texts in sequences for one in texts),
        "packed": sum(packed_size(texts) for texts in sequences),
    }
    packed(model, sequences[0][:1], pixels)  # warms up
    accounts = Accounts()
    seconds, scores = {}, {}
    for name, run in ways.items():
        began = time.perf_counter()
        scores[name] = run()
        seconds[name] = time.perf_counter() - began
    tokens["kept"] = accounts.prm_tokens
    rows = {
        name: {
            "prm_tokens": tokens[name],
            "fewer_tokens": tokens["anew"] / tokens[name],
            "seconds": seconds[name],
            "ratio": seconds["anew"] / seconds[name],
        }
        for name in ways
    }
    largest = max(abs(a - b) for found in scores.values() for a, b in zip(found, scores["anew"], strict=True))
    print(f"\n{args.shape}, {args.dtype}, {torch.get_num_threads()} threads; largest difference of a score ", end="")
    print(f"{largest:.1e}\n")
    print("| row | PRM tokens | fewer | seconds | ratio |\n|---|---|---|---|---|")
    for name, row in rows.items():
        cells = f"{row['prm_tokens']:,} | {row['fewer_tokens']:.1f}x | {row['seconds']:.2f} | {row['ratio']:.1f}"
        print(f"| {name} | {cells} |")
    if args.output_file:
        write_json(args.output_file, {args.dtype: {"rows": rows, "largest_difference": largest}})


def packed_size(sequences: list[Encoded]) -> int:
    row = Packed()
    row.add(sequences)
    return len(row.input_ids)


# ---------------------------------------------------------------- the policy's server


class ByLot:
    """Scores that cost nothing."""

    def open(self, problem: Problem, accounts: Accounts) -> random.Random:
        return random.Random(problem.key)

    def forget(self, reading: Any) -> None:
        pass

    async def score(self, reading: random.Random, candidates: list[tuple[str, ...]]) -> list[list[StepScore]]:
        return [[StepScore(reading.random()) for _ in steps] for steps in candidates]


async def rate(args: argparse.Namespace, problems: list[Problem], method: str, prm: Any, seed: int) -> float:
    """Policy tokens per second of all problems at once."""
    from guided.search import Search

    from mm_prm.policy import Dialect, PolicyClient, Sampling  # needs openai, the part `prm` does not
    from mm_prm.servers import ServerPool

    pool = ServerPool("policy", os.environ["POLICY_ENDPOINT"].split(","), 600, "none")
    sampling = Sampling(repetition_penalty=1.0, max_new_tokens=args.max_new_tokens)
    client = PolicyClient(pool, "policy", sampling, Dialect("prefill"), seed)
    plan = Plan(candidates=16, max_steps=12)
    began = time.perf_counter()
    await asyncio.gather(*(Search(client.for_problem(problem), prm).run(method, plan) for problem in problems))
    seconds = time.perf_counter() - began
    await pool.close()
    return client.tokens / seconds


def serve(args: argparse.Namespace) -> None:
    """Start the server, and this script again beside it."""
    if not os.environ.get("POLICY_ENDPOINT"):
        server = server_command(args.model, args.port, "guided_search", args.context)
        raise SystemExit(subprocess.run([*server, sys.executable, *sys.argv]).returncode)
    problems = read_seed(args.problems)[0][: args.in_flight]
    loaded = Prm.load(args.checkpoint)
    ways = {
        "ceiling: whole solutions, no PRM": ("best_of_n", ByLot()),
        "beam, scores by lot": ("beam", ByLot()),
        "beam with the PRM": ("beam", None),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.rounds + 1):
        for name, (method, engine) in ways.items():
            growing = engine or GrowingPrm(loaded, tokens_in(None, loaded.model))
            rates[name].append(asyncio.run(rate(args, problems, method, growing, turn)))
    print(f"\n{len(problems)} problems at once, N = 16, {args.rounds} rounds\n")
    print("| draws | tokens/s | ratio |\n|---|---|---|")
    means = {name: sum(found[1:]) / args.rounds for name, found in rates.items()}  # the first of each warms up
    for name, mean in means.items():
        print(f"| {name} | {mean:,.0f} | {mean / next(iter(means.values())):.2f} |")


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("what", choices=("prm", "serve"), help="what is measured")
    parser.add_argument("--shape", choices=SHAPES, default="cpu", help="prm: model to build from random weights")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="prm: of the weights")
    parser.add_argument("--output_file", type=Path, help="prm: JSON of the table")
    parser.add_argument("--model", help="serve: policy checkpoint")
    parser.add_argument("--checkpoint", help="serve: PRM checkpoint")
    parser.add_argument("--problems", type=Path, help="serve: seed file")
    parser.add_argument("--in_flight", type=cli.positive_int, default=64, help="serve: problems at once")
    parser.add_argument("--rounds", type=cli.positive_int, default=3, help="serve: times everything is done")
    parser.add_argument("--max_new_tokens", type=cli.positive_int, default=160, help="serve: longest solution")
    parser.add_argument("--context", type=cli.positive_int, default=512, help="serve: tokens of prompt and solution")
    parser.add_argument("--port", type=int, default=28478, help="serve: of the server")
    args = parser.parse_args()
    if args.what == "serve" and not (args.model and args.checkpoint and args.problems):
        parser.error("serve needs --model, --checkpoint and --problems")
    {"prm": prm, "serve": serve}[args.what](args)


if __name__ == "__main__":
    cli.run(main)
