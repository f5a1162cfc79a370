"""Problems -> judged answers: ids and log-probabilities as the policy's server drew them, verdicts of the judge."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mm_prm.cli import Fault
from mm_prm.judge import Judge, ProblemJudge, Undecided
from mm_prm.policy import PolicyClient, Sampling, read_choice
from mm_prm.records import Problem
from mm_prm.servers import Refused

T = TypeVar("T")


@dataclass
class Answer:
    """One drawn answer. ids: its tokens, with the one that ends the turn; logprobs: natural log, of the server, one per
    token; answer: None when it never came; cut: at the token limit; right: None where nobody could decide;
    scores: the PRM's, one per step; reward: NaN where there is none; weight: what each of its tokens counts in the
    loss, 0 without a reward."""

    ids: list[int]
    logprobs: list[float]
    text: str
    steps: list[str]
    answer: str | None
    cut: bool
    right: bool | None = None
    well_formed: bool = False
    scores: list[float] = field(default_factory=list)
    reward: float = math.nan
    advantage: float = 0.0
    weight: float = 0.0


@dataclass
class Group:
    """A prompt's answers. prompt_ids: the prompt as the server read it, its image tokens included."""

    problem: Problem
    prompt_ids: list[int]
    answers: list[Answer]

    def accuracy(self) -> float:
        """Share of right answers among those that were decided; NaN without any."""
        decided = [answer.right for answer in self.answers if answer.right is not None]
        return sum(decided) / len(decided) if decided else math.nan


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first exception ends the others."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # none of them runs on behind the caller's back


def read_answer(choice: dict[str, Any], step_format: str) -> Answer:
    """Raises Fault when the server does not say what it drew."""
    rollout, ids = read_choice(choice, step_format), choice.get("token_ids")
    logprobs = [token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or []]
    if not isinstance(ids, list) or not ids or len(ids) != len(logprobs):
        raise Fault(f"the policy's server gave {ids and len(ids)} token ids and {len(logprobs)} log-probabilities")
    return Answer(ids, logprobs, rollout.text, rollout.steps, rollout.answer, rollout.cut)


async def verdict(judge: ProblemJudge, answer: str | None) -> bool | None:
    """An answer that never came is wrong without asking anybody; None when the judge cannot decide, or refuses to read
    it, as where it is longer than its server's context."""
    try:
        return await judge(answer) if answer else False
    except (Undecided, Refused):
        return None


def whole_distribution(temperature: float, max_new_tokens: int) -> Sampling:
    """What is trained is what was drawn from: nothing cuts the distribution off."""
    return Sampling(temperature, top_p=1, top_k=-1, repetition_penalty=1, max_new_tokens=max_new_tokens)


class Drawer:
    """Draws and judges the answers of whole batches. client: with a sampling of `whole_distribution`."""

    def __init__(self, client: PolicyClient, judge: Judge):
        self.client, self.judge = client, judge

    async def group(self, problem: Problem, count: int, draw: int) -> Group | None:
        """`count` answers to one problem; None when the server refuses it. draw: which one of this problem, for the
        seed. Raises Unreachable or Fault."""
        policy = self.client.for_problem(problem)
        policy.calls = draw
        try:
            reply = await policy.ask(policy.messages([]), count, logprobs=True, return_token_ids=True)
        except Refused as error:
            print(f"problem {problem.id} left out: {error}", flush=True)
            return None
        answers = [read_answer(choice, self.client.dialect.step_format) for choice in reply["choices"]]
        if not reply.get("prompt_token_ids"):
            raise Fault("the policy's server does not say how it read the prompt (return_token_ids)")
        judge = self.judge.for_problem(problem)
        verdicts = await all_of(verdict(judge, answer.answer) for answer in answers)
        for answer, right in zip(answers, verdicts, strict=True):
            answer.right = right
        return Group(problem, reply["prompt_token_ids"], answers)

    async def groups(self, problems: Sequence[tuple[Problem, int]], count: int) -> list[Group | None]:
        """The group of every problem; problems: each with the number of its draw."""
        return await all_of(self.group(problem, count, draw) for problem, draw in problems)
