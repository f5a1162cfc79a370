"""What the first process of a run talks to: the policy's servers, the judge."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from internvl.rl.batch import Batch, Stream, fill, summary
from internvl.rl.draw import Drawer, Group, all_of, whole_distribution
from internvl.rl.rewards import in_format
from internvl.rl.sync import Replicas
from mm_prm.journal import Journal
from mm_prm.judge import judge_from_flags
from mm_prm.policy import Dialect, PolicyClient, policy_pool
from mm_prm.records import Problem

EVAL_DRAW = -1  # a draw of its own: held-out problems get the same seeds at every evaluation
OFFLINE_ROLLOUTS = 8  # MM-Eureka: answers by which a problem is dropped before training
T = TypeVar("T")


class Outside:
    """Servers and judge behind one event loop, with plain methods."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.loop = args, asyncio.new_event_loop()
        pool = policy_pool(args)
        sampling = whole_distribution(args.temperature, args.max_new_tokens)
        dialect = Dialect(step_format=args.step_format)
        self.judge, self.replicas = judge_from_flags(args), Replicas(pool)
        self.drawer = Drawer(PolicyClient(pool, args.model, sampling, dialect, args.seed), self.judge)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def sync(self, folder: str | Path) -> None:
        self.wait(self.replicas.sync(folder))

    def draw(self, stream: Stream, position: int) -> Batch:
        """A step's batch."""
        args = self.args

        async def groups(problems: list[tuple[Problem, int]]) -> list[Group | None]:
            return await self.drawer.groups(problems, args.rollouts)

        return self.wait(fill(groups, stream, position, args.prompts, args.accuracy_bounds))

    def evaluate(self, problems: Sequence[Problem]) -> dict[str, float]:
        """pass@1, format and length on held-out problems."""
        drawn = [(problem, EVAL_DRAW) for problem in problems]
        found = self.wait(self.drawer.groups(drawn, self.args.eval_rollouts))
        groups = [group for group in found if group]
        for answer in (answer for group in groups for answer in group.answers):
            answer.well_formed = in_format(answer.text, self.args.step_format, answer.answer is not None)
        seen = summary(groups)
        return {"pass_at_1": seen["accuracy"]} | {
            f"eval_{name}": seen[name] for name in ("format", "length", "undecided")
        }

    def unsolved(self, problems: Sequence[Problem], path: Path) -> list[Problem]:
        """The problems of which some but not all of 8 answers are right (MM-Eureka v1). What was drawn stands in the
        journal at `path`, for a run that is stopped meanwhile."""
        with Journal(path) as journal:
            known = {row["key"]: row["accuracy"] for row in journal.rows}
            at_once = asyncio.Semaphore(self.args.prompts)

            async def one(problem: Problem) -> None:
                async with at_once:
                    group = await self.drawer.group(problem, OFFLINE_ROLLOUTS, EVAL_DRAW)
                known[problem.key] = group.accuracy() if group else None
                journal.append({"key": problem.key, "accuracy": known[problem.key]})

            self.wait(all_of(one(problem) for problem in problems if problem.key not in known))
        return [problem for problem in problems if 0 < (known[problem.key] or 0) < 1]

    def close(self) -> None:
        self.wait(self.judge.close())
        self.wait(self.replicas.close())
        self.loop.close()
