"""The methods of guided search on scripted policies and scores: whole outcomes, worked out by hand."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from guided.methods import (
    METHODS,
    ROOT,
    Candidate,
    Plan,
    StepScore,
    bounds,
    cut_before,
    distinct,
    first_doubtful,
    halved,
    rival_of,
    shares,
)


class World:
    """A policy and a PRM in two tables. nexts: after these steps come these ones, in turn, `=5` being the answer 5;
    scores: P(Yes) after a step, by its name, 0.5 if it is not there."""

    def __init__(self, nexts, scores, budget=None):
        self.nexts, self.scores, self.budget = nexts, scores, budget
        self.times, self.draws, self.scored = Counter(), [], []

    def next_of(self, candidate):
        choices = self.nexts[" ".join(candidate.steps)].split()
        step = choices[self.times[candidate.steps] % len(choices)]
        self.times[candidate.steps] += 1
        answer = step[1:] if step[0] == "=" else None
        return Candidate(candidate.text + step, (*candidate.steps, answer or step), answer, answer is not None, None, 1)

    async def draw(self, prefix, n, whole=False):
        self.draws.append((" ".join(prefix.steps), n, *(["whole"] if whole else [])))
        if self.budget is not None and sum(n for _, n, *_ in self.draws) > self.budget:
            return []
        await asyncio.sleep(0)
        drawn = [self.next_of(prefix) for _ in range(n)]
        while whole and not all(one.ended for one in drawn):
            drawn = [one if one.ended else self.next_of(one) for one in drawn]
        return drawn

    async def score(self, candidates):
        self.scored.append([" ".join(one.steps) for one in candidates])
        return [[StepScore(self.scores.get(step, 0.5)) for step in one.steps] for one in candidates]

    def run(self, method, **plan):
        found = asyncio.run(METHODS[method](self.draw, self.score, Plan(**plan)))
        return [" ".join(one.steps) for one in found]


def test_best_of_n_draws_whole_solutions_and_scores_nothing():
    world = World({"": "a b", "a": "=1", "b": "=2 =3"}, {})
    assert world.run("best_of_n", candidates=5) == ["a 1", "b 2", "a 1", "b 3", "a 1"]
    assert world.draws == [("", 5, "whole")] and world.scored == []


def test_a_budget_ends_best_of_n_with_what_is_there():
    assert World({"": "=1"}, {}, budget=5).run("best_of_n", candidates=8, at_once=4) == ["1"] * 4


def test_beam_keeps_the_best_prefixes_and_continues_them_to_n():
    # 4 of a b c d are drawn; 4 / 2 = 2 are kept, c and b; each gets 2 of the 4 continuations
    world = World(
        {"": "a b c d", "c": "e =7", "b": "f g", "c e": "=1", "b f": "=2", "b g": "=3"},
        {"a": 0.1, "b": 0.6, "c": 0.9, "d": 0.2, "e": 0.3, "f": 0.8, "g": 0.7},
    )
    # c 7 has ended: three places are left, of which one prefix, b f, takes all
    assert world.run("beam", candidates=4, branch=2) == ["c 7", "b f 2", "b f 2", "b f 2"]
    assert world.draws == [("", 4), ("c", 2), ("b", 2), ("b f", 3)]
    assert world.scored == [["a", "b", "c", "d"], ["c e", "b f", "b g"]]


def test_equal_beams_are_one_and_ties_go_to_the_first():
    world = World({"": "a a b c", "a": "=1", "b": "=2"}, {})
    assert world.run("beam", candidates=4, branch=2) == ["a 1", "a 1", "b 2", "b 2"]
    assert world.scored == [["a", "b", "c"]]


def test_the_score_is_the_aggregation_that_was_asked_for():
    nexts = {"": "a b", "a": "c", "b": "d", "a c": "=1", "b d": "=2"}
    scores = {"a": 0.2, "c": 0.9, "b": 0.7, "d": 0.3}
    # both are kept after the first step, one after the second: c by its last score, d by its least
    assert World(nexts, scores).run("annealed", beam=(2, 1), branch=1, score="last") == ["a c 1"]
    assert World(nexts, scores).run("annealed", beam=(2, 1), branch=1, score="min") == ["b d 2"]


def test_annealed_narrows_as_its_schedule_says():
    nexts = {"": "a b c d", "a": "e f", "b": "g h", "a e": "i =1", "a f": "=2", "b g": "=3", "b h": "=4", "a e i": "=5"}
    world = World(nexts, {"a": 0.9, "b": 0.8, "e": 0.9, "f": 0.1, "g": 0.2, "h": 0.3})
    # 2 x 2 first steps; a and b are kept, 2 continuations each; then a e alone
    assert world.run("annealed", beam=(2, 1), branch=2) == ["a e 1", "a e i 5", "a e i 5"]
    assert world.draws == [("", 4), ("a", 2), ("b", 2), ("a e", 2), ("a e i", 2)]


def test_annealed_halves_its_beam_by_itself():
    world = World({"": "a b", "a": "c d", "b": "e f", "a c": "=1", "b e": "=2"}, {"c": 0.9, "a": 0.9, "b": 0.8})
    assert world.run("annealed", candidates=4, branch=2) == ["a c 1", "a c 1"]
    assert world.draws == [("", 4), ("a", 2), ("b", 2), ("a c", 2)] and halved(9) == (9, 4, 2, 1)


def test_what_ends_without_an_answer_takes_no_place():
    def world():
        made = World({"": "a b", "b": "=1"}, {"a": 0.9, "b": 0.5})
        step = made.next_of
        made.next_of = lambda one: replace(step(one), ended=True) if not one.steps and not made.times[()] else step(one)
        return made  # a, the best one, has ended there

    assert world().run("beam", candidates=2, branch=2) == ["b 1", "b 1"]
    assert world().run("dvts", candidates=2, branch=2) == ["b 1", "b 1"]
    assert world().run("reject", candidates=2) == ["b 1"]


def test_dvts_keeps_its_trees_apart():
    # tree one draws a b and goes on from b; tree two draws c d and goes on from c, though b is better than both
    world = World(
        {"": "a b c d", "b": "=1 e", "c": "=2 =3", "b e": "=4 =5"},
        {"b": 0.9, "c": 0.8, "1": 0.3, "e": 0.7, "2": 0.6, "3": 0.2},
    )
    assert world.run("dvts", candidates=4, branch=2) == ["b 1", "c 2", "c 3", "b e 4", "b e 5"]
    assert world.draws == [("", 2), ("", 2), ("b", 2), ("c", 2), ("b e", 2)]


def test_greedy_is_one_path():
    world = World({"": "a b c", "b": "d e f", "b f": "=1 =2 =3"}, {"b": 0.9, "f": 0.9, "2": 0.9})
    assert world.run("greedy", candidates=3) == ["b f 1", "b f 2", "b f 3"]
    assert world.draws == [("", 3), ("b", 3), ("b f", 3)]


def test_reject_stops_what_is_hopeless_and_shares_requests():
    world = World({"": "a a b =9", "a": "c d", "a c": "=1", "a d": "=2"}, {"a": 0.8, "b": 0.05, "c": 0.5, "d": 0.04})
    assert world.run("reject", candidates=4, threshold=0.1) == ["9", "a c 1"]
    assert world.draws == [("", 4), ("a", 2), ("a c", 1)]


def test_reject_never_stops_the_last_one():
    world = World({"": "a b", "b": "=1"}, {"a": 0.01, "b": 0.02})
    assert world.run("reject", candidates=2, threshold=0.1) == ["b 1"]
    assert World({"": "=1 a"}, {"a": 0.01}).run("reject", candidates=2, threshold=0.1) == ["1"]


def test_adaptive_stops_when_the_choice_is_sure():
    # 0.95 -+ 0.053 against 0.05 -+ 0.053
    world = World({"": "a b", "a": "=1", "b": "=2"}, {"a": 0.9, "1": 0.95, "b": 0.1, "2": 0.05})
    assert world.run("adaptive", candidates=8, branch=2) == ["a 1", "b 2"]
    assert world.draws == [("", 2, "whole")]


def test_adaptive_cuts_the_rival_before_its_first_doubtful_step():
    # 1 leads with 0.6 -+ 0.119; its rival 2 has 0.55 -+ 0.121, and its step c, 0.2, is doubtful: b is kept
    world = World(
        {"": "a b", "a": "=1", "b": "c d", "b c": "=2", "b d": "=1"},
        {"1": 0.6, "2": 0.55, "a": 0.9, "b": 0.9, "c": 0.2, "d": 0.9},
    )
    assert world.run("adaptive", candidates=4, branch=2)[:3] == ["a 1", "b c 2", "b d 1"]
    assert world.draws == [("", 2, "whole"), ("b", 2, "whole")]


def test_adaptive_starts_anew_where_nobody_gives_an_answer():
    world = World({"": "a"}, {})
    world.next_of = lambda candidate: Candidate("a", ("a",), None, True)
    assert world.run("adaptive", candidates=4, branch=2) == ["a"] * 4
    assert world.draws == [("", 2, "whole")] * 2


@pytest.mark.parametrize("method", ["beam", "annealed", "dvts", "greedy", "reject"])
def test_what_does_not_end_is_given_up(method):
    world = World({"": "a", "a": "a", "a a": "a", "a a a": "a"}, {})
    assert world.run(method, candidates=4, branch=2, beam=(2, 1), max_steps=3) == []
    assert len({prefix for prefix, *_ in world.draws}) == 3


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_ends_every_method(method):
    world = World({"": "a b =1", "a": "=2", "b": "=3"}, {}, budget=0)
    assert world.run(method, candidates=4, branch=2) == []


@pytest.mark.parametrize("method", METHODS)
def test_one_candidate_is_enough(method):
    world = World({"": "a", "a": "=1"}, {})
    assert set(world.run(method, candidates=1, branch=4, beam=(1,))) == {"a 1"}


def test_bounds_follow_the_count():
    assert bounds(StepScore(0.5, 24.0), Plan(sureness=1.0)) == pytest.approx((0.4, 0.6))
    assert bounds(StepScore(0.5), Plan(sureness=2.0, count=24.0)) == pytest.approx((0.3, 0.7))
    assert bounds(StepScore(0.9, 0.0), Plan(sureness=1.0)) == pytest.approx((0.6, 1.0))
    assert bounds(StepScore(1.0, 3.0), Plan()) == (1.0, 1.0)


def test_the_rival_has_another_answer_and_reaches_the_leader():
    def one(answer):
        return Candidate("", ("s", answer or ""), answer, True)

    found = [one("1/2"), one("0.5"), one("3"), one("4"), one(None)]
    scores = [[StepScore(0.9), StepScore(p)] for p in (0.8, 0.79, 0.3, 0.75, 0.99)]
    assert rival_of(found, scores, Plan(count=24.0)) == 3  # not 0.5, which is 1/2; not the one without an answer
    assert rival_of(found, scores, Plan(count=10000.0)) is None
    assert rival_of([one(None)], [[StepScore(0.5)]], Plan()) == 0


def test_where_a_rival_is_cut():
    steps = [StepScore(0.9), StepScore(0.6), StepScore(0.7)]
    assert first_doubtful(steps, Plan(doubt=0.5, count=15.0)) == 1  # 0.6 - 0.122
    assert first_doubtful(steps, Plan(doubt=0.1)) == 1  # the lowest
    candidate = Candidate("abc", ("a", "b", "c"), "c", True, -3.0, 30)
    assert cut_before(candidate, 1) == Candidate("", ("a",), None, False, None, 10)
    assert cut_before(candidate, 0) == ROOT
    uneven = Candidate("", ("a" * 90, "b" * 9, "c"), "c", True, -3.0, 30)
    assert cut_before(uneven, 1).tokens == 27 and cut_before(uneven, 2).tokens == 30  # rounded up


def test_small_things():
    assert shares(7, 3) == [3, 2, 2]
    a, b = Candidate("a", ("a",)), Candidate("b", ("b",))
    assert distinct([a, b, Candidate("a again", ("a",))]) == [a, b]
