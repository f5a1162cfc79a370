"""evaluate.sh: what it runs, what it skips, and what it refuses to take for something else."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

# Stands in for Python: notes the script and its flags, and makes the file that the flags name.
WORKER = """#!/bin/sh
case $1 in *benchmarks.py) exec {python} "$@" ;; -m) shift 5 ;; esac
printf '%s %s\n' "$(basename "$1")" "$*" >>"$CALLS"
while [ $# -gt 0 ]; do
  [ "$1" = --output_file ] && echo '[{{"solutions_splits": []}}]' >"$2"
  shift
done
"""


@pytest.fixture
def evaluate(tmp_path):
    worker = tmp_path / "python"
    worker.write_text(WORKER.format(python=sys.executable))
    worker.chmod(0o755)
    for name in ("prm", "other/prm"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "test.json").write_text("[]")
    calls = tmp_path / "calls"

    def run(*args, **env):
        calls.write_text("")
        own = {"PYTHON": str(worker), "CALLS": str(calls), "POLICY_ENDPOINT": "http://h/v1", **env}
        command = ["sh", str(ROOT / "eval/evaluate.sh"), *map(str, args)]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True, timeout=30
        )
        return done, [line.split()[0] for line in calls.read_text().splitlines()], calls.read_text()

    return run


ALL = ["generate_rollouts.py", "evaluate_prm.py", "extract_calculate.py"]


def test_what_is_done_is_skipped_by_relative_and_absolute_paths_alike(evaluate, tmp_path):
    done, calls, text = evaluate("prm", "test.json", "--judge", "rule")
    assert done.returncode == 0 and calls == ALL, done.stderr
    assert "--data test.json --judge rule" in text.replace(
        " --output_file outputs/eval/test/rollouts.json", ""
    ).replace(" --model policy", "")
    done, calls, _ = evaluate("prm", "test.json", "--judge", "rule")
    assert calls == ALL[2:] and "reusing the scores in outputs/eval/test/prm_scored.json" in done.stdout
    _, calls, _ = evaluate(tmp_path / "prm", "test.json", "--judge", "rule")
    assert calls == ALL[2:]
    # Another checkpoint of the same name, another separator, another text
    _, calls, _ = evaluate("other/prm", "test.json", "--judge", "rule")
    assert calls == ALL[1:]
    _, calls, text = evaluate("other/prm", "test.json", "--judge", "rule", STEP_SEPARATOR="")
    assert calls == ALL[1:] and text.splitlines()[0].endswith("--text training --step_separator ")
    _, calls, text = evaluate("other/prm", "test.json", "--judge", "rule", TEXT="released")
    assert calls == ALL[1:] and text.splitlines()[0].endswith("--text released")
    assert evaluate("other/prm", "test.json", "--judge", "rule", TEXT="released")[1] == ALL[2:]


def test_candidates_of_another_policy_are_not_taken_for_this_ones(evaluate, tmp_path):
    evaluate("prm", "test.json")
    done, calls, _ = evaluate("prm", tmp_path / "test.json", POLICY_ENDPOINT="http://elsewhere/v1")
    assert done.returncode == 0 and calls == ALL[2:]
    done, calls, _ = evaluate("prm", "test.json", POLICY_NAME="other")
    assert done.returncode == 2 and calls == [] and "drawn by another policy" in done.stderr
    done, calls, _ = evaluate("prm", "test.json", POLICY_ENDPOINT="")  # nothing to draw: what is there will do
    assert done.returncode == 0 and calls == ALL[2:]
    # Nor are those of a run that was stopped.
    rollouts = tmp_path / "outputs" / "eval" / "test" / "rollouts.json"
    rollouts.unlink()
    rollouts.with_name("rollouts.json.partial.jsonl").write_text('{"run": {}}\n{"key": "a"}\n')
    done, calls, _ = evaluate("prm", "test.json", POLICY_NAME="other")
    assert done.returncode == 2 and calls == [] and "partial.jsonl was drawn by another policy" in done.stderr
    # One that was stopped before its first candidate holds up nothing.
    rollouts.with_name("rollouts.json.partial.jsonl").write_text('{"run": {}}\n')
    done, calls, _ = evaluate("prm", "test.json", POLICY_NAME="other")
    assert done.returncode == 0 and calls[0] == ALL[0]


def test_flags_that_would_change_nothing_are_refused(evaluate):
    evaluate("prm", "test.json")
    done, calls, _ = evaluate("prm", "test.json", "--num_rollouts", "4", POLICY_ENDPOINT="")
    assert done.returncode == 2 and calls == [] and "--num_rollouts 4 would change nothing" in done.stderr


def test_candidates_of_another_dataset_of_the_same_name_are_not_taken_for_this_ones(evaluate, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.json").write_text("[]")
    evaluate("prm", "a/test.json")
    done, calls, _ = evaluate("prm", "b/test.json", POLICY_ENDPOINT="")
    assert done.returncode == 2 and calls == [] and "was drawn for another dataset" in done.stderr
    # Without a note nobody knows with which flags they were drawn.
    (tmp_path / "outputs/eval/test/rollouts.json.made_for").unlink()
    done, calls, _ = evaluate("prm", "b/test.json", "--num_rollouts", "4")
    assert done.returncode == 2 and calls == [] and "--num_rollouts 4 would change nothing" in done.stderr


def test_nothing_is_deleted(evaluate, tmp_path):
    mine = tmp_path / "deep" / "mine.json"
    _, calls, _ = evaluate("prm", "test.json", ROLLOUTS=str(mine))
    assert calls == ALL
    os.utime(tmp_path / "test.json", (2e9, 2e9))  # a newer dataset
    done, calls, _ = evaluate("prm", "test.json", ROLLOUTS=str(mine))
    assert done.returncode == 2 and calls == [] and "test.json is newer than its candidates" in done.stderr
    (tmp_path / "prm_scored.json").write_text('[{"solutions_splits": []}]')
    done, calls, _ = evaluate("prm", "prm_scored.json", OUTPUT_DIR=str(tmp_path))
    assert done.returncode == 2 and calls == [] and "is the file of the candidates" in done.stderr
    assert mine.exists() and (tmp_path / "prm_scored.json").exists()


def test_scores_are_reused_for_the_same_candidates_pictures_and_weights_alone(evaluate, tmp_path):
    ready = tmp_path / "ready.json"
    ready.write_text('[{"solutions_splits": [["a"]]}]')
    (tmp_path / "best").symlink_to("prm")
    assert evaluate("best", "ready.json")[1] == ALL[1:]
    assert evaluate("best", "ready.json")[1] == ALL[2:]
    assert evaluate("best", "ready.json", IMAGE_ROOT="/pictures")[1] == ALL[1:]
    (tmp_path / "best").unlink()
    (tmp_path / "best").symlink_to("other/prm")
    assert evaluate("best", "ready.json", IMAGE_ROOT="/pictures")[1] == ALL[1:]
    ready.write_text('[{"solutions_splits": [["b"]]}]')
    os.utime(ready, (1e9, 1e9))  # other content, though older
    assert evaluate("best", "ready.json", IMAGE_ROOT="/pictures")[1] == ALL[1:]


def test_ready_rollouts_need_no_policy_and_gpus_share_the_scoring(evaluate, tmp_path):
    (tmp_path / "ready.json").write_text('[{"solutions_splits": [["a"]]}]')
    done, calls, text = evaluate("prm", "ready.json", POLICY_ENDPOINT="", GPUS="2", IMAGE_ROOT="/pictures")
    assert done.returncode == 0 and calls == ALL[1:], done.stderr
    assert "--input_file ready.json --output_file outputs/eval/ready/prm_scored.json" in text
    assert "--image_root /pictures" in text
    done, calls, _ = evaluate("prm", "ready.json", "--num_rollouts", "64")
    assert done.returncode == 2 and calls == [] and "--num_rollouts 64 would change nothing" in done.stderr
    _, calls, _ = evaluate("prm", tmp_path / "ready.json", POLICY_ENDPOINT="", IMAGE_ROOT="/pictures")
    assert calls == ALL[2:]


def test_a_benchmark_is_called_by_name(evaluate, tmp_path):
    _, calls, text = evaluate("prm", "k12_prm", "--download")
    assert calls == ALL and "--benchmark k12_prm" in text and "--data" not in text and "--download" in text
    (tmp_path / "data" / "mathvista_prm").mkdir(parents=True)
    _, _, text = evaluate("prm", "mathvista_prm")
    assert "--benchmark mathvista_prm" in text and "--data data/mathvista_prm" in text
    done, calls, _ = evaluate("prm", "mathverse_prm")
    assert done.returncode == 2 and calls == [] and "DATA=data/mathverse_prm: not there" in done.stderr
    for name in ("seed", "k12.prm"):
        assert "no benchmark's name" in evaluate("prm", name)[0].stderr
    done, _, _ = evaluate("prm", "nothing.json")
    assert done.returncode == 2 and done.stderr == "error: nothing.json: no such file, and no benchmark's name\n"
    done, _, _ = evaluate("gone", "test.json")
    assert done.returncode == 2 and "no checkpoint there" in done.stderr
