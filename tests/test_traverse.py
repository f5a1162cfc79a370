"""Labels from trees, worked out by hand."""

import json
import random

import pytest
from conftest import run_script
from traverse import balance, edge_paths, path_record, rollout_paths, sample

from mm_prm.records import Node, Tree, write_json

LONG = "one two three four five six seven eight nine ten"  # ten words


def example_root():
    """Four rollouts: A B R (twice), A C W, D W; then two more drawn from the prefix A: B R and C W."""
    forced = Node(
        *(["A"], 0.5, 0, 2, 1, [["B", "R"]], [1], [["C", "W"]], [1]),
        [Node(["B", "R"], 1.0, 0, 1, 1), Node(["C"], 0.0, 0, 2, 0, [], [], [["W"]], [2])],
    )
    leaf = Node(["A", "B", "R"], 1.0, 0, 2, 2)
    return Node(
        *([], 0.5, 1, 4, 2, [["A", "B", "R"]], [2], [["A", "C", "W"], ["D", "W"]], [1, 1]),
        [leaf, forced],
    )


def test_edges_end_at_the_first_state_without_a_right_rollout_or_at_a_leaf():
    found = [(path.entries, path.labels, path.positive) for path in edge_paths(example_root(), threshold=0.0)]
    assert found == [
        ((("A", "B", "R"),), (1.0,), True),
        ((("A",), ("B", "R")), (0.5, 1.0), True),
        ((("A",), ("C",)), (0.5, 0.0), False),
    ]
    above = [(path.entries, path.positive) for path in edge_paths(example_root(), threshold=0.5)]
    assert above == [((("A", "B", "R"),), True), ((("A",),), False)]


def test_every_rollout_counts_at_and_below_the_prefix_it_was_drawn_from():
    found = {
        tuple(e[0] for e in path.entries): (path.labels, path.positive) for path in rollout_paths(example_root(), 0)
    }
    # Through A at the root: A B R twice, A C W once; drawn from A: B R once, C W once -> 3 right of 5.
    # Through A C: once from the root, once from A, twice from A C, all wrong.
    assert found == {
        ("A", "B", "R"): ((3 / 5, 1.0, 1.0), True),
        ("A", "C", "W"): ((3 / 5, 0.0, 0.0), False),
        ("D", "W"): ((0.0, 0.0), False),
    }


def trees(mc_values):
    out = []
    for number, mc in enumerate(mc_values):
        root = example_root()
        root.mc_value = mc
        for node in (root, *root.children):
            node.correct_rollouts = [[LONG, *steps] for steps in node.correct_rollouts]
            node.incorrect_rollouts = [[LONG, *steps] for steps in node.incorrect_rollouts]
        for child in root.children:
            child.partial_solution = [LONG, *child.partial_solution]
        out.append(Tree(f"t{number}", "q", "R", [], root))
    return out


def test_trees_that_are_all_right_or_all_wrong_are_left_out():
    kept, counts = sample(trees([0.0, 0.5, 1.0]), "rollouts", 0.0, None, seed=0)
    assert {tree.id for tree, _ in kept} == {"t1"}
    assert counts["trees"] == 3 and counts["trees_root_0_or_1"] == 2


def test_short_paths_are_dropped_and_positives_subsampled():
    kept, counts = sample(trees([0.5, 0.5]), "edges", 0.0, None, seed=0)
    assert sum(path.positive for _, path in kept) == sum(not path.positive for _, path in kept) == 2
    assert counts["positives_subsampled"] == 2 and counts["too_short"] == 0
    tree = Tree("t", "q", "R", [], example_root())
    with_short = sample([tree], "edges", 0.0, None, seed=0)
    assert with_short[0] == [] and with_short[1]["too_short"] == 3


def test_the_same_seed_gives_the_same_paths_in_any_tree_order():
    forward, backward = trees([0.5] * 6), trees([0.5] * 6)[::-1]
    one, two = (sample(order, "rollouts", 0.0, 2, seed=3)[0] for order in (forward, backward))
    assert [(tree.id, path) for tree, path in one] == [(tree.id, path) for tree, path in two]


def test_balance_keeps_half_and_half_where_possible():
    paths = list(edge_paths(example_root(), 0.0))
    assert sorted(path.positive for path in balance(paths, 2, random.Random(0))) == [False, True]
    assert len(balance(paths, 3, random.Random(0))) == 3


def test_a_path_record_spells_edges_with_one_marker_each():
    path = list(edge_paths(example_root(), 0.0))[1]
    record = path_record(Tree("t", "q", "R", ["/a.png", "/b.png"], Node([])), path, hard_above=None)
    assert record["process"] == "A<prm>\n\nB\nR<prm>" and record["labels"] == [0.5, 1.0]
    assert record["steps"] == [["A"], ["B", "R"]] and record["image_path"] == ["/a.png", "/b.png"]
    assert path_record(Tree("t", "q", "R", [], Node([])), path, hard_above=0.5)["labels"] == [0.0, 1.0]


@pytest.mark.parametrize("labels_from", ["edges", "rollouts"])
def test_tree_to_training_file_by_the_scripts(tmp_path, labels_from):
    for tree in trees([0.5, 0.25]):
        write_json(tmp_path / "trees" / f"{tree.id}.json", tree.to_dict())
    out = [tmp_path / "paths.json", tmp_path / "prm.jsonl"]
    args = ["--input_dir", tmp_path / "trees", "--labels_from", labels_from]
    first = run_script("data_pipeline/traverse.py", *args, "--output_file", out[0])
    assert first.returncode == 0, first.stderr
    run_script("data_pipeline/traverse.py", *args, "--output_file", tmp_path / "again.json")
    assert out[0].read_bytes() == (tmp_path / "again.json").read_bytes()
    second = run_script("data_pipeline/prm_data_format.py", "--input_file", out[0], "--output_file", out[1])
    assert second.returncode == 0, second.stderr
    paths, rows = json.loads(out[0].read_text()), [json.loads(line) for line in out[1].read_text().splitlines()]
    meta = json.loads((tmp_path / "prm_meta.json").read_text())
    assert len(rows) == len(paths) == meta["mm_prm"]["length"] > 0
    for row, path in zip(rows, paths, strict=True):
        human, gpt = row["conversations"]
        assert human["value"] == f"Question: q\nProcess: {path['process']}"
        assert gpt["value"] == path["labels"] and human["value"].count("<prm>") == len(path["labels"])
        assert "image" not in row


def test_bad_paths_are_refused_by_name(tmp_path):
    good = {"id": "a", "question": "q", "answer": "1", "image_path": None, "steps": [["s"]], "process": "s<prm>"}
    rows = [{**good, "labels": [0.5, 1]}, {**good, "labels": [2]}, {**good, "labels": [1], "image_path": "gone.png"}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    done = run_script(
        "data_pipeline/prm_data_format.py", "--input_file", tmp_path / "p.json", "--output_file", tmp_path / "o"
    )
    assert done.returncode == 2 and not (tmp_path / "o").exists()
    assert "record 1 (id a): field 'labels'" in done.stderr and "record 2 (id a): field 'labels'" in done.stderr
    (tmp_path / "p.json").write_text(json.dumps(rows[2:]))
    done = run_script(
        "data_pipeline/prm_data_format.py", "--input_file", tmp_path / "p.json", "--output_file", tmp_path / "o"
    )
    assert done.returncode == 2 and "gone.png does not exist" in done.stderr
