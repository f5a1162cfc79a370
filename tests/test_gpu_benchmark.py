"""The command for a GPU machine, at toy size, from the bare checkout: its parts end, and their results are written."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, run_forked
from gpu_report import markdown


@pytest.mark.slow
def test_the_shell_runs_its_parts_at_toy_size(tmp_path):
    """Protects the first minutes on a GPU from a script that does not start or misses the files of the part before."""
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "2", "PARTS": "desk"}
    command = ["bash", "benchmarks/gpu.sh", "--tiny", "--output_dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=2400)
    found = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert done.returncode == 0 and found["desk"]["outcome"] == "done", done.stdout
    assert found["desk"]["result"]["ok"] and found["desk"]["result"]["rows"]
    assert check("scores", tmp_path)["ok"]


def check(part, folder):
    done = run_forked("benchmarks/gpu_checks.py", part, "--output_dir", folder, "--tiny")
    assert done.returncode == 0, done.stderr
    return json.loads((folder / f"{part}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["attention", "packing", "rl"])
def test_a_check_at_toy_size(tmp_path, part):
    """Protects a GPU's minutes from a check that fails of itself."""
    assert check(part, tmp_path)["rows"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["train_prm --rounds 1 --attention segments", "score_candidates --rounds 1", "guided_search prm"]
)
def test_a_benchmark_at_toy_size(tmp_path, command):
    """Protects a GPU's minutes from a benchmark that does not run, in the GPU's number type."""
    script, *flags = command.split()
    more = ["--shape", "tiny", "--dtype", "bfloat16", "--output_file", tmp_path / "out.json"]
    done = run_forked(f"benchmarks/{script}.py", *flags, *more)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())["bfloat16"]
    assert result[0]["labels_per_second"] > 0 if script == "train_prm" else result["largest_difference"] < 0.05


def test_the_report_shows_every_kind_of_result():
    rows = [{"row": "released", "ratio": 1.0}, {"row": "packed", "ratio": 5.08123, "mfu": 0.5}]
    part = {"seconds": 3, "planned": 4, "outcome": "done"}
    results = {
        "machine": "no GPU",
        "parts": {
            "train": {**part, "result": {"bfloat16": rows}},
            "score": {**part, "result": {"float32": {"rows": {"ours": {"ratio": 2.0}}, "largest_difference": 1e-7}}},
            "scores": {**part, "outcome": "failed: no GPU", "result": None},
        },
    }
    text = markdown(results)
    assert "| packed | 5.081 | 0.5 |" in text and "| released | 1 |  |" in text and "| ours | 2 |" in text
    assert "largest_difference: 1e-07" in text and "| scores | 3 | 4 | failed: no GPU |" in text
