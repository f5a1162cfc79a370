"""Is this answer right? The rules on pairs, the LLM judge against a real HTTP server."""

import asyncio

import pytest
from fake_server import ChatServer

from mm_prm.cli import BadInput
from mm_prm.judge import Undecided, make_judge, rule_equal
from mm_prm.policy import Unreachable

SAME = [
    ("75", "75"), ("75", " 75 . "), ("75", "75.0"), ("1,200", "1200"), ("-3", "-3"), ("-5", "−5"), ("3.5", "7/2"),
    ("\\frac{1}{2}", "0.5"), ("\\frac{1}{2}", "\\dfrac12"), ("2\\sqrt{3}", "\\sqrt{12}"), ("$x+1$", "1+x"),
    ("B", "B"), ("B", "(B)"), ("B", "B. 75"), ("B", "b)"), ("B", "Option B"), ("B", "\\text{B}"),
    ("B", "\\boxed{\\text{B}}"), ("B", "B) the second"), ("75", "７５"), ("75", "\\boxed{75}"),
    ("75", "$75$"), ("(1,2)", "(1, 2)"), ("yes", "Yes"), ("15^\\circ", "15°"),
]  # fmt: skip
DIFFERENT = [
    ("75", "57"), ("75", ""), ("75", "7.5"), ("75", "-75"), ("1,200", "1.2"), ("\\frac{1}{2}", "2"), ("B", "C"),
    ("B", "(C)"), ("B", "Because"), ("B", "AB"), ("(1,2)", "(2,1)"), ("x+1", "x-1"), ("75", "seventy"),
    ("2\\sqrt{3}", "3\\sqrt{2}"), ("75", "75 or 76"), ("A", "A or B"), ("A", "A, C"), ("I", "I think 5"),
    ("75", "7_5"), ("A", "A line"),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "answer"), SAME)
def test_rules_see_the_same_answer(reference, answer):
    assert rule_equal(reference, answer)


@pytest.mark.parametrize(("reference", "answer"), DIFFERENT)
def test_rules_see_a_different_answer(reference, answer):
    assert not rule_equal(reference, answer)


def ask(server, kind, *answers, max_outage=5.0):
    async def run():
        judge = make_judge(kind, server.url, "judge", max_outage)
        return [await judge("What?", "75", answer) for answer in answers]

    return asyncio.run(run())


def test_the_llm_is_asked_only_when_the_rules_see_a_difference_and_once_per_answer():
    with ChatServer(lambda request: ["Yes."]) as server:
        assert ask(server, "rule+llm", "75", "seventy-five", "seventy-five") == [True, True, True]
        assert len(server.requests) == 1
        assert server.requests[0]["temperature"] == 0 and "seventy-five" in str(server.requests[0]["messages"])


def test_a_verdict_that_is_no_verdict_is_asked_again_then_undecided():
    replies = iter([["Maybe"], ["no"], ["hm"], ["hm"]])
    with ChatServer(lambda request: next(replies)) as server:
        assert ask(server, "llm", "76") == [False]
        with pytest.raises(Undecided):
            ask(server, "llm", "77")


def test_a_judge_that_is_down_is_an_error_not_a_wrong_answer():
    with ChatServer(lambda request: 503) as server, pytest.raises(Unreachable, match="out of reach"):
        ask(server, "llm", "76", max_outage=0.6)


def test_an_llm_judge_needs_endpoint_and_model():
    with pytest.raises(BadInput, match="--api_endpoint"):
        make_judge("llm", None, None, 1)
