"""Pairs of answers judged in a file, with and without an LLM that may stay away."""

import json

import pytest
from conftest import run_forked
from fake_server import ChatServer, text_of

SCRIPT = "data_pipeline/judge_answers.py"
PAIRS = [
    {"reference": "79", "answer": "79 miles", "source": "mine"},
    {"reference": 1e-05, "answer": "0.00001"},
    {"reference": "79", "answer": ""},
    {"reference": "rhombus", "answer": "a square on its\n corner", "question": "Which shape?"},
    {"reference": "96", "answer": "50% of 96 castles"},
]
BY_RULES = [("same", "rule"), ("same", "rule"), ("different", "rule")]
ALGEBRA = {"reference": r"\int_0^1 2x\,dx", "answer": "1"}  # takes seconds: it starts math-verify's processes


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return tmp_path / "pairs.jsonl"


def judge(pairs, *flags):
    done = run_forked(SCRIPT, "--input_file", pairs, "--output_file", pairs.with_name("out.jsonl"), *flags)
    return done, [json.loads(line) for line in written(pairs)]


def written(pairs):
    out = pairs.with_name("out.jsonl")
    return out.read_text().splitlines() if out.exists() else []


def llm(server):
    return ["--judge", "rule+llm", "--api_endpoint", server.url, "--judge_model", "j", "--max_outage", "0.3"]


def test_rules_give_every_pair_a_verdict_and_say_who_gave_it(pairs):
    pairs.write_text(pairs.read_text() + json.dumps(ALGEBRA))
    done, rows = judge(pairs, "--judge", "rule")
    assert done.returncode == 0, done.stderr
    found = [(row.pop("verdict"), row.pop("by")) for row in rows]
    assert found == [*BY_RULES, ("unsure", "rule"), ("unsure", "rule"), ("same", "math-verify")]
    assert rows == [*PAIRS, ALGEBRA]
    said = done.stdout.splitlines()
    assert said[:2] == ["verdict: same 3, unsure 2, different 1", "by: rule 5, math-verify 1"]
    assert "  79 | 79 miles" in said and "  rhombus | a square on its corner" in said
    assert sorted(path.name for path in pairs.parent.iterdir()) == ["out.jsonl", "pairs.jsonl"]


def test_the_llm_is_asked_about_the_rest_and_nothing_is_lost_when_it_goes(pairs):
    def reply(request):
        return ["No."] if "rhombus" in text_of(request) else 503

    with ChatServer(reply) as server:
        done, rows = judge(pairs, *llm(server))
        assert done.returncode == 3 and "line 5: " in done.stderr and not rows
        assert any("Which shape?" in text_of(request) for request in server.requests)
    with ChatServer(lambda request: ["Maybe"]) as server:
        done, rows = judge(pairs, *llm(server))
        assert done.returncode == 0, done.stderr
        assert all("castles" in text_of(request) for request in server.requests)
    assert [(row["verdict"], row["by"]) for row in rows] == [*BY_RULES, ("different", "llm"), ("unsure", "llm")]
    assert sorted(path.name for path in pairs.parent.iterdir()) == ["out.jsonl", "pairs.jsonl"]


def test_an_llm_alone_is_asked_about_every_pair_once(pairs):
    pairs.write_text(pairs.read_text() * 2)
    with ChatServer(lambda request: ["yes"]) as server:
        done, rows = judge(pairs, "--judge", "llm", *llm(server)[2:])
        assert done.returncode == 0 and len(server.requests) == len(PAIRS)
    assert [(row["verdict"], row["by"]) for row in rows] == [("same", "llm")] * 2 * len(PAIRS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"reference": "5"}', "record 1: answer: must be a text or a number"),
        ('{"reference": " ", "answer": "5"}', "record 1: reference: is blank"),
        ('{"reference": true, "answer": "5"}', "record 1: reference: must be"),
        ('{"reference": "5", "answer": "5", "question": 5}', "record 1: question: must be a text"),
        ('["5", "5"]', "record 1: expected an object, found list"),
        ("", "holds no record"),
    ],
)
def test_bad_pairs_are_named(pairs, line, said):
    pairs.write_text(line + "\n" + (line and '{"reference": "5", "answer": "5"}\n'))
    done, rows = judge(pairs)
    assert done.returncode == 2 and said in done.stderr and not rows
