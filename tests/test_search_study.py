"""The tables of the study of guided search, from made-up searches."""

import json

import numpy as np
import pytest
import search_study
from search_study import BestOfN, Search, report


def record(number, right, tokens, prm):
    """A problem with candidates: those that are right score 0.9, the others 0.1."""
    scores = [[0.9 if label else 0.1] for label in right]
    accounts = {"policy_tokens": tokens, "prm_tokens": prm, "prm_tokens_anew": 4 * prm, "pictures": 1, "seconds": 1.0}
    return {
        "id": str(number),
        "question": "?",
        "answer": "1",
        "solutions_splits": [["s"]] * len(right),
        "answers": ["1" if label else "2" for label in right],
        "labels": right,
        "prm_scores": scores,
        "accounts": accounts,
    }


def write(run, name, records, seconds=10):
    path = run / "slips60" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records))
    path.with_name(f"{path.stem}_run.json").write_text(json.dumps({"accounts": {"seconds": seconds}}))


@pytest.fixture
def run(tmp_path):
    (tmp_path / "dev_0.json").write_text(json.dumps([record(0, [1, 0], 1, 1)]))
    (tmp_path / "dev_0_run.json").write_text("{}")
    for number in (4, 16, 64):  # one right in four: Best-of-4 finds it always, from one it has a quarter
        right = [1, 0, 0, 0] * (number // 4)
        write(tmp_path, f"best_of_n-{number}-0", [record(n, right, 10 * number, 100 + number) for n in range(2)])
    write(tmp_path, "best_of_n-1-0", [record(n, [1], 10, 101) for n in range(2)])
    write(tmp_path, "beam-4-0", [record(0, [1], 40, 110), record(1, [0], 40, 110)])
    write(tmp_path, "greedy-64-0", [record(0, [1], 9000, 1), record(1, [1], 9000, 1)])
    return tmp_path


def test_best_of_n_at_any_cost(run):
    groups = search_study.read_groups(run, "slips60")
    curve = BestOfN({number: groups["best_of_n", number] for number in (1, 4, 16, 64)})
    assert curve.at[1].tolist() == [[0.25, 0.25]] and curve.at[64].tolist() == [[1.0, 1.0]]
    two = 1 - (48 * 47) / (64 * 63)
    assert curve.at_cost("policy_tokens", 20) == pytest.approx(np.full((1, 2), two))
    assert curve.at_cost("policy_tokens", 15) == pytest.approx(np.full((1, 2), (0.25 + two) / 2))
    assert curve.at_cost("policy_tokens", 3) == pytest.approx(np.full((1, 2), 0.25))  # not less than one
    assert curve.at_cost("policy_tokens", 641) is None
    assert curve.costs["total"][4] == 144 and curve.costs["total"][10] == (144 + 276) / 2


def test_the_tables(run):
    lines = report(run).splitlines()
    beam = next(line for line in lines if line.startswith("| beam | 4 | 1 |")).split(" | ")
    assert beam[4:9] == ["40", "110", "440", "1.0", "5.00"] and beam[3].startswith("50.0 [")
    at_4 = 1 - (48 * 47 * 46 * 45) / (64 * 63 * 62 * 61)
    assert beam[9].startswith(f"{100 * (0.5 - at_4):+.1f} [")
    greedy = next(line for line in lines if line.startswith("| greedy"))
    assert greedy.endswith("| beyond 64 | beyond 64 |")
    majority = next(line for line in lines if line.startswith("| majority"))
    assert majority.endswith("| 0.0 [0.0, 0.0] |")
    assert (run / "search.png").stat().st_size > 10000


def test_a_search_without_candidates_is_wrong():
    lost = record(0, [0], 5, 5) | {"solutions_splits": [[]], "prm_scores": [[]], "answers": [""]}
    assert Search([lost], 1.0, "min").right.tolist() == [0.0]


def test_the_rules_of_all_prms_are_named_whoever_searched_first(run):
    (run / "dev_1.json").write_text(json.dumps([record(0, [1, 0], 1, 1)]))
    write(run, "best_of_n-4-1", [record(n, [1, 0, 0, 0], 40, 104) for n in range(2)])
    (line,) = (line for line in report(run).splitlines() if "rules fixed on dev" in line)
    assert len(line.split(":")[1].split(", ")) == 2
