"""Ways to write candidates under the eye of a PRM. They know no files, no network and no model.

A method is one function `method(draw, score, plan) -> candidates`:

    await draw(prefix, n, whole)    n continuations of a candidate, by one step or to the end; none once the problem's
                                    budget is spent
    await score(candidates)         what the PRM thinks of every step of each

It returns the candidates that came to an end, in the order in which they did; which of them is the answer is for
whoever reads their scores. One that ends without an answer is worth nothing: it takes no place and is not gone on from.
Every round asks for all its draws at once and in a fixed order, so that the same replies
make the same search. Equal values rank in the order in which they were drawn.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mm_prm.answers import canonical
from mm_prm.selection import aggregate

Steps = tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A solution as far as it is written. steps: the answer last, once it has one; ended: nothing follows; logprob:
    natural log, summed over its tokens, None where it is not known; tokens: of its text."""

    text: str = ""
    steps: Steps = ()
    answer: str | None = None
    ended: bool = False
    logprob: float | None = 0.0
    tokens: int = 0


ROOT = Candidate()


@dataclass(frozen=True)
class StepScore:
    """p: P(Yes) after a step; count: in rollouts, how sure the PRM is of it, None where it does not say."""

    p: float
    count: float | None = None


class Draw(Protocol):
    async def __call__(self, prefix: Candidate, n: int, whole: bool = False) -> list[Candidate]: ...


Score = Callable[[Sequence[Candidate]], Awaitable[list[list[StepScore]]]]


@dataclass(frozen=True)
class Plan:
    """What the methods can be told.

    candidates: N; branch: continuations of a prefix that is kept (M); max_steps: a candidate that is longer is given
    up; score: the aggregation that ranks (mm_prm.selection).
    beam (`annealed`): prefixes kept after the first, second, ... step, the last number from then on; none: N / M, then
    half as many after every step.
    threshold (`reject`): a prefix whose last step has less is hopeless.
    doubt, sureness, count (`adaptive`): a step whose lower bound is below `doubt` is doubtful; half-width of a score's
    bounds in standard deviations; rollouts that a score is worth where the PRM does not say (16: the paper's, of a
    node).
    at_once (`best_of_n`): solutions asked for in one request, where a budget may end it; none: all.
    """

    candidates: int = 16
    branch: int = 4
    beam: tuple[int, ...] = ()
    max_steps: int = 40
    score: str = "last"
    threshold: float = 0.1
    doubt: float = 0.5
    sureness: float = 1.0
    count: float = 16.0
    at_once: int | None = None


Method = Callable[[Draw, Score, Plan], Awaitable[list[Candidate]]]

# ---------------------------------------------------------------- what they have in common


def distinct(pool: Iterable[Candidate]) -> list[Candidate]:
    """The first of those with the same steps: one prefix, kept twice, is one prefix."""
    found: dict[Steps, Candidate] = {}
    for candidate in pool:
        found.setdefault(candidate.steps, candidate)
    return list(found.values())


async def rated(score: Score, pool: Sequence[Candidate], plan: Plan) -> list[float]:
    """One number for each; larger is better."""
    return aggregate(plan.score, [[step.p for step in steps] for steps in await score(pool)]) if pool else []


def ranked(values: Sequence[float]) -> list[int]:
    """Positions from the best value to the worst, equal ones in their order."""
    return sorted(range(len(values)), key=lambda number: -values[number])


def shares(total: int, parts: int) -> list[int]:
    """total as evenly as it goes, the first ones get more."""
    return [total // parts + (number < total % parts) for number in range(parts)]


async def continued(draw: Draw, prefixes: Sequence[Candidate], counts: Sequence[int]) -> list[list[Candidate]]:
    """One step more for each prefix, drawn all at once."""
    return list(await asyncio.gather(*(draw(prefix, n) for prefix, n in zip(prefixes, counts, strict=True))))


def parted(pool: Iterable[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Those that have ended with an answer, and those that go on."""
    pool = list(pool)
    return [one for one in pool if one.ended and one.answer], [one for one in pool if not one.ended]


# ---------------------------------------------------------------- the methods


async def best_of_n(draw: Draw, score: Score, plan: Plan) -> list[Candidate]:
    """N whole solutions; the PRM only chooses."""
    found: list[Candidate] = []
    while more := await draw(ROOT, min(plan.at_once or plan.candidates, plan.candidates - len(found)), True):
        found += more
        if len(found) >= plan.candidates:
            break
    return found


async def beam(draw: Draw, score: Score, plan: Plan) -> list[Candidate]:
    """N beams: after every step the best N / M distinct ones are kept and continued to N again (Snell et al., arXiv
    2408.03314; M is `branch`). A beam that ends leaves the pool, which is then smaller by one."""

    def room(number: int, ended: int) -> int:
        return plan.candidates - ended

    return await _beams(draw, score, plan, room)


async def annealed(draw: Draw, score: Score, plan: Plan) -> list[Candidate]:
    """A beam that begins wide and narrows: `beam` says how many distinct prefixes are kept after each step; they share
    `branch` times as many continuations. The first step is drawn as often as that makes for the first number."""
    beam = plan.beam or halved(max(1, plan.candidates // plan.branch))

    def room(number: int, ended: int) -> int:
        return beam[min(number, len(beam) - 1)] * plan.branch

    return await _beams(draw, score, plan, room)


def halved(width: int) -> tuple[int, ...]:
    """8, 4, 2, 1."""
    return (width, *halved(width // 2)) if width > 1 else (1,)


async def _beams(draw: Draw, score: Score, plan: Plan, room: Callable[[int, int], int]) -> list[Candidate]:
    """room(round, how many have ended): continuations to draw in that round; of it follows how many are kept."""
    ended: list[Candidate] = []
    pool = await draw(ROOT, room(0, 0))
    for number in range(plan.max_steps):
        done, active = parted(pool)
        ended += done
        active = distinct(active)
        size = room(number, len(ended))
        if not active or size < 1 or number + 1 == plan.max_steps:
            break
        values = await rated(score, active, plan)
        kept = [active[at] for at in ranked(values)[: max(1, size // plan.branch)]]
        pool = [one for some in await continued(draw, kept, shares(size, len(kept))) for one in some]
    return ended


async def dvts(draw: Draw, score: Score, plan: Plan) -> list[Candidate]:
    """N / M trees that know nothing of each other, so that they stay different: each draws M continuations and goes on
    from its best, until the best one has ended. What ended on the way is a candidate as well."""
    tips, ended = [ROOT] * max(1, plan.candidates // plan.branch), []
    for _ in range(plan.max_steps):
        drawn = [parted(pool) for pool in await continued(draw, tips, [plan.branch] * len(tips))]
        ended += [one for done, _ in drawn for one in done]
        pools = [done + active for done, active in drawn if done + active]
        values = iter(await rated(score, [one for pool in pools for one in pool], plan))
        bests = [pool[ranked([next(values) for _ in pool])[0]] for pool in pools]
        tips = [best for best in bests if not best.ended]
        if not tips:
            break
    return ended


async def greedy(draw: Draw, score: Score, plan: Plan) -> list[Candidate]:
    """One path: of N continuations the best one is taken, step after step."""
    return await dvts(draw, score, replace(plan, branch=plan.candidates))


async def reject(draw: Draw, score: Score, plan: Plan) -> list[Candidate]:
    """Best-of-N that stops a candidate once P(Yes) of its last step is below the threshold; the last candidate is never
    stopped."""
    ended: list[Candidate] = []
    pool = await draw(ROOT, plan.candidates)
    for number in range(plan.max_steps):
        done, active = parted(pool)
        ended += done
        if not active or number + 1 == plan.max_steps:
            break
        scores = await score(active)
        lasts = [steps[-1].p if steps else 1.0 for steps in scores]
        kept = [one for one, last in zip(active, lasts, strict=True) if last >= plan.threshold]
        if not kept and not ended:
            kept = [active[ranked(lasts)[0]]]
        same = {one.steps: one for one in reversed(kept)}  # equal prefixes share a request
        times = Counter(one.steps for one in kept)
        pool = [one for some in await continued(draw, [same[s] for s in times], list(times.values())) for one in some]
    return ended


async def adaptive(draw: Draw, score: Score, plan: Plan) -> list[Candidate]:
    """Whole solutions, `branch` at a time and N at most, until the choice is sure: the lower bound of the leading
    answer is above the upper bounds of all candidates with another one. Else the best of those is cut before its first
    doubtful step, and the next ones go on from there (after BetaPRM's ACA, arXiv 2605.15529)."""
    found = await draw(ROOT, min(plan.branch, plan.candidates), True)
    while found and len(found) < plan.candidates:
        scores = await score(found)
        rival = rival_of(found, scores, plan)
        if rival is None:
            break
        prefix = cut_before(found[rival], first_doubtful(scores[rival], plan)) if found[rival].answer else ROOT
        more = await draw(prefix, min(plan.branch, plan.candidates - len(found)), True)
        if not more:
            break
        found += more
    return found


METHODS: dict[str, Method] = {
    "best_of_n": best_of_n,
    "beam": beam,
    "annealed": annealed,
    "dvts": dvts,
    "greedy": greedy,
    "reject": reject,
    "adaptive": adaptive,
}

# ---------------------------------------------------------------- when a choice is sure


def bounds(step: StepScore, plan: Plan) -> tuple[float, float]:
    """p -+ sureness standard deviations of Beta(count p, count (1 - p)), within 0..1."""
    count = plan.count if step.count is None else step.count
    half = plan.sureness * (step.p * (1 - step.p) / (count + 1)) ** 0.5
    return max(step.p - half, 0.0), min(step.p + half, 1.0)


def rival_of(found: Sequence[Candidate], scores: Sequence[Sequence[StepScore]], plan: Plan) -> int | None:
    """The best candidate whose upper bound reaches the leader's lower one and whose answer is another; None when the
    choice is sure. Without an answer anywhere: the first candidate."""
    answers = canonical([one.answer for one in found])
    if not any(answers):
        return 0
    values = aggregate(plan.score, [[step.p for step in steps] for steps in scores])
    # Every aggregation grows with each score, so bounds of the steps make bounds of the value.
    low = aggregate(plan.score, [[bounds(step, plan)[0] for step in steps] for steps in scores])
    high = aggregate(plan.score, [[bounds(step, plan)[1] for step in steps] for steps in scores])
    order = [at for at in ranked(values) if answers[at]]
    leader = order[0]
    return next((at for at in order if answers[at] != answers[leader] and high[at] >= low[leader]), None)


def first_doubtful(steps: Sequence[StepScore], plan: Plan) -> int:
    """The first step whose lower bound is below `doubt`; where there is none, the one with the lowest score."""
    doubtful = (at for at, step in enumerate(steps) if bounds(step, plan)[0] < plan.doubt)
    return next(doubtful, min(range(len(steps)), key=lambda at: steps[at].p))


def cut_before(candidate: Candidate, step: int) -> Candidate:
    """Its first steps as a prefix. How likely that part is, and how it was written, is not known; its tokens are the
    share of its characters."""
    part, whole = (len("".join(steps)) for steps in (candidate.steps[:step], candidate.steps))
    return replace(
        candidate,
        text="",
        steps=candidate.steps[:step],
        answer=None,
        ended=False,
        logprob=0.0 if step == 0 else None,
        tokens=math.ceil(candidate.tokens * part / max(whole, 1)),
    )
