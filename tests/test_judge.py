"""Is this answer right? The rules' workers, the LLM judge against a real HTTP server."""

import argparse
import asyncio

import pytest
from fake_server import ChatServer

from mm_prm.cli import BadInput
from mm_prm.judge import Judge, MathWorkers, Undecided, add_judge_flags, judge_from_flags
from mm_prm.records import Problem
from mm_prm.servers import Unreachable


def flags(*argv):
    parser = argparse.ArgumentParser()
    add_judge_flags(parser)
    parser.add_argument("--max_outage", type=float, default=5)
    return parser.parse_args(argv)


def ask(server, kind, *answers, max_outage=5.0, known=None):
    """Verdicts on answers to one problem whose right answer is 75, and the judge."""

    async def run():
        args = ["--judge", kind, "--api_endpoint", server.url, "--judge_model", "j", "--max_outage", str(max_outage)]
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
    with ChatServer(lambda request: ["Yes."]) as server:
        answers = ["75", "57", "LXXV", "LXXV", " LXXV. "]
        verdicts, judge = ask(server, "rule+llm", *answers)
        assert verdicts == [True, False, True, True, True]
        assert len(server.requests) == 1 and judge.counts["rule"] == 2 and judge.counts["llm"] == 1
        assert server.requests[0]["temperature"] == 0 and "LXXV" in str(server.requests[0]["messages"])
        assert ask(server, "rule+llm", "LXXV", known={"LXXV": False})[0] == [False]
        assert len(server.requests) == 1


def test_a_verdict_that_is_no_verdict_is_asked_again_then_undecided():
    replies = iter([["Maybe"], ["no"], ["hm"], ["hm"]])
    with ChatServer(lambda request: next(replies)) as server:
        assert ask(server, "llm", "76")[0] == [False]
        with pytest.raises(Undecided):
            ask(server, "llm", "77")


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
