"""What generate_rollouts.py and guided_search.py have in common: a rollouts file made problem by problem."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from benchmarks import DETAILS, read_benchmark
from mm_prm import __version__, cli
from mm_prm.fields import image_value
from mm_prm.files import read_object, write_json
from mm_prm.journal import Journal
from mm_prm.judge import ProblemJudge
from mm_prm.policy import Rollout
from mm_prm.records import Problem, outcome_fields

PATHS = ("data", "checkpoint")
DECIDED = ("dtype", "judge_model")  # in a run's description: what became of the flag
Draw = Callable[[argparse.Namespace, list[Problem], Journal], Coroutine[Any, Any, None]]
Rows = list[dict[str, Any]]


async def judged(problem: Problem, rollouts: list[Rollout], judge: ProblemJudge) -> dict[str, Any]:
    """The rollouts record of one problem. A rollout without an answer is wrong without asking anybody; one on whose
    answer the judge gives no verdict counts as wrong and is marked."""
    answers = [rollout.answer or "" for rollout in rollouts]
    asked = sorted(set(answers) - {""})
    logprobs = [rollout.logprob for rollout in rollouts]
    verdicts = {"": False} | dict(zip(asked, await asyncio.gather(*map(judge, asked)), strict=True))
    return {
        "id": problem.id,
        "question": problem.question,
        "image_path": image_value(problem.images),
        "answer": problem.answer,
        "solutions": [rollout.text for rollout in rollouts],
        "solutions_splits": [rollout.steps for rollout in rollouts],
        "answers": answers,
        **outcome_fields(verdicts[answer] for answer in answers),
        "logprobs": None if None in logprobs else logprobs,
        **{name: problem.record[name] for name in DETAILS if problem.record.get(name) is not None},
    }


def finished(journal: Journal) -> dict[str, dict[str, Any]]:
    """Records by the problem's key."""
    return {row["key"]: row["record"] for row in journal.rows if "key" in row}


def make_records(args: argparse.Namespace, draw: Draw, problems: list[Problem], journal: Journal) -> Rows:
    """All records in the order of the problems; what an interrupted run left in the journal is not made again."""
    done = finished(journal)
    todo = [problem for problem in problems if problem.key not in done]
    print(f"{args.data or args.benchmark}: {len(problems)} problems, {len(done)} already done", flush=True)
    asyncio.run(draw(args, todo, journal))
    done = finished(journal)
    return [done[problem.key] for problem in problems]


def check_made(args: argparse.Namespace, run_file: Path) -> None:
    """Raises BadInput when a finished file was made with other flags."""
    if not run_file.exists():
        return
    run, now = read_object(run_file), {"policy": args.model, **vars(args)}
    now |= {name: Path(str(now[name])).name for name in PATHS if now.get(name) is not None}  # from any working folder
    run |= {name: Path(str(run[name])).name for name in PATHS if name in run}
    told = [name for name in run if now.get(name) is not None and name not in DECIDED]
    other = [name for name in told if run[name] != (list(now[name]) if isinstance(now[name], tuple) else now[name])]
    if other:
        raise cli.BadInput(
            f"{args.output_file} was made with another --{', --'.join(other)}; use another --output_file"
        )


def make_file(
    args: argparse.Namespace, draw: Draw, account: Callable[[Rows, Rows], dict[str, Any]] = lambda records, rows: {}
) -> tuple[Rows, dict[str, Any]] | None:
    """Write --output_file and, beside it, how it was made (<stem>_run.json: the journal's row `run`).

    draw appends one row {"key", "record"} for each of the problems it is given, and a row {"run"} if there is none.
    account: (records, the journal's rows) -> what else is told of the run. Returns the records and what is told of
    the run; None when the file is there already.
    """
    output = args.output_file
    partial = output.with_name(output.name + ".partial.jsonl")
    if output.exists():
        partial.unlink(missing_ok=True)  # a kill may have come between the two
        check_made(args, output.with_name(f"{output.stem}_run.json"))
        print(f"{output}: already there")
        return None
    problems = read_benchmark(args.benchmark, args.data, args.download, output.parent, args.image_root)
    cli.end_of_check()
    output.parent.mkdir(parents=True, exist_ok=True)
    with Journal(partial) as journal:
        records = make_records(args, draw, problems, journal)
        run = {"version": __version__, "benchmark": args.benchmark, "data": str(args.data), **journal.rows[0]["run"]}
        run |= account(records, journal.rows)
        write_json(output.with_name(f"{output.stem}_run.json"), run)
        write_json(output, records)
        journal.remove()
    return records, run
