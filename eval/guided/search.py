"""The two engines as a method of guided search sees them: a policy that draws steps, a PRM that scores them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from guided.accounts import Accounts
from guided.methods import METHODS, ROOT, Candidate, Plan, StepScore
from mm_prm.policy import ProblemPolicy, Rollout
from mm_prm.prm_format import parse_solution, render_steps
from mm_prm.selection import aggregate


def extended(prefix: Candidate, drawn: Rollout, step_format: str) -> Candidate:
    """The prefix and what was drawn after it. What has ended is read anew as a whole, as any other solution."""
    text = (prefix.text or render_steps(list(prefix.steps), step_format)) + drawn.text
    logprob = None if None in (prefix.logprob, drawn.logprob) else prefix.logprob + drawn.logprob  # type: ignore[operator]
    tokens = prefix.tokens + (drawn.tokens or 0)
    if drawn.more:
        return Candidate(text, (*prefix.steps, *drawn.steps), None, False, logprob, tokens)
    steps, answer = parse_solution(text, step_format, drawn.cut)
    return Candidate(text, tuple(steps), answer, True, logprob, tokens)


class Search:
    """The two engines as a method sees them, for one problem. prm: GrowingPrm or ServedPrm; budget: policy tokens
    after which nothing more is drawn, None for no bound."""

    def __init__(self, policy: ProblemPolicy, prm: Any, budget: int | None = None):
        self.policy, self.prm, self.budget = policy, prm, budget
        self.accounts = Accounts()
        self.reading = prm.open(policy.problem, self.accounts)

    async def draw(self, prefix: Candidate, n: int, whole: bool = False) -> list[Candidate]:
        client = self.policy.client
        if self.budget is not None and self.policy.tokens >= self.budget:
            return []
        if prefix.tokens >= client.sampling.max_new_tokens:  # as long as it may be
            return []
        how = {"logprobs": True, "one_step": not whole, "written": prefix.text, "used": prefix.tokens}
        drawn = await self.policy.draw(prefix.steps, n, **how)  # type: ignore[arg-type]
        return [extended(prefix, rollout, client.dialect.step_format) for rollout in drawn]

    async def score(self, candidates: Sequence[Candidate]) -> list[list[StepScore]]:
        return await self.prm.score(self.reading, [candidate.steps for candidate in candidates])

    async def run(self, method: str, plan: Plan) -> tuple[list[Candidate], list[list[float]]]:
        """The candidates and the score of each of their steps. One without an answer has no steps, and so loses; where
        none came to an end there is one such."""
        started = time.monotonic()
        try:
            found = await METHODS[method](self.draw, self.score, plan) or [ROOT]
            found = [one if one.answer else replace(one, steps=()) for one in found]
            scores = [[step.p for step in steps] for steps in await self.score(found)]
        finally:
            self.prm.forget(self.reading)
        self.accounts.policy_tokens, self.accounts.seconds = self.policy.tokens, time.monotonic() - started
        return found, scores


def chosen(scores: list[list[float]], aggregation: str) -> int:
    """The candidate with the best value, the first of equal ones."""
    values = aggregate(aggregation, scores)
    return values.index(max(values))
