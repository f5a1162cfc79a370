"""Benchmarks of step errors: published rows to labelled rollouts, and every metric against hand and brute force."""

import json
import random

import numpy as np
import pytest
from conftest import run_forked
from PIL import Image
from step_benchmarks import group, read_samples, split, tables_of
from step_errors import (
    METRICS,
    best_threshold,
    calculate,
    count,
    resampled,
    solution_units,
    step_auroc,
    step_units,
    units_of,
)

from mm_prm.cli import BadInput
from mm_prm.records import parse_rollouts

CONVERT, SCORE = "eval/step_benchmarks.py", "eval/prm/step_errors.py"


def visual_row(question="What is x?", steps=("a", "b", "c"), marks=(1, 0, -1), **fields):
    row = {"image": ["images/0.png"], "question": question, "answer": "C", "policy_model": "GPT-4o"}
    response = {"steps": list(steps), "process_correctness": list(marks)}
    return {**row, "data_source": "MathVision", "response": response, **fields}


def process_row(id_="gsm8k-0", problem="1 + 1?", steps=("a", "b", "c"), label=1, **fields):
    row = {"id": id_, "generator": "Qwen2-7B-Instruct", "problem": problem, "steps": list(steps)}
    return {**row, "final_answer_correct": False, "label": label, **fields}


@pytest.fixture
def folder(tmp_path):
    for index in range(2):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (20, 30), (index, 0, 0)).save(tmp_path / "images" / f"{index}.png")
    return tmp_path


def write(path, rows):
    is_lines = path.suffix == ".jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) if is_lines else json.dumps(rows))
    return path


def records_of(data, benchmark):
    return group(read_samples(tables_of(data, benchmark), benchmark, None))


# ---------------------------------------------------------------- readers


def test_visualprocessbench_rows_of_a_problem_become_one_record(folder):
    rows = [
        visual_row(),
        visual_row("<image1> or <image2>?", ["d"], [1], image=["images/0.png", "images/1.png"], data_source="MMMU"),
        visual_row(steps=["e", "f"], marks=[1, 0], policy_model="QvQ-72B-Preview"),
        visual_row(image="images/1.png", steps=["g"], marks=[-1]),  # the same question about another picture
    ]
    write(folder / "test.jsonl", rows)
    records = records_of(folder, "visualprocessbench")
    assert [parse_rollouts(record)["id"] for record in records] == ["MathVision-1", "MMMU-2", "MathVision-4"]
    assert records[0] == {
        "id": "MathVision-1",
        "question": "What is x?",
        "image_path": str(folder / "images/0.png"),
        "answer": "C",
        "source": "MathVision",
        "solutions_splits": [["a", "b", "c"], ["e", "f"]],
        "labels": [0, 1],
        "step_labels": [[1, None, 0], [1, None]],
        "policies": ["GPT-4o", "QvQ-72B-Preview"],
        "benchmark": "visualprocessbench",
        "sample_ids": ["MathVision-1", "MathVision-3"],
    }
    assert records[1]["question"] == "[image 1] or [image 2]?"
    assert records[1]["image_path"] == [str(folder / "images/0.png"), str(folder / "images/1.png")]
    assert records[2]["image_path"] == str(folder / "images/1.png")


def test_processbench_labels_end_at_the_first_error(folder):
    write(folder / "gsm8k.json", [process_row(), process_row("gsm8k-1", label=-1, final_answer_correct=True)])
    write(folder / "math.json", [process_row("math-0", "2 + 2?", label=0), process_row("math-1", "3?", label=2)])
    with pytest.raises(BadInput, match="holds no olympiadbench.parquet"):
        records_of(folder, "processbench")
    write(folder / "olympiadbench.json", [process_row("olympiadbench-7", "4?", label=-1)])
    write(folder / "omnimath.jsonl", [process_row("omnimath-0", "5?", ["a"], 0)])
    records = records_of(folder, "processbench")
    assert [(r["id"], r["source"], r["step_labels"], r["labels"]) for r in records] == [
        ("gsm8k-0", "gsm8k", [[1, 0, None], [1, 1, 1]], [0, 1]),
        ("math-0", "math", [[0, None, None]], [0]),
        ("math-1", "math", [[1, 1, 0]], [0]),
        ("olympiadbench-7", "olympiadbench", [[1, 1, 1]], [0]),
        ("omnimath-0", "omnimath", [[0]], [0]),
    ]
    assert records_of(folder / "math.json", "processbench") == records[1:3]
    assert records[0]["sample_ids"] == ["gsm8k-0", "gsm8k-1"] and parse_rollouts(records[0])["image_path"] is None


VISUAL_FAULTS = [
    ({"question": None}, "field 'question' is missing or of the wrong type"),
    ({"data_source": None}, "field 'data_source' is missing or of the wrong type"),
    ({"response": "text"}, "field 'response' is missing or of the wrong type"),
    ({"steps": [], "marks": []}, "field 'steps': expected the texts of at least one step"),
    ({"steps": ["a", 2]}, "field 'steps': expected the texts of at least one step"),
    ({"marks": [1, 0]}, "field 'process_correctness': expected 1, 0 or -1 for each of the 3 steps"),
    ({"marks": [1, 0, [1]]}, "field 'process_correctness': expected 1, 0 or -1 for each of the 3 steps"),
    ({"image": []}, "field 'image' is missing or empty"),
    ({"image": 3}, "field 'image': must be a path, a list of paths, or null"),
    ({"image": "images/9.png"}, "field 'image': {}/images/9.png does not exist"),
]


def test_every_bad_row_is_named_and_nothing_is_written(folder):
    path = write(folder / "test.jsonl", [visual_row(), *(visual_row(**fault) for fault, _ in VISUAL_FAULTS), 7])
    flags = ["--benchmark", "visualprocessbench", "--data", path, "--output_file", folder / "out.json"]
    done = run_forked(CONVERT, *flags)
    says = [*(text.format(folder) for _, text in VISUAL_FAULTS), "expected an object, found int"]
    lines = [f"error: {path}: record {number}: {text}" for number, text in enumerate(says, 2)]
    assert done.returncode == 2 and done.stderr.splitlines() == lines and not (folder / "out.json").exists()


def test_bad_processbench_rows(folder):
    faults = [process_row(), process_row(), process_row("b", label=3), process_row("c", label=-2)]
    faults += [process_row(label="1"), process_row("d", final_answer_correct=1)]
    path = write(folder / "gsm8k.json", faults)
    with pytest.raises(BadInput) as caught:
        records_of(path, "processbench")
    assert caught.value.problems == (
        f"{path}: record 2 (id gsm8k-0): field 'id': an earlier row has the same id",
        f"{path}: record 3 (id b): field 'label': 3, but there are 3 steps",
        f"{path}: record 4 (id c): field 'label': -2, but there are 3 steps",
        f"{path}: record 5 (id gsm8k-0): field 'label' is missing or of the wrong type",
        f"{path}: record 6 (id d): field 'final_answer_correct' is missing or of the wrong type",
    )


def test_the_split_is_by_problem_and_independent_of_the_rest_of_the_file():
    records = [{"id": f"math-{number}"} for number in range(1000)]
    parts = split(records, 0.2, seed=0)
    dev = {record["id"] for record in parts["dev"]}
    assert len(dev) + len(parts["test"]) == 1000 and 160 < len(dev) < 240
    assert not dev & {record["id"] for record in parts["test"]}
    assert split(records[:500][::-1], 0.2, seed=0)["dev"] == [r for r in records[:500][::-1] if r["id"] in dev]
    assert split(records, 0.2, seed=1)["dev"] != parts["dev"]
    for fraction in (0, 1):
        with pytest.raises(BadInput, match="one part would get none"):
            split(records, fraction, seed=0)


# ---------------------------------------------------------------- metrics


def scored(scores, labels, benchmark="visualprocessbench", source="s", id_="a"):
    record = {"id": id_, "question": "q", "benchmark": benchmark, "source": source, "prm_scores": scores}
    splits = [["x"] * len(steps) for steps in scores]
    return {**record, "step_labels": labels, "labels": [0] * len(labels), "solutions_splits": splits}


def test_macro_f1_by_hand():
    """At 0.5: of three correct steps two are called correct, of two wrong ones one; the neutral ones do not count."""
    record = scored([[0.9, 0.5, 0.0, 0.4], [0.7, 0.2, 1.0], []], [[1, 1, None, 1], [0, 0, None], []])
    result = calculate([record], 0.5, seed=0)
    row = {"num_correct": 3, "num_wrong": 2, "correct": 4 / 6, "wrong": 2 / 4, "f1": 7 / 12, "auroc": 4 / 6}
    assert result["sources"] == {"s": pytest.approx(row)}
    assert (result["overall"], result["auroc"]) == pytest.approx((7 / 12, 4 / 6))
    assert result["ci95"] == pytest.approx([7 / 12] * 2)  # one problem: drawn again, it is the same
    assert (result["num_problems"], result["num_solutions"], result["problems"]) == (1, 3, ["a"])
    above = calculate([record], 0.500001, seed=0)["sources"]["s"]
    assert (above["correct"], above["wrong"]) == pytest.approx((2 * 1 / (2 * 1 + 3), 2 * 1 / (2 * 1 + 3)))


def test_the_overall_number_pools_the_steps_and_the_mean_weights_the_sources_by_them():
    one = scored([[0.9, 0.1]], [[1, 0]], source="one")
    two = scored([[0.9, 0.1, 0.1, 0.1]], [[0, 1, 1, 1]], source="two", id_="b")
    result = calculate([one, two], 0.5, seed=0)
    assert [source["f1"] for source in result["sources"].values()] == [1, 0]
    assert result["source_mean"] == pytest.approx(2 / 6)
    # pooled: 1 true and 1 false "correct", 3 missed; 1 true and 3 false "wrong", 1 missed
    assert result["overall"] == pytest.approx((2 / (2 + 1 + 3) + 2 / (2 + 3 + 1)) / 2)


@pytest.mark.parametrize(
    ("scores", "labels", "right"),
    [
        ([0.9, 0.4, 0.1], [1, 0, None], True),
        ([0.9, 0.5, 0.1], [1, 0, None], False),  # a score at the threshold is called correct
        ([0.4, 0.4, 0.1], [1, 0, None], False),  # an error is seen too early
        ([0.5, 0.4, 0.9], [1, 0, None], True),
        ([0.1, 0.9], [0, None], True),
        ([0.5, 0.1], [0, None], False),
        ([0.5, 0.7], [1, 1], True),
        ([0.9, 0.4], [1, 1], False),
    ],
)
def test_first_error_by_hand(scores, labels, right):
    counts = count(np.array(solution_units(scores, labels)), [0.5])
    assert counts.tolist() == [[0, 0, right, 1] if 0 in labels else [right, 1, 0, 0]]


def test_first_error_f1_by_hand():
    """Subset one: 1 of 2 erroneous and 2 of 2 correct solutions, F1 2/3; subset two: 1 of 1 and 1 of 4, F1 2/5."""
    one = scored(
        [[0.9, 0.1], [0.9, 0.9], [0.9], [0.9, 0.9], []], [[1, 0], [1, 0], [1], [1, 1], []], "processbench", "one"
    )
    two = scored([[0.1, 0.1], [0.9], [0.1], [0.1], [0.2]], [[0, None], [1], [1], [1], [1]], "processbench", "two", "b")
    result = calculate([one, two], 0.5, seed=0)
    rows = {name: tuple(source.values())[:5] for name, source in result["sources"].items()}
    assert rows == {"one": pytest.approx((2, 2, 1, 1 / 2, 2 / 3)), "two": pytest.approx((4, 1, 1 / 4, 1, 2 / 5))}
    assert result["overall"] == pytest.approx((2 / 3 + 2 / 5) / 2)
    assert result["source_mean"] == pytest.approx((4 * 2 / 3 + 5 * 2 / 5) / 9)
    unlabelled = scored([[0.5], [0.5]], [[None], [None]], "processbench", "three", "c")
    assert calculate([one, two, unlabelled], 0.5, seed=0)["overall"] == result["overall"]


def f1(pairs):
    hits = sum(truth and said for truth, said in pairs)
    return 2 * hits / max(sum(truth for truth, _ in pairs) + sum(said for _, said in pairs), 1)


def brute_steps(records, threshold):
    steps = [pair for r in records for pair in zip(r["prm_scores"], r["step_labels"], strict=True)]
    said = [(y == 1, p >= threshold) for ps, ys in steps for p, y in zip(ps, ys, strict=True) if y is not None]
    return (f1(said) + f1([(not truth, not call) for truth, call in said])) / 2


def brute_solutions(records, threshold):
    values = []
    for source in sorted({record["source"] for record in records}):
        hits = {True: [], False: []}
        for record in (record for record in records if record["source"] == source):
            for scores, labels in zip(record["prm_scores"], record["step_labels"], strict=True):
                truth = next((i for i, label in enumerate(labels) if label == 0), None)
                said = next((i for i, score in enumerate(scores) if score < threshold), None)
                hits[truth is None].append(truth == said)
        a, b = (sum(found) / max(len(found), 1) for found in hits.values())
        values.append(2 * a * b / (a + b) if a + b else 0)
    return sum(values) / len(values)


BRUTE = {"visualprocessbench": brute_steps, "processbench": brute_solutions}


@pytest.mark.parametrize("benchmark", BRUTE)
@pytest.mark.parametrize("seed", range(4))
def test_metrics_and_the_best_threshold_equal_brute_force(benchmark, seed):
    brute = BRUTE[benchmark]
    rng = random.Random(seed)
    records = []
    for number in range(12):
        solutions = []
        for _ in range(rng.randint(1, 3)):
            size = rng.randint(1, 5)
            labels = [rng.choice([1, 1, 0, None]) for _ in range(size)]
            if benchmark == "processbench":
                error = rng.randint(0, size)
                labels = ([1] * error + [0] + [None] * size)[:size]
            solutions.append(([rng.choice([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]) for _ in range(size)], labels))
        records.append(scored(*map(list, zip(*solutions, strict=True)), benchmark, rng.choice("xyz"), str(number)))
    thresholds = [0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0, np.nextafter(1.0, 2)]
    expected = [brute(records, threshold) for threshold in thresholds]
    for threshold, value in zip(thresholds, expected, strict=True):
        result = calculate(records, threshold, seed=0)
        assert result["overall"] == pytest.approx(value)
    best = result["best"]
    assert best["overall"] == pytest.approx(max(expected))
    assert brute(records, best["threshold"]) == pytest.approx(max(expected))
    lowest = min(t for t in thresholds if brute(records, t) > max(expected) - 1e-9)
    assert lowest <= best["threshold"] <= lowest + 0.1  # thresholds between two scores do the same


def test_of_equally_good_thresholds_the_lowest_and_above_all_scores_when_every_step_is_wrong():
    units = [np.array(step_units([0.3, 0.3, 0.6, 0.9], [0, 0, 1, 1]))]
    assert best_threshold(units, METRICS["visualprocessbench"]) == {"threshold": 0.6, "overall": 1}
    equal = [np.array(solution_units([0.2], [1]) + solution_units([0.6], [0]))]
    assert best_threshold(equal, METRICS["processbench"]) == {"threshold": 0.2, "overall": 0}
    units = [np.array(step_units([0.3, 1.0], [0, 0]))]
    assert best_threshold(units, METRICS["visualprocessbench"]) == {"threshold": np.nextafter(1.0, 2), "overall": 0.5}


def test_auroc_equals_comparing_all_pairs():
    rng = random.Random(0)
    scores, labels = [rng.randint(0, 5) / 5 for _ in range(60)], [rng.choice([0, 1, None]) for _ in range(60)]
    correct, wrong = ([p for p, y in zip(scores, labels, strict=True) if y == label] for label in (1, 0))
    pairs = [(p, n) for p in correct for n in wrong]
    expected = sum(1 if p > n else 0.5 if p == n else 0 for p, n in pairs) / len(pairs)
    assert step_auroc(units_of(scored([scores], [labels]), step_units)) == pytest.approx(expected)
    assert step_auroc(np.array(step_units([0.1, 0.2], [1, None]))) is None


def test_the_bootstrap_draws_whole_problems():
    first, second = np.array(step_units([0.9, 0.1], [1, 0])), np.array(step_units([0.9, 0.9, 0.9], [0, 0, 1]))
    counts = resampled([first, second], 0.5, np.random.default_rng(0))
    drawn, times = np.unique(counts, axis=0, return_counts=True)
    assert drawn.tolist() == [[2, 2, 0, 4], [2, 2, 1, 3], [2, 2, 2, 2]]
    assert np.abs(times / len(counts) - [1 / 4, 1 / 2, 1 / 4]).max() < 0.05


# ---------------------------------------------------------------- the whole way


def test_from_published_rows_to_a_test_score_at_the_threshold_of_the_dev_split(folder):
    rows = [visual_row(f"Question {number}?", ["a", "b"], [1, -1]) for number in range(20)]
    data = write(folder / "test.jsonl", rows)
    flags = ["--benchmark", "visualprocessbench", "--data", data, "--output_file", folder / "vpb.json"]
    done = run_forked(CONVERT, *flags, "--dev_fraction", "0.3")
    assert done.returncode == 0, done.stderr
    sizes = {}
    for name in ("dev", "test"):
        records = json.loads((folder / f"vpb_{name}.json").read_text())
        sizes[name] = len(records)
        for record in records:  # wrong steps score 0.7, on the test split one problem's even 0.9
            record["prm_scores"] = [[0.8, 0.7]]
        records[-1]["prm_scores"] = [[0.8, 0.7 if name == "dev" else 0.9]]
        write(folder / f"{name}.json", records)
    n = sizes["dev"]
    assert f"vpb_dev.json: {n} problems, {n} solutions; steps: {n} correct, {n} wrong, 0 not" in done.stdout

    def score(name, *flags):
        done = run_forked(SCORE, "--input_file", folder / f"{name}.json", *flags)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / f"{name}_steps.json").read_text()), done.stdout

    dev, text = score("dev")
    assert (dev["threshold"], dev["threshold_from"]) == (0.5, "the default") and "threshold 0.5: the default" in text
    assert dev["overall"] == pytest.approx(1 / 3) and dev["best"] == {"threshold": 0.8, "overall": 1}
    result, text = score("test", "--select_on", folder / "dev_steps.json")
    assert (result["threshold"], result["threshold_from"]) == (0.8, "dev_steps.json")
    n = sizes["test"]  # n correct steps found; of the n wrong ones all but one
    expected = (2 * n / (2 * n + 1) + 2 * (n - 1) / (2 * (n - 1) + 1)) / 2
    assert result["overall"] == pytest.approx(expected) and f"overall{100 * expected:73.1f}" in text
    assert result["ci95"][0] < expected <= result["ci95"][1]
    assert score("test", "--threshold", "0.9")[0]["threshold_from"] == "--threshold"
    result, _ = score("dev", "--select_on", folder / "dev_steps.json")
    shared = f"dev_steps.json, which holds {sizes['dev']} of these {sizes['dev']} problems"
    assert result["threshold_from"] == shared


def test_what_cannot_be_scored_is_named(folder):
    good = scored([[0.5, 0.5]], [[1, 0]])
    faults = [
        ({"benchmark": "other"}, "field 'benchmark': expected one of visualprocessbench, processbench"),
        ({"source": None}, "field 'source' is missing or not text"),
        ({"step_labels": [[1]]}, "field 'step_labels': expected one label per step of every solution"),
        ({"step_labels": [[1, -1]]}, "field 'step_labels': must be 1, 0 or null"),
        ({"prm_scores": None}, "field 'prm_scores' is missing: run evaluate_prm.py first"),
    ]
    path = write(folder / "bad.json", [good | fault for fault, _ in faults])
    done = run_forked(SCORE, "--input_file", path)
    lines = [f"error: {path}: record {number} (id a): {text}" for number, (_, text) in enumerate(faults, 1)]
    assert done.returncode == 2 and done.stderr.splitlines() == lines

    def refused(records, *flags):
        done = run_forked(SCORE, "--input_file", write(folder / "one.json", records), *flags)
        assert done.returncode == 2 and not (folder / "one_steps.json").exists()
        return done.stderr

    assert "holds records of several benchmarks" in refused([good, good | {"benchmark": "processbench"}])
    assert "no step has a label" in refused([good | {"step_labels": [[None, None]]}])
    other = write(folder / "other.json", {"benchmark": "processbench", "best": {"threshold": 0.1}, "problems": []})
    assert "of processbench, but the records are of visualprocessbench" in refused([good], "--select_on", other)
    assert "not a score file of this script" in refused([good], "--select_on", write(folder / "x.json", {}))
