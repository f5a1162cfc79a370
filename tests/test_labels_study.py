"""The study of labels: its numbers against ones worked out by hand, on made-up scores."""

import json

import numpy as np
import pytest
from labels_measure import Scored, until_first_error
from labels_sets import account, mix
from labels_study import f1, report
from step_truth import right_steps

from mm_prm.files import read_json
from mm_prm.trees import Node, Tree, write_tree

# Two solutions of a problem: right all the way, and wrong from the second step on.
LABELS, STEPS = [[1, 1, 1], [1, 0, 0]], [["3 + 4 = 7", "So 7.", "7"], ["3 + 4 = 7", "So 8.", "8"]]


def record(id_, part, scores):
    given = {"id": id_, "question": "q", "answer": "7", "solutions_splits": STEPS, "answers": ["7", "8"]}
    truth = {"labels": [1, 0], "step_labels": LABELS, "benchmark": "processbench", "source": "desk", "part": part}
    return given | truth | {"prm_scores": scores}


RIGHT = [[0.9, 0.8, 0.9], [0.9, 0.1, 0.3]]  # finds the wrong step, and the right solution
WRONG = [[0.9, 0.2, 0.3], [0.9, 0.8, 0.9]]


@pytest.fixture
def run(tmp_path):
    """Two seeds: one is right on both test problems, one on the first alone."""
    (tmp_path / "k100" / "measured").mkdir(parents=True)
    for seed, second in enumerate((RIGHT, WRONG)):
        records = [record("d", "dev", RIGHT), record("a", "test", RIGHT), record("b", "test", second)]
        (tmp_path / f"scored-{seed}.json").write_text(json.dumps(records))
        measured = Scored.read(tmp_path / f"scored-{seed}.json").measured()
        (tmp_path / f"k100/measured/plain8-{seed}.json").write_text(json.dumps(measured))
    for which in (0, 1):
        root = Node([], 0.5, 0, 2, 1, [STEPS[0]], [1], [STEPS[1]], [1])
        write_tree(tmp_path / f"k100/plain8-{which}/trees/t.json", Tree("t", "q", "7", [], root, {"rollouts": 2}))
        account(tmp_path / f"k100/plain8-{which}", 10.0 * which)
    return tmp_path


def test_a_seed_chooses_on_dev_and_is_counted_on_test(run):
    seed = Scored.read(run / "scored-1.json")
    assert 0.1 < seed.threshold <= 0.8 and seed.measured()["accuracy"]["best_of_16"] == [1, 0]
    assert seed.found.tolist() == [[1, 1, 1, 1], [0, 1, 0, 1]]
    assert until_first_error(seed.test[0]) == [(0.9, 1), (0.8, 1), (0.9, 1), (0.9, 1), (0.1, 0)]
    assert 0 < seed.step_auroc < 1


def test_f1_is_the_mean_of_the_seeds(run):
    value, draws = f1(np.array([Scored.read(run / f"scored-{n}.json").found for n in (0, 1)]))
    assert value == pytest.approx((1 + 0.5) / 2) and draws.min() == 0 and draws.max() == 1
    assert draws.mean() == pytest.approx(0.75, abs=0.02)


def test_the_tables_say_what_was_drawn_and_found(run):
    shown = report(run)
    assert "## 100 wordings" in shown and "random 50.0 [50.0, 50.0]" in shown
    # 3 + 4 = 7 was said by both rollouts; So 7., So 8. and the answers by one
    assert "| 8 plain | 2 | 5 | 80 % | 2 | 75.0 [" in shown and (run / "k100").is_dir()
    assert (run / "frontier.png").stat().st_size > 10_000


def test_a_mix_takes_the_first_trees_from_the_search(run):
    for name in ("s", "u"):
        root = Node([], 0.5, 0, 2, 1, [STEPS[0]], [1], [STEPS[1]], [1])
        for kind, drawn in (("plain8-0", 2), ("trees-0", 20)):
            write_tree(run / f"k100/{kind}/trees/{name}.json", Tree(name, "q", "7", [], root, {"rollouts": drawn}))
    (run / "k100/trees-0/account.json").write_text('{"seconds": 30}')
    for _ in range(2):  # again after an interruption
        mix(run / "k100/mix-0", run / "k100/trees-0", run / "k100/plain8-0", count=1)
    found = read_json(run / "k100/mix-0/account.json")
    assert found["rollouts"] == 20 + 2 + 2 and found["seconds"] == pytest.approx(30 / 3)


def test_the_answer_is_a_step_of_its_own():
    moves = [{"kind": "+", "numbers": [3, 4, 7]}, {"kind": "say_all", "numbers": [7]}]
    assert [right_steps(steps, moves, 7) for steps in STEPS] == LABELS
