"""Is this answer right? The rules' workers, the LLM judge against a real HTTP server."""

import argparse
import asyncio

import pytest
from fake_server import UNSURE, ChatServer, text_of

from mm_prm.cli import BadInput
from mm_prm.judge import Judge, MathWorkers, Undecided, add_judge_flags, judge_from_flags, read_verdict
from mm_prm.records import Problem
from mm_prm.servers import Unreachable


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
        answers = ["75", "57", "LXXV", "LXXV", " LXXV. "]
        verdicts, judge = ask(server, "rule+llm", *answers)
        assert verdicts == [True, False, True, True, True]
        assert len(server.requests) == 1 and judge.counts["rule"] == 2 and judge.counts["llm"] == 1
        assert server.requests[0]["temperature"] == 0 and "LXXV" in str(server.requests[0]["messages"])
        assert ask(server, "rule+llm", "LXXV", known={"LXXV": False})[0] == [False]
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
        ("Yes.", True), ("**No**", False), ("yes\n", True), ("The verdict: \\boxed{no}", False),
        ("YES, they agree", True),
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


def test_computer_algebra_that_would_never_end_is_ended_and_the_next_comparison_goes_on():
    async def run():
        workers = MathWorkers(cpu_seconds=1)
        try:
            endless = await workers.compute("3", r"\sum_{k=1}^{\infty} \frac{\sin(k^2)^{9^{9^9}}}{k^{9^{9}}}")
            return endless, await workers.compute("3x", "x+2x")
        finally:
            workers.close()

    assert asyncio.run(run()) == ("unsure", "same")


def test_an_llm_judge_needs_endpoint_and_model():
    with pytest.raises(BadInput, match="--api_endpoint"):
        judge_from_flags(flags("--judge", "llm"))
    assert judge_from_flags(flags()).kind == "rule"
    assert judge_from_flags(flags("--api_endpoint", "http://h:1", "--judge_model", "j")).kind == "rule+llm"
