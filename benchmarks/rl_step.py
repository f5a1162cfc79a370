"""What a step of stage 7 costs: its update, its draws, its sync.

    python benchmarks/rl_step.py update       # float32, scaled to a CPU
    python benchmarks/rl_step.py update --shape 8b --dtype bfloat16
    python benchmarks/rl_step.py serve --model runs/desk/policy \\
        --problems runs/desk/data/annotate.json
    python benchmarks/rl_step.py shares --run_dir runs/desk_rl/cpgd

update: 8 answers of 400 tokens to one prompt of the paper's shape (a picture of
7 tiles, a question of 60 tokens), forward and backward of CPGD's loss, random
weights. The fastest of several rounds of each counts; their log-probabilities
must agree.

    released   answer by answer, its picture encoded with it, logits of the
               whole vocabulary at every token
    ours       one packed row, log-probabilities of the drawn ids in chunks

serve: a real server of --model. Tokens/s of stage 7's draws (log-probabilities,
ids and verdicts included) against its ceiling, the same requests sent bare; and
seconds and bytes/s of a sync. shares: where the time of a finished run went.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from beside_server import server_command
from internvl.rl.objectives import token_loss
from internvl.rl.update import with_drawn_logprobs
from internvl.train.trainer import flops_of_micro_batch, peak_flops
from torch import Tensor
from torch.nn import functional as F
from train_prm import OUT_OF_MEMORY, QUESTION, SHAPES, TILES, WORDS, make_model, make_pixels, measure, tile

from mm_prm import cli
from mm_prm.files import read_jsonl, write_json
from mm_prm.packing import Packed
from mm_prm.prm_format import Encoded
from mm_prm.prm_model import row_tensors
from mm_prm.records import Problem, read_seed

ROOT = Path(__file__).parent.parent
ANSWERS = 8
PARTS = ("draw", "weigh", "old", "update", "sync")

# ---------------------------------------------------------------- the update


def answer_tokens(shape: str) -> int:
    return 50 if shape == "tiny" else 400


def prompt_and_answers(shape: str) -> tuple[list[int], Tensor]:
    """Ids of the prompt; of the answers, [answers, tokens]."""
    generator = torch.Generator().manual_seed(0)
    question = torch.randint(WORDS.start, WORDS.stop, (QUESTION,), generator=generator).tolist()
    answers = torch.randint(WORDS.start, WORDS.stop, (ANSWERS, answer_tokens(shape)), generator=generator)
    return [3] * (TILES * tile(shape)[1]) + question, answers


def loss_of(logprobs: Tensor, first: int = 0) -> Tensor:
    """CPGD's, every other answer good. logprobs: [answers, tokens]; first: number of the first of them."""
    advantages = torch.tensor([(-1.0) ** number for number in range(first, first + len(logprobs))])
    losses = token_loss("cpgd", logprobs, logprobs.detach(), advantages.to(logprobs.device))
    return losses.sum() / (ANSWERS * logprobs.shape[1])


def released(model: Any, prompt: list[int], answers: Tensor, pixels: Tensor) -> Tensor:
    """[answers, tokens]."""
    found = []
    for number, answer in enumerate(answers):
        ids = torch.tensor([prompt + answer.tolist()], device=pixels.device)
        hidden = model.model(input_ids=ids, pixel_values=pixels, use_cache=False).last_hidden_state
        logits = F.linear(hidden, model.lm_head.weight).float()[0, len(prompt) - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(1, answer.to(pixels.device)[:, None])[:, 0]
        loss_of(logprobs[None], number).backward()
        found.append(logprobs.detach())
    return torch.stack(found)


def ours(model: Any, prompt: list[int], answers: Tensor, pixels: Tensor) -> Tensor:
    """[answers, tokens]."""
    row, before, length = Packed(), len(prompt) - 1, answers.shape[1]
    row.add([Encoded(prompt + answer.tolist(), list(range(before, before + length))) for answer in answers])
    inputs = {name: tensor.to(pixels.device) for name, tensor in row_tensors(row, [pixels]).items()}
    found = model(**inputs, targets=answers.flatten().to(pixels.device), temperature=1.0)[:, 0].view(answers.shape)
    loss_of(found).backward()
    return found.detach()


def update(args: argparse.Namespace) -> None:
    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, args.dtype)
    model = with_drawn_logprobs(make_model(args.shape, dtype, device))
    if args.grad_checkpoint:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    pixels, (prompt, answers) = make_pixels(args.shape, dtype, device), prompt_and_answers(args.shape)
    best, seen = {"released": OUT_OF_MEMORY, "ours": OUT_OF_MEMORY}, dict[str, Tensor]()
    for _ in range(args.rounds):
        for name, attention, run in (("released", "sdpa", released), ("ours", "segments", ours)):
            model.set_attn_implementation({"text_config": attention, "vision_config": "sdpa"})

            def once(name: str = name, run: Any = run) -> None:
                seen[name] = run(model, prompt, answers, pixels)

            best[name] = min(best[name], measure(once, model))
    apart = (seen["ours"] - seen["released"]).abs().max().item() if len(seen) == 2 else float("nan")
    print(f"\n{args.shape}, {args.dtype}, largest difference of a log-probability {apart:.1e}\n")
    print("| row | answers/s | ratio | peak GiB | MFU |\n|---|---|---|---|---|")
    tokens, top = len(prompt) + answers.numel(), peak_flops()
    rows = {}
    for name, (seconds, memory) in best.items():
        work = len(prompt) * ANSWERS + answers.numel(), TILES * ANSWERS
        flops = flops_of_micro_batch(model, *(work if name == "released" else (tokens, TILES)))
        rows[name] = {"answers_per_second": ANSWERS / seconds, "ratio": best["released"][0] / seconds}
        rows[name] |= {"peak_gib": memory, **({"mfu": flops / seconds / top} if top else {})}
        mfu = f"{rows[name]['mfu']:.2f}" if top else ""
        print(f"| {name} | {ANSWERS / seconds:.3f} | {rows[name]['ratio']:.2f} | {memory:.2f} | {mfu} |")
    if args.output_file:
        write_json(args.output_file, {args.dtype: {"rows": rows, "largest_difference": apart}})


# ---------------------------------------------------------------- draws and sync


def flags_of_a_run(args: argparse.Namespace) -> argparse.Namespace:
    """The script's own defaults, for this server."""
    from internvl.rl.arguments import make_parser

    given = ["--model_name_or_path", args.model, "--seed_file", args.problems, "--output_dir", "none"]
    given += ["--policy_endpoint", os.environ["POLICY_ENDPOINT"], "--judge", "rule", "--prompts", args.prompts]
    return make_parser().parse_args([*map(str, given), "--max_new_tokens", str(args.max_new_tokens)])


async def bare(problems: list[tuple[Problem, int]], args: argparse.Namespace, **more: bool) -> int:
    """The same requests, sent without anything around them: no verdicts, replies only counted. Returns tokens."""
    import httpx  # here and below: what a machine without a server may lack
    from internvl.rl.outside import Outside

    outside = Outside(flags_of_a_run(args))
    bodies = []
    for problem, draw in problems:
        policy = outside.drawer.client.for_problem(problem)
        policy.calls = draw
        body = {"model": "policy", "messages": policy.messages([]), "n": args.rollouts, "temperature": 1, "top_p": 1}
        bodies.append(body | more | {"max_tokens": args.max_new_tokens, "seed": policy.next_seed(), "top_k": -1})
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=None, trust_env=False, limits=limits) as client:
        url = os.environ["POLICY_ENDPOINT"].split(",")[0] + "/chat/completions"
        replies = await asyncio.gather(*(client.post(url, json=body) for body in bodies))
    return sum(reply.json()["usage"]["completion_tokens"] for reply in replies)


def draws(args: argparse.Namespace) -> None:
    """All ways in turn, every time other problems and seeds, so that no cache helps the later ones."""
    from internvl.rl.outside import Outside

    problems, outside = read_seed(args.problems)[0], Outside(flags_of_a_run(args))
    ways: dict[str, Callable[[list[tuple[Problem, int]]], int]] = {
        "ceiling: bare requests": lambda asked: asyncio.run(bare(asked, args)),
        "bare, with log-probabilities and ids": lambda asked: asyncio.run(
            bare(asked, args, logprobs=True, return_token_ids=True)
        ),
        "stage 7": lambda asked: tokens_of(outside.wait(outside.drawer.groups(asked, args.rollouts))),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn, name in enumerate([*ways] * (args.rounds + 1)):
        start = turn * args.prompts % max(1, len(problems) - args.prompts)
        asked = [(problem, turn) for problem in problems[start : start + args.prompts]]
        began = time.perf_counter()
        tokens = ways[name](asked)
        rates[name].append(tokens / (time.perf_counter() - began))
    print(f"\n{args.prompts} prompts x {args.rollouts} answers, {args.rounds} rounds\n")
    print("| draws | tokens/s | ratio |\n|---|---|---|")
    means = {name: fmean(found[1:]) for name, found in rates.items()}  # the first of each warms up
    for name, rate in means.items():
        print(f"| {name} | {rate:,.0f} | {rate / next(iter(means.values())):.2f} |")


def tokens_of(groups: list[Any]) -> int:
    return sum(len(answer.ids) for group in groups if group for answer in group.answers)


def syncs(args: argparse.Namespace) -> None:
    """Export and hand over the weights, as a step does."""
    from internvl.rl.sync import reload

    from mm_prm.prm_model import load_model

    model = load_model(args.model, torch.float32)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    found, url = [], os.environ["POLICY_ENDPOINT"].split(",")[0].removesuffix("/v1")
    for _ in range(args.rounds + 1):
        folder, began = tempfile.mkdtemp(dir="/dev/shm"), time.perf_counter()
        model.save_pretrained(folder)
        written = time.perf_counter()
        asyncio.run(reload(url, folder))
        found.append((written - began, time.perf_counter() - written))
        shutil.rmtree(folder)
    write, take = (median(part) for part in zip(*found[1:], strict=True))
    print(f"\nsync of {size / 1e6:.1f} MB: written in {write:.3f} s, taken in {take:.3f} s, "
          f"{size / 1e6 / (write + take):.0f} MB/s")  # fmt: skip


def serve(args: argparse.Namespace) -> None:
    """Start the server, and this script again beside it."""
    from internvl.rl.sync import SERVER_FLAGS

    if os.environ.get("POLICY_ENDPOINT"):
        draws(args)
        syncs(args)
        return
    server = server_command(args.model, args.port, "rl_step", args.context, "--dtype", args.dtype, *SERVER_FLAGS)
    command = [*server, sys.executable, *sys.argv]
    raise SystemExit(subprocess.run(command, env={**os.environ, "VLLM_SERVER_DEV_MODE": "1"}).returncode)


# ---------------------------------------------------------------- a finished run


def shares(args: argparse.Namespace) -> None:
    rows = [row for row in read_jsonl(args.run_dir / "steps.jsonl") if row["step"]]
    seconds = {part: fmean(row[f"seconds_{part}"] for row in rows) for part in PARTS}
    total = sum(seconds.values())
    print(f"\n{len(rows)} steps\n\n| part | seconds a step | share |\n|---|---|---|")
    for part, value in [*seconds.items(), ("all", total)]:
        print(f"| {part} | {value:.2f} | {value / total:.1%} |")


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("what", choices=("update", "serve", "shares"), help="what is measured")
    parser.add_argument("--shape", choices=SHAPES, default="cpu", help="update: model to build from random weights")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and server")
    parser.add_argument("--grad_checkpoint", action="store_true", help="update: recompute activations, in both rows")
    parser.add_argument("--rounds", type=cli.positive_int, default=3, help="times everything is done")
    parser.add_argument("--model", help="serve: policy checkpoint")
    parser.add_argument("--problems", type=Path, help="serve: seed file")
    parser.add_argument("--prompts", type=cli.positive_int, default=16, help="serve: prompts of a step")
    parser.add_argument("--rollouts", type=cli.positive_int, default=8, help="serve: answers to each")
    parser.add_argument("--max_new_tokens", type=cli.positive_int, default=160, help="serve: longest answer")
    parser.add_argument("--context", type=cli.positive_int, default=512, help="serve: tokens of prompt and answer")
    parser.add_argument("--port", type=int, default=28477, help="serve: of the server")
    parser.add_argument("--output_file", type=Path, help="update: JSON of the table")
    parser.add_argument("--run_dir", type=Path, help="shares: --output_dir of a run")
    args = parser.parse_args()
    for name in {"update": (), "serve": ("model", "problems"), "shares": ("run_dir",)}[args.what]:
        if not getattr(args, name):
            parser.error(f"{args.what} needs --{name}")
    {"update": update, "serve": serve, "shares": shares}[args.what](args)


if __name__ == "__main__":
    cli.run(main)
