"""The step judge on finished trees, against a real HTTP server, and the paths that Monte Carlo and judge agree on."""

import json
import math

import pytest
from conftest import run_forked
from fake_server import ChatServer, text_of

from mm_prm.trees import Node, Tree, read_trees, write_tree

LONG = "one two three four five six seven eight nine ten"
TOKENS = [("Yes", 0.6), (" yes", 0.1), ("No", 0.2), ("Maybe", 0.1)]


def top(tokens):
    return [{"token": token, "logprob": math.log(p)} for token, p in tokens]


def example(id_="a"):
    """Two states below the root: the first error is the second step of the wrong rollout."""
    wrong = Node([f"{LONG} b", "W"], 0.0, num_rollouts=1)
    good = Node([f"{LONG} a"], 0.5, 1, 2, 1, [["R"]], [1], [["b", "W"]], [1], [Node(["R"], 1.0, 0, 1, 1), wrong])
    root = Node([], 0.5, 1, 2, 1, [[f"{LONG} a", "R"]], [1], [[f"{LONG} a", "b", "W"]], [1], [good])
    return Tree(id_, "What?", "R", [], root, {"searches": 1})


@pytest.fixture
def trees(tmp_path):
    for id_ in "ab":
        write_tree(tmp_path / "t" / f"{id_}.json", example(id_))
    return tmp_path / "t"


def judge(trees, url, *flags):
    args = ["--input_dir", trees, "--api_endpoint", url, "--judge_model", "j", "--max_outage", "0.5"]
    return run_forked("data_pipeline/mllm_as_a_judge.py", *args, *flags)


def test_every_state_gets_the_probability_of_yes_against_no(trees, tmp_path):
    before = {path.name: path.read_bytes() for path in trees.iterdir()}
    with ChatServer(lambda request: ["Yes"], top_logprobs=top(TOKENS)) as server:
        done = judge(trees, server.url, "--output_dir", tmp_path / "judged")
        assert done.returncode == 0, done.stderr
        assert len(server.requests) == 6 and "6 replies of j" in done.stdout
        again = judge(trees, server.url, "--output_dir", tmp_path / "judged")
        assert again.returncode == 0 and len(server.requests) == 6
        request = server.requests[1]
        assert (request["max_tokens"], request["temperature"], request["top_logprobs"]) == (1, 0, 20)
        asked = [text_of(request).partition("Steps so far:\n")[2] for request in server.requests]
        assert sum(text.startswith(f"{LONG} a\nNew step:\nR\n") for text in asked) == 2
    assert {path.name: path.read_bytes() for path in trees.iterdir()} == before
    for tree in read_trees(tmp_path / "judged"):
        values = [node.judge_value for _, node in tree.root.walk()]
        assert values == [None, *[pytest.approx(0.7 / 0.9)] * 3] and tree.search["step_judge"]["model"] == "j"
        assert tree.root.children[0].mc_value == 0.5
    assert not (tmp_path / "judged" / ".partial").exists()


def test_a_tree_made_anew_is_judged_anew(trees, tmp_path):
    with ChatServer(lambda request: ["Yes"], top_logprobs=top(TOKENS)) as server:
        judge(trees, server.url, "--output_dir", tmp_path / "judged")
        other = example("a")
        other.root.children[0].mc_value = 0.25
        write_tree(trees / "a.json", other)
        assert judge(trees, server.url, "--output_dir", tmp_path / "judged").returncode == 0
        assert len(server.requests) == 9
    assert read_trees(tmp_path / "judged")[0].root.children[0].mc_value == 0.25


def test_two_trees_may_have_the_same_id(trees):
    write_tree(trees / "c.json", example("a"))
    with ChatServer(lambda request: ["Yes"], top_logprobs=top(TOKENS)) as server:
        assert judge(trees, server.url).returncode == 0
    assert all(tree.root.is_judged() for tree in read_trees(trees))


def test_every_file_that_is_no_tree_is_named(trees):
    for name in ("x", "y"):
        (trees / f"{name}.json").write_text("{}")
    done = judge(trees, "http://127.0.0.1:9/v1")
    assert done.returncode == 2 and "x.json: not a tree" in done.stderr and "y.json: not a tree" in done.stderr


def test_a_judge_that_fails_on_the_way_is_asked_only_for_the_rest(trees):
    def failing(request):
        return 503 if len(server.requests) > 4 else ["Yes"]

    with ChatServer(failing, top_logprobs=top(TOKENS)) as server:
        done = judge(trees, server.url, "--concurrency", "1")
    assert done.returncode == 3 and "1 of 2 problems unfinished" in done.stderr and "  b: judge" in done.stderr
    assert [tree.root.is_judged() for tree in read_trees(trees)] == [True, False]
    with ChatServer(lambda request: ["Yes"], top_logprobs=top(TOKENS)) as server:
        assert judge(trees, server.url).returncode == 0
        assert len(server.requests) == 2  # one of b's three was answered
    assert all(tree.root.is_judged() for tree in read_trees(trees))


@pytest.mark.parametrize(("tokens", "message"), [([("Maybe", 0.9)], "neither Yes nor No"), ([], "neither Yes nor No")])
def test_a_judge_without_a_verdict_writes_nothing(trees, tokens, message):
    before = {path.name: path.read_bytes() for path in trees.iterdir()}
    with ChatServer(lambda request: ["Maybe"], top_logprobs=top(tokens)) as server:
        done = judge(trees, server.url)
    assert done.returncode == 3 and message in done.stderr
    assert {path.name: path.read_bytes() for path in trees.iterdir() if path.is_file()} == before


def test_consensus_keeps_the_paths_on_which_the_judge_agrees(trees, tmp_path):
    def sceptic(request):
        server.top_logprobs = top([("Yes", 0.1), ("No", 0.9)] if "\nW\n" in text_of(request) else TOKENS)
        return ["No"]

    with ChatServer(sceptic) as server:
        assert judge(trees, server.url, "--concurrency", "1").returncode == 0
    args = ["--input_dir", trees, "--output_file", tmp_path / "p.json", "--consensus"]
    done = run_forked("data_pipeline/traverse.py", *args, "0.5")
    assert done.returncode == 0 and "no_consensus 0" in done.stdout, done.stderr
    labels = [path["labels"] for path in json.loads((tmp_path / "p.json").read_text())]
    assert labels == [[0.5, 1.0], [0.5, 0.0]] * 2
    done = run_forked("data_pipeline/traverse.py", *args, "0.95")  # now the judge sees an error in every first step
    assert done.returncode == 2 and "no_consensus 4" in done.stderr
