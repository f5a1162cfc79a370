"""Is this answer right? The rules on pairs, the LLM judge against a real HTTP server."""
# ruff: noqa: E501  (tables of pairs)

import argparse
import asyncio
import time

import pytest
from fake_server import UNSURE, ChatServer, text_of

from mm_prm.answers import glance, normalise, rule_equal
from mm_prm.cli import BadInput
from mm_prm.judge import Judge, MathWorkers, Undecided, add_judge_flags, judge_from_flags, read_verdict
from mm_prm.records import Problem
from mm_prm.servers import Unreachable

SAME = [
    # numbers
    ("75", "75"), ("75", " 75 . "), ("75", "75.0"), ("1,200", "1200"), ("1{,}200", "1200"), ("-3", "-3"), ("-5", "−5"), ("-5", "–5"),
    ("3.5", "7/2"), ("75", "**75**"), ("yes", "Yes"), (">", ">"), ("∅", "\\emptyset"),
    # full width, LaTeX wrappers
    ("75", "７５"), ("75", "７５。"), ("75%", "７５％"), ("(1,2)", "（１，２）"), ("75", "\\boxed{75}"), ("75", "$75$"), ("75", "\\boxed {75}"),
    ("75", "\\(75\\)"), ("B", "\\boxed{\\text{B}}"), ("75", "The area is \\boxed{75}."),
    # fractions, roots, expressions
    ("\\frac{1}{2}", "0.5"), ("\\frac{1}{2}", "\\dfrac12"), ("\\frac{2}{4}", "\\frac12"), ("-\\frac12", "-0.5"), ("½", "1/2"),
    ("11/4", "2 3/4"), ("2\\frac{3}{4}", "2 3/4"), ("2\\sqrt{3}", "\\sqrt{12}"), ("2\\sqrt{3}", "2√3"), ("2\\sqrt{3}\\pi", "2√3π"),
    ("3\\sqrt{2}", "3√2cm"), ("$x+1$", "1+x"), ("x^2-1", "(x-1)(x+1)"), ("x^2+2x+1", "(x+1)^2"), ("x^2-2x", "x(x-2)"),
    ("2^{10}", "1024"), ("10^{-3}", "10⁻³"), ("1.5\\times10^3", "1500"), ("1500", "1.5×10^3"), ("x=5", "5"), ("\\pi/2", "π/2"),
    ("x > 2", "x \\gt 2"), ("y=x^2-2x-3", "y=(x-1)^2-4"), ("3:4", "3∶4"),
    # choices
    ("B", "B"), ("B", "b"), ("B", "(B)"), ("B", "B. 75"), ("B", "b)"), ("B", "Option B"), ("B", "\\text{B}"), ("B", "[B]"),
    ("B", "B) the second"), ("(B)", "B"), ("B. 75", "B"), ("B. 75", "75"), ("AC", "A, C"), ("A, C", "CA"), ("ABD", "A, B and D"),
    ("B", "(B) 75°"), ("B", "\\textbf{(B)}\\ 75"), ("B", "B (75)"), ("B", "B 75"), ("B", "B, 75"), ("B", "B、75"), ("B", "B \\quad 75"),
    ("B", "The answer is B"), ("B", "Answer: B"), ("B", "选B"), ("B", "答案是B"), ("B", "The correct answer is (B) 75"),
    # units, degrees, percent
    ("5 kg", "5"), ("5", "5 kg"), ("12 cm", "12 centimeters"), ("12 cm^2", "12 square cm"), ("12 cm²", "12\\text{ cm}^2"),
    ("12 cm^{2}", "12 平方厘米"), ("3 h", "3 hours"), ("5元", "5"), ("5", "$5"), ("\\frac12 kg", "0.5 kg"), ("24", "24\\ \\text{cm}^2"),
    ("24\\pi", "24π cm²"), ("24\\pi", "24\\pi\\text{ cm}^2"), ("12", "12 (cm)"), ("5", "5 units"), ("12", "12 cubic units"), ("8", "8 feet"),
    ("15^\\circ", "15°"), ("15^{\\circ}", "15 degrees"), ("15°", "15"), ("15度", "15°"), ("75%", "75"), ("75\\%", "0.75"),
    ("0.75", "75 percent"), ("75%", "\\frac{3}{4}"), ("3/4", "75%"),
    # tuples, sets, lists
    ("(1,2)", "(1, 2)"), ("\\left(1,2\\right)", "(1,2)"), ("\\{1,2\\}", "\\{2,1\\}"), ("1, 2", "2, 1"), ("[1,+\\infty)", "[1, +∞)"),
    ("x=1 or x=2", "x=2 or x=1"), ("30° or 150°", "150° or 30°"), ("3 cm or 5 cm", "3 or 5"), ("x_1=1, x_2=3", "x₁=1, x₂=3"),
    ("\\frac12, \\sqrt{12}", "0.5, 2\\sqrt3"), ("(-\\infty,1)", "(-∞,1)"),
]  # fmt: skip
DIFFERENT = [
    ("75", "57"), ("75", ""), ("75", "-"), ("75", "7.5"), ("75", "-75"), ("1,200", "1.2"), ("75", "75 or 76"), ("75", "7_5"), (">", "<"),
    ("75", "seventy"), ("\\frac{1}{2}", "2"), ("x+1", "x-1"), ("2\\sqrt{3}", "3\\sqrt{2}"), ("2m", "2"), ("x > 2", "x < 2"),
    ("B", "C"), ("B", "(C)"), ("B", "Because"), ("B", "AB"), ("A", "A or B"), ("A", "A, C"), ("A, C", "A"), ("AC", "AB"), ("BAC", "ABC"),
    ("I", "I think 5"), ("A", "A line"), ("B. 75", "57"), ("cat", "act"), ("B", "The answer is C"),
    ("5 kg", "5 cm"), ("\\frac12 kg", "0.5 cm"), ("12 cm", "12 cm^2"), ("5 m", "500 m"), ("75%", "7.5"), ("75%", "7500"),
    ("15°", "51°"), ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("\\{1,2\\}", "\\{1,3\\}"), ("1, 2", "1, 3"),
    ("30° or 150°", "150°"), ("150°", "30° or 150°"), ("30°, 60°", "60°"), ("90", "∠A=30°, ∠B=90°"), ("80°", "50°和80°"),
    ("x<-1 or x>3", "x<-1 and x>3"),
]  # fmt: skip
# Nobody needs to ask an LLM whether these are the same.
TRIVIAL = [("75", "57"), ("75", "--"), ("B", "C"), ("AC", "AB"), ("5 kg", "6 kg"), ("75%", "7.5"), ("15°", "51")]


@pytest.mark.parametrize(("reference", "answer"), SAME)
def test_rules_see_the_same_answer(reference, answer):
    assert rule_equal(reference, answer)


@pytest.mark.parametrize(("reference", "answer"), DIFFERENT)
def test_rules_see_a_different_answer(reference, answer):
    assert not rule_equal(reference, answer)


@pytest.mark.parametrize(("reference", "answer"), TRIVIAL)
def test_trivially_different_answers_are_told_at_a_glance(reference, answer):
    assert glance(normalise(reference), normalise(answer)) == "different"


def flags(*argv):
    parser = argparse.ArgumentParser()
    add_judge_flags(parser)
    parser.add_argument("--max_outage", type=float, default=5)
    return parser.parse_args(argv)


def decided(reference, *answers):
    """Verdicts of the rules alone, and the judge."""

    async def run():
        judge = judge_from_flags(flags("--judge", "rule"))
        one = judge.for_problem(Problem("a", "What?", reference, [], {}))
        try:
            return await asyncio.gather(*map(one, answers)), judge
        finally:
            await judge.close()

    return asyncio.run(run())


def test_what_the_rules_cannot_tell_is_undecided_not_wrong():
    answers = ["75", "57", UNSURE, UNSURE, "x + " + "more words " * 20, f"{UNSURE}."]
    verdicts, judge = decided("75", *answers)
    assert verdicts == [True, False, None, None, None, None]
    assert judge.counts == {"rule": 2, "undecided": 2} and judge.share_undecided() == 0.5
    said = judge.summary().splitlines()
    assert said[0] == "rule 2, llm 0, cached 0, undecided 2"
    assert said[1] == (
        "undecided: 50.0% of the answers: an LLM judge would decide (--api_endpoint, --judge_model); "
        "for example (reference | answer)"
    )
    assert said[2] == f"  75 | {UNSURE}" and said[3].startswith("  75 | x + more words") and len(said[3]) < 100
    assert len(said) == 4
    assert decided("75", "75", "57")[1].summary() == "rule 2, llm 0, cached 0, undecided 0"


def ask(server, kind, *answers, max_outage=5.0, known=None, more=()):
    """Verdicts on answers to one problem whose right answer is 75, and the judge."""

    async def run():
        args = ["--judge", kind, "--api_endpoint", server.url, "--judge_model", "j", "--max_outage", str(max_outage)]
        args += more
        judge = judge_from_flags(flags(*args))
        one = judge.for_problem(Problem("a", "What?", "75", [], {}))
        one.verdicts |= known or {}
        try:
            return await asyncio.gather(*map(one, answers)), judge
        finally:
            await judge.close()

    return asyncio.run(run())


def test_the_llm_is_asked_once_per_answer_and_only_where_the_rules_are_unsure(monkeypatch):
    monkeypatch.setattr(Judge, "AUDIT_AT_MOST", 0)
    with ChatServer(lambda request: ["Yes."]) as server:  # asked about the first spelling of an answer
        answers = ["75", "57", "seventy-five", "seventy-five", " seventy-five. "]
        verdicts, judge = ask(server, "rule+llm", *answers)
        assert verdicts == [True, False, True, True, True]
        assert len(server.requests) == 1 and judge.counts["rule"] == 2 and judge.counts["llm"] == 1
        assert server.requests[0]["temperature"] == 0 and "seventy-five" in str(server.requests[0]["messages"])
        assert ask(server, "rule+llm", "seventy-five", known={"seventy-five": False})[0] == [False]
        assert len(server.requests) == 1


def test_a_verdict_that_is_no_verdict_is_asked_again_then_undecided():
    replies = iter([["Maybe"], ["no"], ["hm"], ["hm, " + "well " * 50]])
    with ChatServer(lambda request: next(replies)) as server:
        assert ask(server, "llm", "76")[0] == [False]
        with pytest.raises(Undecided, match="judge j: no verdict on answer '77': neither yes .*'hm, well .* well'"):
            ask(server, "llm", "77")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Yes.", True), ("**No**", False), ("yes\n", True), ("The verdict: \\boxed{no}", False), ("YES, they agree", True),
        ("<think>no ... no</think>\n\nyes", True), ("I first said yes, but no: 57 is not 75.", False),
        ("so 75 ... yes?</think>no", False),  # the server's template had opened the tag
        ("<think>yes, yes", None), ("", None), (None, None), ("Reply with yes or no: no", False), ("yes/no", None),
        ("Yes, there is no difference", True), ("I see no difference", None), ("No because the units differ", False),
        ("no the student is wrong", False), ("nothing known, yesterday", None), ("<thinking>no</thinking>Yes", True),
    ],
)  # fmt: skip
def test_the_last_yes_or_no_outside_the_thoughts_counts(text, verdict):
    assert read_verdict({"message": {"content": text}, "finish_reason": "stop"}) is verdict


@pytest.mark.parametrize(
    ("reply", "reason", "asked"),
    [
        ({"content": "<think>I think yes"}, "was cut .*<think>I think yes.*raise --judge_max_tokens", 1),
        ({"content": "Yes, unless"}, "was cut", 1),  # it might go on with a no
        (
            {"content": None, "reasoning_content": "Let me see: yes"},
            "was cut .*Let me see.*raise --judge_max_tokens",
            1,
        ),
    ],
)
def test_a_reply_that_was_cut_is_no_verdict_and_is_not_asked_for_again(reply, reason, asked):
    with ChatServer(lambda request: [reply], finish_reason="length") as server:
        with pytest.raises(Undecided, match=reason):
            ask(server, "llm", "76")
        assert len(server.requests) == asked and server.requests[0]["max_tokens"] == 2048


def test_a_reply_of_thoughts_alone_is_no_verdict_and_one_word_is_never_cut():
    thoughts = {"content": None, "reasoning": "yes"}
    unfit = pytest.raises(Undecided, match=r"all reasoning \('yes'\): the server's reasoning parser")
    with ChatServer(lambda request: [thoughts]) as server, unfit:
        ask(server, "llm", "76")
    with ChatServer(lambda request: ["Yes"], finish_reason="length") as server:
        assert ask(server, "llm", "76", more=["--judge_max_tokens", "1"])[0] == [True]
        assert server.requests[0]["max_tokens"] == 1


def test_the_llm_is_asked_about_the_answer_as_it_was_written():
    written = "Either \\boxed{3}\nor **\\boxed{５}**, I'd say."
    with ChatServer(lambda request: ["no"]) as server:
        ask(server, "llm", written)
        assert f"Student's answer: {written}\n" in text_of(server.requests[0])


def test_a_judge_that_is_down_is_an_error_not_a_wrong_answer(capsys):
    with ChatServer(lambda request: 503) as server, pytest.raises(Unreachable, match="out of reach"):
        ask(server, "llm", "76", max_outage=0.6)
    said = capsys.readouterr().err  # at once, not after the outage, and once
    assert said.count("asking again, for 0.6 s at most") == 1 and "503" in said


def test_rules_and_llm_are_compared_on_a_sample():
    with ChatServer(lambda request: ["no"]) as server:  # an LLM that contradicts every right answer
        _, judge = ask(server, "rule+llm", *(f"75.{'0' * n}" for n in range(1, 60)), *map(str, range(100, 160)))
        assert judge.counts["rule"] == 119
        sampled = len(judge.audited)
        assert 0 < sampled < 30 and sampled == len(server.requests) and 0 < sum(judge.audited) < sampled
        assert f"agree on {sum(judge.audited)} of {sampled}" in judge.summary()


def test_an_answer_that_would_compute_for_ever_is_stopped():
    started = time.monotonic()

    async def run():
        workers = MathWorkers(seconds=2)
        try:
            with pytest.raises(TimeoutError):
                await workers.equal("3", "9^{9^{9^9}}")
            return await workers.equal("3x", "x+2x")
        finally:
            workers.close()

    assert asyncio.run(run()) is True
    assert time.monotonic() - started < 40


def test_an_llm_judge_needs_endpoint_and_model():
    with pytest.raises(BadInput, match="--api_endpoint"):
        judge_from_flags(flags("--judge", "llm"))
    assert judge_from_flags(flags()).kind == "rule"
    assert judge_from_flags(flags("--api_endpoint", "http://h:1", "--judge_model", "j")).kind == "rule+llm"
