"""Search for solutions under the eye of a PRM, and keep the accounts.

    python eval/guided_search.py --data test.json --method beam \\
        --policy_endpoint http://127.0.0.1:8000/v1 --model policy \\
        --checkpoint work_dirs/mm_prm --output_file beam.json --judge rule

Problems in, scored rollouts out: the records of generate_rollouts.py with
`prm_scores`, so extract_calculate.py makes the table, and with `accounts`:
policy tokens drawn (kept or not), tokens that the PRM computed, tokens that it
would have computed had every text been scored whole, pictures it encoded,
seconds. A candidate without an answer has no steps, and so loses.

best_of_n   N whole solutions, chosen among at the end
beam        the best N/M prefixes after every step, M continuations each
annealed    a beam that narrows: --beam 8:4:2 prefixes are kept
dvts        N/M separate trees, each goes on from its best continuation
greedy      one path, the best of N continuations at every step
reject      N solutions; those rated below --threshold on the way are stopped
adaptive    M whole solutions at a time until the choice is sure

Finished problems are kept in <output_file>.partial.jsonl until all are done:
run the same command to resume.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drawn import Rows, judged, make_file
from guided.accounts import totals
from guided.methods import METHODS, Plan
from guided.prms import add_prm_flags, prm_from_flags, prm_run
from guided.search import Search, chosen

from benchmarks import BENCHMARKS, add_data_flags
from mm_prm import cli
from mm_prm.journal import Journal
from mm_prm.judge import Judge, add_judge_flags, judge_from_flags
from mm_prm.policy import PolicyClient, Rollout, add_policy_flags, policy_from_flags
from mm_prm.records import Problem
from mm_prm.selection import AGGREGATIONS
from mm_prm.work import work_through


async def searched(search: Search, args: argparse.Namespace, plan: Plan, judge: Judge) -> dict[str, Any]:
    """The record of one problem."""
    problem = search.policy.problem
    found, scores = await search.run(args.method, plan)
    rollouts = [Rollout(one.text, list(one.steps), one.answer, one.logprob) for one in found]
    record = await judged(problem, rollouts, judge.for_problem(problem))
    more = {"chosen": chosen(scores, plan.score), "accounts": search.accounts.to_dict()}
    return {**record, "prm_scores": scores, **more}


# ---------------------------------------------------------------- flags


def parse_args() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--benchmark", choices=list(BENCHMARKS), default="seed", help="how to read --data")
    add_data_flags(parser)
    parser.add_argument("--output_file", type=Path, required=True, help="scored rollouts, a JSON list")
    add_method_flags(parser)
    add_prm_flags(parser)
    add_policy_flags(parser)
    parser.set_defaults(prefix_mode="prefill")
    add_judge_flags(parser)
    return parser.parse_args()


def schedule(text: str) -> tuple[int, ...]:
    """argparse type: 8:4:2"""
    return tuple(map(cli.positive_int, text.split(":")))


def add_method_flags(parser: argparse.ArgumentParser) -> None:
    plan = Plan()
    group = parser.add_argument_group("the search")
    group.add_argument("--method", choices=list(METHODS), required=True)
    for name, kind, text in (
        ("candidates", cli.positive_int, "N"),
        ("branch", cli.positive_int, "M, continuations of a kept prefix; solutions a round (adaptive, or a budget)"),
        ("max_steps", cli.positive_int, "candidates with more steps are given up"),
        ("threshold", cli.fraction, "a prefix whose last step has less is hopeless (reject)"),
        ("doubt", cli.fraction, "a step whose lower bound is below it is doubtful (adaptive)"),
        ("sureness", cli.non_negative, "half-width of a score's bounds in standard deviations (adaptive)"),
        ("count", cli.non_negative, "rollouts that a score is worth if the PRM does not say (adaptive)"),
    ):
        group.add_argument(f"--{name}", type=kind, default=getattr(plan, name), help=text)
    group.add_argument(
        "--beam",
        type=schedule,
        default=plan.beam,
        metavar="8:4:2",
        help="prefixes kept after each step (annealed); default: N/M, then half as many after every step",
    )
    group.add_argument("--score", choices=list(AGGREGATIONS), default=plan.score, help="aggregation that ranks")
    group.add_argument(
        "--budget_tokens",
        type=cli.positive_int,
        help="once a problem has drawn so many, it draws no more: to compare methods at equal cost",
    )


def plan_from_flags(args: argparse.Namespace) -> Plan:
    told = {name: getattr(args, name) for name in Plan.__dataclass_fields__ if hasattr(args, name)}
    return Plan(**told, at_once=None if args.budget_tokens is None else args.branch)


def run_row(args: argparse.Namespace, plan: Plan, client: PolicyClient, judge: Judge, prm: Any) -> dict[str, Any]:
    """How candidates are found and judged: a journal of others is not gone on with."""
    search = {"method": args.method, **asdict(plan), "beam": list(plan.beam), "budget_tokens": args.budget_tokens}
    how = {"judge": judge.kind, "judge_model": judge.model, "seed": args.seed}
    return (
        search
        | prm_run(args, prm)
        | how
        | {"policy": client.model, **asdict(client.sampling), **asdict(client.dialect)}
    )


# ---------------------------------------------------------------- all problems


async def search_all(args: argparse.Namespace, todo: list[Problem], journal: Journal) -> None:
    client, judge, plan = policy_from_flags(args), judge_from_flags(args), plan_from_flags(args)
    prm = prm_from_flags(args)
    journal.begin(run_row(args, plan, client, judge, prm))
    # Seconds that the search has taken, those of interrupted runs included
    began = time.monotonic() - max([0.0, *(row["clock"] for row in journal.rows if "clock" in row)])

    async def one(problem: Problem) -> None:
        search = Search(client.for_problem(problem), prm, args.budget_tokens)
        record = await searched(search, args, plan, judge)
        row = {"key": problem.key, "record": record, "clock": time.monotonic() - began}
        journal.append(row)
        journal.rows.append(row)

    try:
        await work_through(
            todo, one, args.concurrency, args.method, lambda s: f"{client.tokens / max(s, 1e-9):.0f} tokens/s"
        )
    finally:
        for engine in (client.pool, judge, prm):
            await engine.close()
        print(f"judge: {judge.summary()}", flush=True)


def account(records: Rows, rows: Rows) -> dict[str, Any]:
    """What the whole run cost: the sum over problems, and the seconds that its processes worked."""
    cost = totals([record["accounts"] for record in records])
    cost["seconds"] = round(max(row["clock"] for row in rows if "clock" in row), 3)
    return {"accounts": cost}


def main() -> None:
    args = parse_args()
    made = make_file(args, search_all, account)
    if made is None:
        return
    records, run = made
    right = sum(record["labels"][record["chosen"]] for record in records) / len(records)
    said = ", ".join(f"{name} {value:.0f}" for name, value in run["accounts"].items())
    print(f"{args.output_file}: {len(records)} problems, {args.method}, {right:.1%} right by {args.score}; {said}")


if __name__ == "__main__":
    cli.run(main)
