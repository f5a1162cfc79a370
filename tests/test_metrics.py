"""Every number of the score file against a value worked out by hand or by going through all subsets."""

import itertools
import json
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from conftest import run_forked
from extract_calculate import calculate, markdown, natural, screen, share_bin

from mm_prm.answers import canonical
from mm_prm.records import parse_rollouts
from mm_prm.selection import AGGREGATIONS, EDGE, Candidates, aggregate, best_of, pass_at, vote, vote_of
from mm_prm.statistics import auroc, brier, calibration_error, cluster_draws, within_correlation


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


# Exact values as fractions, where the definition has one without logarithms.
EXACT = {
    "min": min,
    "last": lambda p: p[-1],
    "product": math.prod,
    "average": lambda p: sum(p) / len(p),
    "max": max,
    "sum_logprob": math.prod,  # the order of products
    "mean_odd": lambda p: sum(x / max(1 - x, Fraction(EDGE)) for x in p) / len(p),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", ["saturated", "tiny", "tenths"])
def test_ties_and_orders_are_those_of_exact_arithmetic(name, kind):
    rng = random.Random(f"{name} {kind}")
    draw = {
        "saturated": lambda: float(np.float32(1 / (1 + math.exp(-rng.gauss(16, 3))))),  # many are exactly 1
        "tiny": lambda: float(np.float32(1 / (1 + math.exp(-rng.gauss(-10, 3))))),
        "tenths": lambda: rng.randint(1, 9) / 10,
    }[kind]
    exact_one = {1.0: Fraction(1)} | {n / 10: Fraction(n, 10) for n in range(1, 10)}
    for _ in range(60):
        scores = [[draw() for _ in range(rng.randint(1, 9))] for _ in range(16)]
        labels = [rng.randint(0, 1) for _ in scores]
        exact = [EXACT[name]([exact_one.get(score, Fraction(score)) for score in steps]) for steps in scores]
        assert best_of(aggregate(name, scores), labels, 16) == pytest.approx(best_of(exact, labels, 16))


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
    assert vote_of(answers, labels, [1.0] * 6, 1, "seed") == 2 / 6  # exact for one of the candidates
    assert vote_of(answers, labels, [1.0] * 6, 3, "seed") == vote_of(answers, labels, [1.0] * 6, 3, "seed")


def test_votes_over_subsets_come_near_all_subsets():
    answers, labels = list("aaabbc"), [1, 1, 1, 0, 0, 0]
    exact = [
        vote([answers[i] for i in s], [labels[i] for i in s], [1] * 3) for s in itertools.combinations(range(6), 3)
    ]
    found = [vote_of(answers, labels, [1.0] * 6, 3, str(seed)) for seed in range(100)]
    assert np.mean(found) == pytest.approx(np.mean(exact), abs=0.02)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["75", "75.0", "75", "$75$", "74"], ["75", "75", "75", "75", "74"]),
        (["(B) 12", "B", "B", "C"], ["B", "B", "B", "C"]),
        (["12 cm", "12 cm", "12", "", None], ["12 cm", "12 cm", "12 cm", "", ""]),
        (["1,200", "1200"], ["1,200", "1,200"]),
        (["x+1", "1+x", "\\sqrt{8}", "2\\sqrt2"], ["1+x", "1+x", "2\\sqrt2", "2\\sqrt2"]),
    ],
)
def test_answers_that_mean_the_same_vote_together(answers, expected):
    assert canonical(answers) == expected


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
    row = Candidates.of(record()).accuracies(4)
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
    # min takes the only right candidate of a, and nothing can be had in b: the whole gap is closed.
    assert result["min"]["gap_closed"]["mean"] == 1 and result["max"]["gap_closed"]["mean"] == pytest.approx(1 / 3)
    assert calculate([record("b", (0, 0, 0, 0))], seed=0)["min"]["gap_closed"] == {"mean": None, "ci95": None}


def random_record(rng, number):
    count = rng.choice([3, 5, 8])
    splits = [["s"] * rng.randint(0, 4) for _ in range(count)]
    answers = [str(rng.randint(1, 3)) if steps else "" for steps in splits]
    return {
        "id": str(number),
        "question": "q",
        "solutions_splits": splits,
        "answers": answers,
        "labels": [int(answer == "1") for answer in answers],
        "logprobs": [rng.gauss(-5, 2) for _ in splits],
        "prm_scores": [[rng.random() for _ in steps] for steps in splits],
        "problem_index": number // 2,
    }


def test_every_interval_and_difference_is_that_of_the_same_draws():
    rng = random.Random(0)
    records = [random_record(rng, number) for number in range(30)]
    result = calculate(records, seed=3)
    draws = cluster_draws([number // 2 for number in range(30)], seed=3)
    columns = {name: [] for name in ("random", "pass", "majority", "weighted_vote", "likelihood", *AGGREGATIONS)}
    for record in records:  # every rule anew, with all candidates of the record
        labels, answers, scores = record["labels"], record["answers"], record["prm_scores"]
        count, lowest = len(labels), aggregate("min", scores)
        columns["random"].append(sum(labels) / count)
        columns["pass"].append(float(any(labels)))
        columns["majority"].append(vote(answers, labels, [1] * count))
        columns["weighted_vote"].append(vote(answers, labels, [max(value, 0) for value in lowest]))
        whole = [value if steps else -math.inf for value, steps in zip(record["logprobs"], scores, strict=True)]
        columns["likelihood"].append(by_subsets(whole, labels, count))
        for name in AGGREGATIONS:
            columns[name].append(by_subsets(aggregate(name, scores), labels, count))
    columns = {name: np.array(values) for name, values in columns.items()}

    def bounds(values):
        return pytest.approx(np.percentile(values, [2.5, 97.5]))

    assert result["num_candidates"] == 8 and result["num_clusters"] == 15
    for name, values in columns.items():
        entry = result["pass@8" if name == "pass" else name]
        assert entry["accuracy"] == pytest.approx(values.mean()) and entry["ci95"] == bounds(draws.means(values))
        assert result["by_k"]["8"][name] == entry["accuracy"] and result["by_k_ci95"]["8"][name] == entry["ci95"]
        for base in ("random", "majority"):
            if name in ("random", base):
                continue
            paired = values - columns[base]
            assert entry[f"minus_{base}"]["mean"] == pytest.approx(paired.mean())
            assert entry[f"minus_{base}"]["ci95"] == bounds(draws.means(paired))
        if name not in ("random", "pass"):
            gap, gain = columns["pass"] - columns["random"], values - columns["random"]
            assert entry["gap_closed"]["mean"] == pytest.approx(gain.mean() / gap.mean())
            assert entry["gap_closed"]["ci95"] == bounds(draws.means(gain) / draws.means(gap))
    assert abs(draws.means(columns["min"]).std() - columns["min"].std() / 30**0.5) < 0.05


def test_rules_that_some_records_do_not_allow_are_left_out_and_said(capsys):
    rows = [record("a"), record("b") | {"answers": None}, record("c") | {"logprobs": None, "answers": None}]
    result = calculate(rows, seed=0)
    assert not {"majority", "weighted_vote", "likelihood"} & set(result)
    assert result["left_out"] == [
        "without majority and weighted_vote: 2 of 3 records have no answers",
        "without likelihood: 1 of 3 records have no logprobs",
    ]
    assert calculate([record("a"), record("a") | {"problem_index": None}], seed=0)["num_clusters"] == 2


def test_undecided_candidates_count_as_wrong_and_are_said():
    rows = [record("a", (1, 0, 0, 0)) | {"undecided": [0, 1, 1, 0]}, record("b", (0, 0, 0, 1))]
    plain = calculate([record("a", (1, 0, 0, 0)), record("b", (0, 0, 0, 1))], seed=0)
    result = calculate(rows, seed=0)
    assert (result["num_undecided"], plain["num_undecided"]) == (2, 0)
    assert all(result[name] == plain[name] for name in ("random", "pass@4", "min", "majority"))
    said = "2 candidates undecided: the judge gave no verdict on their answers, they count as wrong"
    assert said in screen(result).splitlines() and said in markdown(result).splitlines()
    assert "undecided" not in screen(plain) + markdown(plain)
    # How they end is not known: their steps are not held against the scores.
    steps = sum(len(scores) for number, scores in enumerate(rows[0]["prm_scores"]) if number not in (1, 2))
    assert result["step_scores"]["num_steps"] == steps + plain["step_scores"]["num_steps"] // 2


@pytest.mark.parametrize(
    ("undecided", "message"),
    [
        ([0, 1], "expected a list with one entry"),
        ([0, 2, 0, 0], "must be 0 or 1"),
        ([1, 0, 0, 0], "label 1 is decided"),
    ],
)
def test_marks_that_contradict_the_labels_are_refused(undecided, message):
    with pytest.raises(ValueError, match=f"field 'undecided': .*{message}"):
        parse_rollouts(record("a", (1, 0, 0, 0)) | {"undecided": undecided})


def test_many_candidates_are_no_trouble():
    assert best_of(list(range(1500)), [1] * 1500, 600) == pytest.approx(1)
    assert canonical([str(number) for number in range(300)] + ["7.0"])[-1] == "7"


def test_records_are_broken_down_by_their_fields_and_by_difficulty():
    records = [record("a") | {"subject": "angles"}, record("b", (0, 0, 0, 0)) | {"subject": "bars"}]
    records.append(record("c") | {"subject": "angles"})
    groups = calculate(records, seed=0)["groups"]
    assert set(groups) == {"subject", "share_right"}
    angles, bars = groups["subject"]["angles"], groups["subject"]["bars"]
    assert (angles["num_problems"], angles["random"], angles["min"]) == (2, 0.25, 1)
    assert (bars["num_problems"], bars["pass"]) == (1, 0)
    assert {name: entry["num_problems"] for name, entry in groups["share_right"].items()} == {"0%": 1, "1-25%": 2}
    bins = [share_bin(share) for share in (1, 0.26, 0.9, 0.25, 0)]
    assert bins == ["100%", "26-50%", "76-99%", "1-25%", "0%"]
    assert sorted(bins, key=natural) == ["0%", "1-25%", "26-50%", "76-99%", "100%"]


def test_a_clusters_problems_are_drawn_together():
    # Two clusters of opposite values: a draw holds both, or one of them twice.
    values = np.array([1.0, 1, 1, 0, 0, 0])
    draws = cluster_draws(["x", "x", "x", "y", "y", "y"], seed=0)
    assert draws.clusters == 2 and set(draws.means(values)) == {0, 0.5, 1}
    # Clusters count by their size.
    assert set(cluster_draws(["x", "y", "y", "y"], seed=0).means(np.array([1.0, 0, 0, 0]))) == {0, 0.25, 1}
    rows = [record(str(n)) | {"problem_index": n // 2} for n in range(4)]
    assert calculate(rows, seed=0)["num_clusters"] == 2


def test_auroc_calibration_and_brier_by_hand():
    scores, labels = np.array([0.9, 0.6, 0.6, 0.1]), np.array([1.0, 1, 0, 0])
    assert auroc(scores, labels > 0) == pytest.approx(3.5 / 4)  # of four pairs three are won and one is tied
    assert auroc(scores, labels > 2) is None
    assert brier(scores, labels) == pytest.approx((0.01 + 0.16 + 0.36 + 0.01) / 4)
    # Bins of 1/15: 0.9 alone, both 0.6 together, 0.1 alone; 1.0 belongs to the last bin.
    assert calibration_error(scores, labels) == pytest.approx((0.1 + abs(1.2 - 1) + 0.1) / 4)
    assert calibration_error(np.array([1.0]), np.array([1.0])) == 0
    step_scores = calculate([record()], seed=0)["step_scores"]
    assert step_scores["num_steps"] == 6 and step_scores["auroc"] == pytest.approx((3.5 + 3) / 8)


def test_length_correlation_is_taken_within_problems():
    assert within_correlation([[1, 2], [10, 20]], [[5, 6], [1, 2]]) == 1
    assert within_correlation([[1, 2], [10, 20]], [[5, 6], [2, 1]]) == 0
    assert within_correlation([[1, 2, 3]], [[4, 4, 4]]) is None
    assert calculate([record()], seed=0)["min"]["length_correlation"] > 0  # the empty candidate is the shortest


def test_the_script_selects_on_another_split_and_refuses_bad_records(tmp_path):
    (tmp_path / "dev.json").write_text(json.dumps([record()]))
    script = "eval/prm/extract_calculate.py"
    done = run_forked(script, "--input_file", tmp_path / "dev.json")
    assert done.returncode == 0, done.stderr
    select = ["--select_on", tmp_path / "dev_score.json", "--output_file", tmp_path / "out.json"]
    done = run_forked(script, "--input_file", tmp_path / "dev.json", *select)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["selected"]["aggregation"] == "min" and result["selected"]["accuracy"] == 1.0
    assert (
        "fixed on dev_score.json (1 of these problems are in it): min" in done.stdout
        and "in it): min | 100.0" in (tmp_path / "out.md").read_text()
    )
    assert (tmp_path / "out.png").stat().st_size > 10_000
    bad = [{**record(), "prm_scores": [[1.5]] * 4}, {**record("b"), "labels": [1]}, {"id": "c"}]
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    done = run_forked(script, "--input_file", tmp_path / "bad.json")
    assert done.returncode == 2 and done.stderr.count("error: ") == 3
    assert "record 1 (id a): field 'prm_scores'" in done.stderr and "record 2 (id b): field 'labels'" in done.stderr
