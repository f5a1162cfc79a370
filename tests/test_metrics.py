"""Every number of the score file against a value worked out by hand or by going through all subsets."""

import itertools
import json
import math
import random

import pytest
from conftest import run_script
from extract_calculate import AGGREGATIONS, aggregate, best_of, calculate, pass_at, problem_accuracies, vote, vote_of


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min", 0.5),
        ("last", 0.8),
        ("product", 0.4),
        ("average", 0.65),
        ("max", 0.8),
        ("sum_logprob", math.log(0.4)),
        ("sum_logit", math.log(1) + math.log(4)),
        ("mean_odd", (1 + 4) / 2),
    ],
)
def test_aggregations_by_hand(name, value):
    assert aggregate(name, [[0.5, 0.8]]) == pytest.approx([value])


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_every_aggregation_is_finite_at_0_and_1_and_an_empty_candidate_loses(name):
    zero, one, empty = aggregate(name, [[0.0, 0.0], [1.0, 1.0], []])
    assert math.isfinite(zero) and math.isfinite(one) and zero < one
    assert empty == -math.inf and best_of([zero, empty], [1, 0], 2) == 1


def by_subsets(values, labels, k):
    total = 0.0
    subsets = list(itertools.combinations(range(len(labels)), k))
    for subset in subsets:
        top = max(values[i] for i in subset)
        tied = [labels[i] for i in subset if values[i] == top]
        total += sum(tied) / len(tied)
    return total / len(subsets)


@pytest.mark.parametrize("k", range(1, 8))
def test_best_of_k_equals_going_through_all_subsets(k):
    rng = random.Random(k)
    for _ in range(20):
        values = [rng.choice([-math.inf, 0.1, 0.2, 0.2, 0.5, 0.9]) for _ in range(7)]
        labels = [rng.randint(0, 1) for _ in range(7)]
        assert best_of(values, labels, k) == pytest.approx(by_subsets(values, labels, k))
        assert pass_at(labels, k) == pytest.approx(by_subsets(labels, labels, k))


def test_best_of_ignores_the_order_of_candidates():
    assert best_of([0.5, 0.5, 0.1], [1, 0, 0], 3) == best_of([0.5, 0.1, 0.5], [0, 0, 1], 3) == 0.5


def test_votes_by_hand():
    answers, labels = ["7", "7", "8", "8", "8", ""], [1, 1, 0, 0, 0, 0]
    assert vote(answers, labels, [1] * 6) == 0
    assert vote(answers, labels, [0.9, 0.9, 0.1, 0.1, 0.1, 9]) == 1  # an empty answer does not vote
    assert vote(["7", "8"], [1, 0], [1, 1]) == 0.5
    assert vote(["", ""], [0, 0], [1, 1]) == 0
    assert vote_of(answers, labels, [1.0] * 6, 6, "seed") == 0
    assert vote_of(answers, labels, [1.0] * 6, 1, "seed") == vote_of(answers, labels, [1.0] * 6, 1, "seed")


def record(id_="a", labels=(1, 0, 0, 0)):
    return {
        "id": id_,
        "question": "q",
        "solutions_splits": [["s", "7"], ["s", "8"], ["t", "8"], []],
        "answers": ["7", "8.0", "8", ""],
        "labels": list(labels),
        "logprobs": [-5.0, -1.0, -2.0, 0.0],
        "prm_scores": [[0.9, 0.8], [0.9, 0.1], [0.3, 0.2], []],
    }


def test_one_problem_by_hand():
    row = problem_accuracies(record(), 4)
    assert row["random"] == 0.25 and row["pass"] == 1 and row["min"] == 1 and row["max"] == 0.5
    assert row["likelihood"] == 0  # the empty candidate has the best likelihood and still loses
    assert row["weighted_vote"] == 1


def test_the_score_file_has_every_rule_with_interval_and_paired_differences():
    result = calculate([record("a"), record("b", (0, 0, 0, 0))], seed=0)
    for name in ("random", "majority", "pass@4", "likelihood", "weighted_vote", *AGGREGATIONS):
        low, high = result[name]["ci95"]
        assert low <= result[name]["accuracy"] <= high
    assert result["random"]["accuracy"] == 0.125 and result["pass@4"]["accuracy"] == 0.5
    assert result["min"]["minus_random"]["mean"] == pytest.approx(0.375)
    assert set(result["by_k"]) == {"1", "2", "4"}
    assert result["by_k"]["1"]["min"] == pytest.approx(0.125)
    assert calculate([record("a"), record("b", (0, 0, 0, 0))], seed=0) == result


def test_the_script_selects_on_another_split_and_refuses_bad_records(tmp_path):
    (tmp_path / "dev.json").write_text(json.dumps([record()]))
    script = "eval/prm/extract_calculate.py"
    done = run_script(script, "--input_file", tmp_path / "dev.json")
    assert done.returncode == 0, done.stderr
    select = ["--select_on", tmp_path / "dev_score.json", "--output_file", tmp_path / "out.json"]
    done = run_script(script, "--input_file", tmp_path / "dev.json", *select)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["selected"]["aggregation"] == "min" and result["selected"]["accuracy"] == 1.0
    assert "selected: min" in done.stdout
    bad = [{**record(), "prm_scores": [[1.5]] * 4}, {**record("b"), "labels": [1]}, {"id": "c"}]
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    done = run_script(script, "--input_file", tmp_path / "bad.json")
    assert done.returncode == 2 and done.stderr.count("error: ") == 3
    assert "record 1 (id a): field 'prm_scores'" in done.stderr and "record 2 (id b): field 'labels'" in done.stderr
