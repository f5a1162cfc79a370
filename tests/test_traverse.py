"""Labels from trees, worked out by hand."""

import json
import random

import pytest
from conftest import run_forked
from labels import LABELS_FROM, Prefixes, by_step, edge_paths
from labels import whole_rollouts as rollout_paths
from PIL import Image
from traverse import agrees, balance, path_record, sample

from mm_prm.files import write_json
from mm_prm.trees import Node, Tree

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


def labels_and_counts(kind, root):
    paths_of, _ = LABELS_FROM[kind]
    return {"".join(sum(path.entries, ())): (path.labels, path.counts) for path in paths_of(root, 0.0)}


def test_every_kind_of_label_on_one_tree():
    # States: A (1 of 2), A|B R (1 of 1), A|C (0 of 2), and the leaf A B R (2 of 2).
    assert labels_and_counts("edges", example_root()) == {
        "ABR": ((0.5, 1.0), (2, 1)),  # the later of two paths of these steps: A, then B R
        "AC": ((0.5, 0.0), (2, 2)),
    }
    assert labels_and_counts("rollouts", example_root()) == {
        "ABR": ((3 / 5, 1.0, 1.0), (5, 3, 3)),
        "ACW": ((3 / 5, 0.0, 0.0), (5, 4, 4)),
        "DW": ((0.0, 0.0), (1, 1)),
    }
    assert labels_and_counts("outcome", example_root()) == {
        "ABR": ((0.5, 1.0, 1.0), (2, 3, 3)),  # A is a state; A B R is one too, of two leaves' 2 + 1 rollouts
        "ACW": ((0.5, 0.0, 0.0), (2, 2, 4)),  # A and A C are states
        "DW": ((0.0, 0.0), (1, 1)),
    }
    assert labels_and_counts("rollout_outcome", example_root()) == {
        "ABR": ((1.0, 1.0, 1.0), (3, 3, 3)),
        "ACW": ((0.0, 0.0, 0.0), (4, 4, 4)),
        "DW": ((0.0, 0.0), (1, 1)),
    }


def test_a_tree_without_a_search_has_the_labels_of_its_rollouts():
    root = example_root()
    root.children = root.children[:1]
    assert labels_and_counts("rollouts", root) == {
        "ABR": ((2 / 3, 1.0, 1.0), (3, 2, 2)),
        "ACW": ((2 / 3, 0.0, 0.0), (3, 1, 1)),
        "DW": ((0.0, 0.0), (1, 1)),
    }
    outcomes = {"ABR": ((1.0,) * 3, (2,) * 3), "ACW": ((0.0,) * 3, (1,) * 3), "DW": ((0.0,) * 2, (1,) * 2)}
    assert labels_and_counts("rollout_outcome", root) == labels_and_counts("outcome", root) == outcomes


def test_counts_add_up():
    """Through the prefixes of one length go all rollouts that are as long, drawn at or above them."""
    prefixes = Prefixes(example_root())
    drawn = [(drawn_from, steps, count) for drawn_from, steps, count, _ in example_root().rollouts()]
    for length in (1, 2, 3):
        ends = {prefixes.of(steps)[length - 1] for _, steps, _ in drawn if len(steps) >= length}
        reached = [count for drawn_from, steps, count in drawn if drawn_from <= length <= len(steps)]
        assert sum(prefixes.total[end] for end in ends) == sum(reached)
    assert prefixes.singletons() == (2, 7)  # of A, D, A B, A C, D W, A B R, A C W: D and D W


def test_undecided_rollouts_make_no_path_and_no_label():
    root = example_root()
    plain = list(rollout_paths(root, 0)), list(edge_paths(root, 0))
    root.undecided, root.undecided_rollouts, root.undecided_counts = 5, [["A", "B", "U"], ["E", "U"]], [4, 1]
    assert (list(rollout_paths(root, 0)), list(edge_paths(root, 0))) == plain
    assert list(root.rollouts())[3:5] == [(0, ("A", "B", "U"), 4, None), (0, ("E", "U"), 1, None)]


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
    assert record["label_counts"] == [2, 1]
    assert record["steps"] == [["A"], ["B", "R"]] and record["image_path"] == ["/a.png", "/b.png"]
    assert path_record(Tree("t", "q", "R", [], Node([])), path, hard_above=0.5)["labels"] == [0.0, 1.0]


def test_step_spelling_labels_the_last_step_of_an_edge():
    tree, paths = Tree("t", "q", "R", [], Node([])), [by_step(path) for path in edge_paths(example_root(), 0.0)]
    soft, hard = ([path_record(tree, path, above) for path in paths] for above in (None, 0.5))
    assert [record["labels"] for record in soft] == [[None, None, 1.0], [0.5, None, 1.0], [0.5, 0.0]]
    assert [record["labels"] for record in hard] == [[None, None, 1.0], [0.0, None, 1.0], [0.0, 0.0]]
    assert soft[1]["steps"] == [["A"], ["B"], ["R"]] and soft[1]["process"] == "A<prm>\n\nB<prm>\n\nR<prm>"
    rollouts = list(rollout_paths(example_root(), 0.0))
    assert list(map(by_step, rollouts)) == rollouts


def test_the_spelling_changes_neither_which_paths_are_kept_nor_their_labels():
    kept, counts = sample(trees([0.5, 0.5]), "edges", 0.0, None, seed=0)
    spelled, after = sample(trees([0.5, 0.5]), "edges", 0.0, None, seed=0, spelling="step")
    assert spelled == [(tree, by_step(path)) for tree, path in kept]
    nulls = sum(label is None for _, path in spelled for label in path.labels)
    assert after == {**counts, "null_labels": nulls} and nulls > counts["null_labels"] == 0


def judged_root(a=None, c=None, b_r=None, leaf=None):
    """The example; the judge's values of the states A, A|C, A|B R and (below the root) A B R."""
    root = example_root()
    root.children[0].judge_value, root.children[1].judge_value = leaf, a
    root.children[1].children[0].judge_value, root.children[1].children[1].judge_value = b_r, c
    return root


@pytest.mark.parametrize(
    "values, kept",
    [
        ({"a": 0.9, "c": 0.1}, [True, True, True]),  # Monte Carlo sees an error in the third path alone, at A|C
        ({"a": 0.2, "c": 0.1}, [True, False, False]),  # the judge sees it at A already
        ({"a": 0.9}, [True, True, False]),  # unknown at A|C: no error seen
        ({"c": 0.5}, [True, True, False]),  # 0.5 is not below 0.5
        ({"c": 0.1, "b_r": 0.1, "leaf": 0.1}, [False, False, True]),
    ],
)
def test_consensus_of_edges(values, kept):
    assert [agrees(path, 0.0, 0.5) for path in edge_paths(judged_root(**values), 0.0)] == kept


def test_consensus_of_rollouts_finds_judge_values_by_the_whole_prefix():
    def judged(**values):
        found = rollout_paths(judged_root(**values), 0.0)
        return {"".join(e[0] for e in path.entries): (path.judged, agrees(path, 0.0, 0.5)) for path in found}

    # Monte Carlo's first error: none in A B R, the second step of A C W, the first of D W (where no judge was asked).
    assert judged(a=0.9, c=0.1) == {
        "ABR": ((0.9, None, None), True),
        "ACW": ((0.9, 0.1, None), True),
        "DW": ((None, None), False),
    }
    assert judged(a=0.9, b_r=0.1)["ABR"] == ((0.9, None, 0.1), False)
    assert judged(a=0.9, b_r=0.1, leaf=0.8)["ABR"] == ((0.9, None, 0.8), True)  # the first of two equal states


def test_paths_without_consensus_are_counted():
    [tree] = trees([0.5])
    tree.root.children[1].judge_value = 0.9  # A; the wrong rollouts hold errors that the judge does not see
    everything, _ = sample([tree], "rollouts", 0.0, None, seed=0)
    kept, counts = sample([tree], "rollouts", 0.0, None, seed=0, consensus=0.5)
    assert kept == [item for item in everything if item[1].positive]
    assert (counts["paths"], counts["no_consensus"]) == (2, 3) == (len(kept), len(everything) - len(kept))


def test_consensus_without_judge_values_is_refused(tmp_path):
    [tree] = trees([0.5])
    write_json(tmp_path / "trees" / "t.json", tree.to_dict())
    args = ["data_pipeline/traverse.py", "--input_dir", tmp_path / "trees", "--output_file", tmp_path / "paths.json"]
    done = run_forked(*args, "--consensus", "0.5")
    assert done.returncode == 2 and "run mllm_as_a_judge.py first" in done.stderr
    done = run_forked(*args, "--consensus", "5")
    assert done.returncode == 2 and "between 0 and 1" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["trees"]


def test_a_judge_value_is_written_only_when_known():
    known = judged_root(a=0.25).to_dict()
    assert [child.get("judge_value", "left out") for child in known["children"]] == ["left out", 0.25]
    assert Node.from_dict(known) == judged_root(a=0.25)


def test_trees_may_be_thousands_of_levels_deep():
    root = Node(["R"], 1.0, incorrect_rollouts=[["W"]], incorrect_counts=[1])
    for _ in range(1999):
        root = Node(["s"], 0.5, children=[root])
    root = Node.from_dict(Node([], 0.5, children=[root]).to_dict())
    assert [len(steps) for steps, _ in root.walk()] == list(range(2001))
    [path] = edge_paths(root, 0.0)
    assert path.labels == (0.5,) * 1999 + (1.0,) and path.positive
    assert list(root.rollouts()) == [(2000, ("s",) * 1999 + ("R", "W"), 1, False)]
    [path] = rollout_paths(root, 0.0)
    # The one rollout was drawn after 2,000 steps; nothing is known of the prefixes before.
    assert path.labels == (None,) * 1999 + (0.0, 0.0) and agrees(path, 0.0, 0.5) is False


@pytest.mark.parametrize("labels_from, flags", [("edges", []), ("edges", ["--spelling", "step"]), ("rollouts", [])])
def test_tree_to_training_file_by_the_scripts(tmp_path, labels_from, flags):
    for tree in trees([0.5, 0.25]):
        write_json(tmp_path / "trees" / f"{tree.id}.json", tree.to_dict())
    out = [tmp_path / "paths.json", tmp_path / "prm.jsonl"]
    args = ["--input_dir", tmp_path / "trees", "--labels_from", labels_from, *flags]
    first = run_forked("data_pipeline/traverse.py", *args, "--output_file", out[0])
    assert first.returncode == 0, first.stderr
    run_forked("data_pipeline/traverse.py", *args, "--output_file", tmp_path / "again.json")
    assert out[0].read_bytes() == (tmp_path / "again.json").read_bytes()
    histogram = tmp_path / "paths_labels.png"
    assert histogram.read_bytes() == (tmp_path / "again_labels.png").read_bytes()
    with Image.open(histogram) as image:
        image.load()
        assert image.format == "PNG" and "Software" not in image.info
    second = run_forked("data_pipeline/prm_data_format.py", "--input_file", out[0], "--output_file", out[1])
    assert second.returncode == 0, second.stderr
    paths, rows = json.loads(out[0].read_text()), [json.loads(line) for line in out[1].read_text().splitlines()]
    meta = json.loads((tmp_path / "prm_meta.json").read_text())
    assert len(rows) == len(paths) == meta["mm_prm"]["length"] > 0
    for row, path in zip(rows, paths, strict=True):
        human, gpt = row["conversations"]
        assert human["value"] == f"Question: q\nProcess: {path['process']}"
        assert gpt["value"] == path["labels"] and human["value"].count("<prm>") == len(path["labels"])
        assert "image" not in row
    nulls = sum(path["labels"].count(None) for path in paths)
    assert f"null_labels {nulls}\n" in first.stdout and bool(nulls) == bool(flags)


def test_bad_paths_are_refused_by_name(tmp_path):
    good = {"id": "a", "question": "q", "answer": "1", "image_path": None, "steps": [["s"]], "process": "s<prm>"}
    rows = [{**good, "labels": [0.5, 1]}, {**good, "labels": [2]}, {**good, "labels": [None]}]
    rows += [{**good, "labels": [1], "image_path": "gone.png"}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    done = run_forked(
        "data_pipeline/prm_data_format.py", "--input_file", tmp_path / "p.json", "--output_file", tmp_path / "o"
    )
    assert done.returncode == 2 and not (tmp_path / "o").exists()
    assert all(f"record {number} (id a): field 'labels'" in done.stderr for number in (1, 2, 3))
    (tmp_path / "p.json").write_text(json.dumps(rows[3:]))
    done = run_forked(
        "data_pipeline/prm_data_format.py", "--input_file", tmp_path / "p.json", "--output_file", tmp_path / "o"
    )
    assert done.returncode == 2 and "gone.png does not exist" in done.stderr


def test_relative_pictures_of_a_tree_are_found_by_every_later_stage(tmp_path):
    trees, paths, rows = tmp_path / "trees", tmp_path / "a" / "p.json", tmp_path / "b" / "r.jsonl"
    write_json(trees / "a.json", Tree("a", f"{LONG}?", "R", ["p.png"], example_root()).to_dict())
    Image.new("RGB", (4, 4)).save(trees / "p.png")
    args = ["--input_dir", trees, "--output_file", paths, "--labels_from", "rollouts"]
    (trees / "a.json").write_text(
        (trees / "a.json").read_text().replace('"B"', f'"{LONG}"').replace('"C"', f'"{LONG}!"')
    )
    assert run_forked("data_pipeline/traverse.py", *args).returncode == 0
    first = json.loads(paths.read_text())[0]
    assert first["image_path"] == str(trees / "p.png")
    paths.write_text(json.dumps([first | {"id": 1, "image_path": "../trees/p.png"}]))  # to the folder of the file
    done = run_forked("data_pipeline/prm_data_format.py", "--input_file", paths, "--output_file", rows)
    assert done.returncode == 0, done.stderr
    row = json.loads(rows.read_text())
    assert (row["id"], row["image"]) == ("1", str(trees / "p.png"))
