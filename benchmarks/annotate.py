"""How close annotation comes to what the policy server can decode.

    python benchmarks/annotate.py --policy runs/desk/policy \\
        --problems runs/desk/data/annotate.json

One vLLM server, in one run, the prefix cache emptied before each row:
  one at a time    a problem after the other, 16 rollouts a call, the judge in
                   between (the released way)
  ours             --in_flight problems at once, through the same code as
                   run_data_pipeline.py
  ceiling          the prompts of `ours` again, all requests at once: no search,
                   no judge, no files
  ... + judge      the first two with --judge_seconds added to every verdict
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data_pipeline"))  # a benchmark runs a stage's own code

from beside_server import server_command  # noqa: E402
from run_data_pipeline import Annotation, parse_args  # noqa: E402

from mm_prm import cli  # noqa: E402
from mm_prm.files import write_json  # noqa: E402
from mm_prm.judge import judge_from_flags  # noqa: E402
from mm_prm.policy import policy_from_flags  # noqa: E402
from mm_prm.records import Problem, read_seed  # noqa: E402
from mm_prm.trees import read_trees  # noqa: E402
from mm_prm.work import work_through  # noqa: E402


def pipeline_args(options: argparse.Namespace, out: Path, in_flight: int) -> argparse.Namespace:
    """The flags of run_data_pipeline.py as the desk-scale study sets them, with the paper's 16 rollouts a call."""
    sys.argv = ["run_data_pipeline.py", "--input_file", str(options.problems), "--output_dir", str(out)]
    sys.argv += ["--model", "policy", "--judge", "rule", "--prefix_mode", "prefill", "--repetition_penalty", "1.0"]
    sys.argv += ["--max_new_tokens", "160", "--num_rollouts", "16", "--rollout_budget", str(options.rollout_budget)]
    sys.argv += ["--concurrency", str(in_flight)]
    return parse_args()


def empty_prefix_cache(endpoint: str) -> None:
    url = endpoint.removesuffix("/v1") + "/reset_prefix_cache"  # there in vLLM's development mode
    urllib.request.urlopen(urllib.request.Request(url, method="POST")).close()


async def annotated(args: argparse.Namespace, problems: list[Problem], judge_seconds: float) -> dict[str, Any]:
    """Trees for all problems; the seconds it took and what was drawn."""
    client, judge = policy_from_flags(args), judge_from_flags(args)
    decide = judge.decide

    async def later(problem: Problem, answer: str) -> bool | None:
        await asyncio.sleep(judge_seconds)
        return await decide(problem, answer)

    if judge_seconds:
        judge.decide = later  # type: ignore[method-assign]
    annotation = Annotation(args, client, judge)
    started = time.monotonic()
    await work_through(problems, annotation.annotate, args.concurrency, "annotating", annotation.status)
    seconds = time.monotonic() - started
    await client.pool.close()
    await judge.close()
    return {"seconds": seconds, "trees": len(problems), "rollouts": client.rollouts, "tokens": client.tokens}


async def replayed(args: argparse.Namespace, problems: list[Problem], trees: Path) -> dict[str, Any]:
    """Every request of the finished trees at once."""
    client = policy_from_flags(args)
    by_id = {problem.id: client.for_problem(problem) for problem in problems}
    calls = [
        by_id[tree.id].draw(list(prefix), args.num_rollouts)
        for tree in read_trees(trees)
        for prefix, node in tree.root.walk()
        if node.correct_rollouts or node.incorrect_rollouts
    ]
    started = time.monotonic()
    await asyncio.gather(*calls)
    seconds = time.monotonic() - started
    await client.pool.close()
    return {"seconds": seconds, "rollouts": client.rollouts, "tokens": client.tokens}


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    problems, _ = read_seed(options.problems)
    many, few = problems[: options.limit], problems[: options.limit_one]
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:

        def args(name: str, in_flight: int) -> argparse.Namespace:
            made = pipeline_args(options, Path(folder) / name, in_flight)
            made.output_dir.mkdir(exist_ok=True)
            empty_prefix_cache(made.policy_endpoint[0])
            return made

        asyncio.run(annotated(args("warm", 16), few[:16], 0))  # the first requests pay for lazy set-up
        for seconds in (0.0, options.judge_seconds):
            name = f" + {1000 * seconds:.0f} ms judge" if seconds else ""
            rows["one at a time" + name] = asyncio.run(annotated(args("one" + name, 1), few, seconds))
            rows["ours" + name] = asyncio.run(annotated(args("ours" + name, options.in_flight), many, seconds))
        rows["ceiling"] = asyncio.run(replayed(args("c", 1), many, Path(folder) / "ours"))
    for row in rows.values():
        row["tokens_per_second"] = row["tokens"] / row["seconds"]
        row["trees_per_minute"] = 60 * row["trees"] / row["seconds"] if "trees" in row else None
    return rows


def report(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| | trees | trees/min | rollouts/s | tokens/s | tokens/s over one at a time |",
        "|---|---|---|---|---|---|",
    ]
    base = rows["one at a time"]["tokens_per_second"]
    for name, row in rows.items():
        trees = [f"{row['trees']}", f"{row['trees_per_minute']:.1f}"] if "trees" in row else ["", ""]
        cells = [name, *trees, f"{row['rollouts'] / row['seconds']:.0f}", f"{row['tokens_per_second']:.0f}"]
        lines.append(f"| {' | '.join(cells)} | {row['tokens_per_second'] / base:.2f} |")
    ours = rows["ours"]["tokens_per_second"]
    lines.append(f"\nours / ceiling: {ours / rows['ceiling']['tokens_per_second']:.3f}")
    (slow,) = [row for name, row in rows.items() if name.startswith("ours +")]
    lines.append(f"ours with the slow judge / ours: {slow['tokens_per_second'] / ours:.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--policy", required=True, help="checkpoint to serve")
    parser.add_argument("--problems", type=Path, required=True, help="seed file")
    parser.add_argument("--limit", type=cli.positive_int, default=256, help="problems for `ours` and the ceiling")
    parser.add_argument("--limit_one", type=cli.positive_int, default=24, help="of these, problems for one at a time")
    parser.add_argument("--in_flight", type=cli.positive_int, default=64, help="problems at once")
    parser.add_argument("--rollout_budget", type=cli.positive_int, default=80, help="rollouts per problem")
    parser.add_argument("--judge_seconds", type=float, default=0.2, help="what the slow judge takes")
    parser.add_argument("--port", type=int, default=8378, help="for the policy server")
    parser.add_argument("--output_file", type=Path, help="the figures as JSON")
    options, vllm = parser.parse_known_args()
    if "POLICY_ENDPOINT" not in os.environ:  # start the server and come back beside it
        os.environ["VLLM_SERVER_DEV_MODE"] = "1"
        own = [argument for argument in sys.argv if argument not in vllm]
        server = server_command(options.policy, options.port, "annotate", 512, *vllm)
        os.execv(sys.executable, [*server, sys.executable, *own])
    rows = measure(options)
    print(report(rows))
    if options.output_file:
        write_json(options.output_file, rows)


if __name__ == "__main__":
    cli.run(main)
