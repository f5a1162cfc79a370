"""Rewards of stage 7 by hand: accuracy, format, what a PRM's scores become; and how a batch is filled and weighed."""

import asyncio
import math

import pytest
from internvl.rl.batch import Batch, Stream, fill, summary, weigh
from internvl.rl.draw import Answer, Group, verdict
from internvl.rl.page import samples_page
from internvl.rl.rewards import PRM_MODES, Weights, in_format, largest_fall, reward

from mm_prm.cli import Fault
from mm_prm.judge import Undecided
from mm_prm.prm_format import parse_solution, render_steps
from mm_prm.records import Problem
from mm_prm.servers import Refused


@pytest.mark.parametrize(
    ("step_format", "text", "fits"),
    [
        ("tags", "<step>a</step><answer>1</answer>", True),
        ("tags", " <step>a\nb</step>\n<step>c</step>\n<answer>1\n2</answer>\n", True),
        ("tags", "<answer>1</answer>", False),
        ("tags", "<step>a</step>so <answer>1</answer>", False),
        ("tags", "<step>a</step><answer>1</answer> and more", False),
        ("tags", "<step>a</step><answer>1</answer><answer>1</answer>", False),
        ("tags", "<step>a<step>b</step></step><answer>1</answer>", False),
        ("tags", "<step>a</step><answer> </answer>", False),
        ("tags", "<step> </step><step>a</step><answer>1</answer>", False),
        ("tags", "<step>< 3</step><answer>1</answer>", True),
        ("tags", "<step>a</step><answer>1", False),
        ("tags", "<think>a</think><answer>1</answer>", False),
        ("think", "<think>a\n\nb</think>\n<answer>1</answer>", True),
        ("think", "<think>a</think><think>b</think><answer>1</answer>", False),
        ("think", "<step>a</step><answer>1</answer>", False),
        ("think", "<think></think><answer>1</answer>", False),
    ],
)
def test_the_format_is_the_whole_text_and_nothing_around_it(step_format, text, fits):
    assert in_format(text, step_format, answered=True) is fits


def test_paragraphs_ask_for_an_answer_alone():
    assert in_format("a\n\nAnswer: 1", "paragraphs", True) and not in_format("a", "paragraphs", False)


def test_think_is_read_as_paragraphs_and_handed_back_as_a_prefix():
    assert parse_solution("<think>first\n\nthen</think><answer>75</answer>", "think") == (["first", "then", "75"], "75")
    assert render_steps(["first"], "think") == "<think>first\n\n" and render_steps([], "think") == ""


SCORES = [0.8, 0.6, 0.3]


@pytest.mark.parametrize(
    ("mode", "right", "scores", "expected"),
    [
        ("none", True, SCORES, 1.5),
        ("none", False, SCORES, 0.5),
        ("drop", True, SCORES, 1.5 - 0.5),  # 0.6 -> 0.3 is a fall by half
        ("drop", True, [0.8, 0.6, 0.5], 1.5),  # by a quarter at most
        ("drop", False, SCORES, 0.5),
        ("delta", True, SCORES, 1.5 + 0.3),
        ("mean", False, SCORES, 0.5 + 1.7 / 3),
        ("min", True, [0.0, 0.0], 1.5 - 1),
        ("min", True, [0.5], 1.5),
        ("mean", True, [], 1.5),
        ("min", False, [], 0.5),
        ("delta", False, [], 0.5),
    ],
)
def test_every_prm_mode_by_hand(mode, right, scores, expected):
    assert reward(right, True, scores, mode) == pytest.approx(expected)


def test_min_is_close_to_the_lowest_step_and_drop_looks_at_relative_falls():
    weights = [math.exp(-p / 0.1) for p in SCORES]
    by_hand = sum(w / sum(weights) * (2 * p - 1) for w, p in zip(weights, SCORES, strict=True))
    assert PRM_MODES["min"](SCORES, True) == pytest.approx(by_hand) == pytest.approx(2 * 0.3 - 1, abs=0.05)
    assert largest_fall([0.1, 0.05]) == pytest.approx(0.5) and largest_fall([0.0, 0.5]) == largest_fall([0.5]) == 0


def test_weights_and_an_undecided_answer():
    assert reward(True, True, [0.5], "mean", Weights(2, 0.25, 4)) == pytest.approx(2 + 0.25 + 2)
    assert math.isnan(reward(None, True, [0.5], "mean"))


# ---------------------------------------------------------------- batches


def problem(number):
    return Problem(str(number), f"question {number}", "1", [], {"id": number})


def group(number, rights):
    answers = [Answer([1, 2], [-1.0, -1.0], "<step>a</step><answer>1</answer>", ["a"], "1", False, r) for r in rights]
    return Group(problem(number), [1], answers)


def test_the_stream_takes_every_problem_once_a_pass_in_a_seeded_order():
    stream = Stream([problem(n) for n in range(5)], seed=3)
    passes = [[stream[5 * k + n].id for n in range(5)] for k in range(3)]
    assert all(sorted(one) == list("01234") for one in passes) and len({tuple(one) for one in passes}) > 1
    assert [Stream(stream.problems, 3)[n].id for n in range(5)] == passes[0]
    assert [[Stream(stream.problems, 4)[5 * k + n].id for n in range(5)] for k in range(3)] != passes


def filled(rights, size, bounds=None, position=0):
    """A batch of problems 0, 1, ... whose answers are given; None: the server refuses the problem."""
    asked = []

    async def draw(problems):
        asked.append([place for _, place in problems])
        return [None if rights[place] is None else group(place, rights[place]) for _, place in problems]

    stream = Stream([problem(n) for n in range(len(rights))], seed=0)
    return asyncio.run(fill(draw, stream, position, size, bounds)), asked


def test_without_bounds_only_refused_problems_are_replaced():
    rights = [[True], None, [False], None, [True], [True]]
    batch, asked = filled(rights, 4)
    assert asked == [[0, 1, 2, 3], [4, 5]] and len(batch.groups) == 4
    assert (batch.position, batch.drawn, batch.refused, batch.filtered, batch.surplus) == (6, 6, 2, 0, 0)


def test_bounds_keep_what_is_between_and_draw_until_the_batch_is_full():
    half, all_, none, open_ = [True, False], [True, True], [False, False], [None, None]
    batch, asked = filled([half, all_, none, open_, [True, False, None], half, half, half], 3, (0.1, 0.9))
    assert asked == [[0, 1, 2], [3, 4, 5]] and [len(g.answers) for g in batch.groups] == [2, 3, 2]
    assert (batch.position, batch.drawn, batch.filtered, batch.surplus) == (6, 6, 3, 0)
    batch, _ = filled([none, half, half, half, half, half], 3, (0.1, 0.9))
    assert (batch.position, batch.drawn, batch.filtered, batch.surplus) == (6, 6, 1, 2)


def test_bounds_that_leave_nothing_end_the_run():
    with pytest.raises(Fault, match=r"wants 1 prompts and finds 0: 20 prompts drawn, 0 refused, 20 outside"):
        filled([[True]] * 30, 1, (0.1, 0.9))


def test_weighing_gives_every_answer_its_reward_and_its_advantage():
    groups = [group(0, [True, False, None]), group(1, [False, False, False])]
    groups[0].answers[1].text = "no tags"
    weigh(groups, "tags", "none", Weights(), "equal")
    first = groups[0].answers
    assert [a.reward for a in first[:2]] == [1.5, 0.0] and math.isnan(first[2].reward)
    assert [a.advantage for a in first] == [0.75, -0.75, 0.0]
    assert [a.advantage for a in groups[1].answers] == [0.0] * 3
    seen = summary(groups)
    assert seen["accuracy"] == 1 / 5 and seen["reward"] == pytest.approx((1.5 + 0 + 3 * 0.5) / 5)
    assert (seen["format"], seen["length"], seen["cut"], seen["undecided"]) == (5 / 6, 2, 0, 1)
    assert Batch(groups, 2).drawn == 0 and math.isnan(summary([])["accuracy"])


def test_what_a_model_wrote_is_text_in_the_page():
    shown = group(0, [True, None])
    shown.answers[0].text = "<script>alert(1)</script>&<img src=x onerror=alert(2)>"
    shown.problem.record["question"] = "x"
    page = samples_page([(3, [shown])])
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page
    assert "default-src 'none'" in page and "<h2>step 3</h2>" in page and "undecided" in page


@pytest.mark.parametrize("error", [Undecided, Refused])
def test_an_answer_that_the_judge_cannot_decide_or_read_has_no_verdict(error):
    async def judge(answer):
        raise error("the judge")

    assert asyncio.run(verdict(judge, "5")) is None and asyncio.run(verdict(judge, None)) is False
