"""A policy that was never taught a format writes right answers as sentences: none of them is labelled wrong."""

import hashlib
import json
import random

import pytest
from conftest import run_forked
from fake_server import ChatServer, text_of

from mm_prm.trees import read_trees

# Problem, reference, and the ends of solutions with it; what is wrong says 57, 57 miles or $57.
ENDS = {
    "walk": (
        "79",
        [
            "Answer: {} miles",
            "Answer: They walk {} miles in all.",
            "**Answer: {} miles** (in all)",
            "\\[ \\text{{Answer: }} {} \\]",
            "They walk {} miles in all.",
            "The answer is **{}**.",
            "## Answer\n\n{} miles",
            "so it is $\\boxed{{{}}}$ miles",
            "Answer: {}",
        ],
    ),
    "pay": (
        "1430",
        ["Answer: Janet paid ${}.", "Janet paid ${}.", "Answer: ${}.00", "So the answer is ${}.", "Answer: {} dollars"],
    ),
    "number": (
        "5",
        ["所以\n\n故答案为：{}", "【答案】{}", "答：一共有{}个。", "Answer: There are {} golf balls.", "\\boxed{{{}}}"],
    ),
}


def policy(request):
    """Six of ten solutions are right; the end is the one that a seeded draw says."""
    text = text_of(request)
    name = next(name for name in ENDS if f"Problem {name}" in text)
    reference, ends = ENDS[name]
    rng = random.Random(hashlib.md5(json.dumps([text, request["seed"]]).encode()).digest())
    solutions = []
    for _ in range(request["n"]):
        right = rng.random() < 0.6
        how = f"We read the picture {rng.choice(['once', 'twice'])}.\n\nWe {'add' if right else 'slip'}.\n\n"
        solutions.append(how + rng.choice(ends).format(reference if right else 57))
    return solutions


@pytest.fixture
def seed(tmp_path):
    rows = [{"id": name, "question": f"Problem {name}?", "correct_answer": ENDS[name][0]} for name in ENDS]
    (tmp_path / "seed.json").write_text(json.dumps(rows))
    return tmp_path / "seed.json"


def is_right(steps):
    return "We add." in steps


def flags(server):
    return ["--policy_endpoint", server.url, "--model", "m", "--judge", "rule", "--step_format", "paragraphs"]


def test_no_right_rollout_of_a_tree_is_entered_as_wrong_and_no_wrong_one_as_right(seed, tmp_path):
    with ChatServer(policy) as server:
        search = [
            "--num_rollouts",
            "16",
            "--max_search_count",
            "6",
            "--input_file",
            seed,
            "--output_dir",
            tmp_path / "t",
        ]
        done = run_forked("data_pipeline/run_data_pipeline.py", *flags(server), *search)
    assert done.returncode == 0, done.stderr
    for tree in read_trees(tmp_path / "t"):
        assert tree.search["unanswered"] == 0 < tree.root.num_correct
        for _, node in tree.root.walk():
            assert all(map(is_right, node.correct_rollouts))
            assert not any(map(is_right, node.incorrect_rollouts))


def test_no_right_candidate_is_labelled_wrong_unless_it_is_marked(seed, tmp_path):
    with ChatServer(policy) as server:
        args = ["--data", seed, "--output_file", tmp_path / "r.json", "--num_rollouts", "40"]
        done = run_forked("eval/generate_rollouts.py", *flags(server), *args)
    assert done.returncode == 0, done.stderr
    decided = 0
    for record in json.loads((tmp_path / "r.json").read_text()):
        marks = record.get("undecided", [0] * 40)
        decided += 40 - sum(marks)
        for steps, label, mark in zip(record["solutions_splits"], record["labels"], marks, strict=True):
            assert mark or label == is_right(steps), steps
    assert decided > 60
    marked = 3 * 40 - decided
    assert (f", {marked} undecided" in done.stdout) == bool(marked)
    assert "of the answers: an LLM judge would decide" in done.stdout or not marked
