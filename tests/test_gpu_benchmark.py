"""The command for a GPU machine, at toy size, from the bare checkout: its parts end, and their results are written."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from gpu_report import markdown


@pytest.mark.slow
def test_the_parts_run_at_toy_size(tmp_path):
    """Protects the first minutes on a GPU from a script that does not start. 6 minutes."""
    # All but those that differ from another in flags alone, and the profile
    parts = "packing rl attention train_8b score_8b desk scores converted"
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "2", "PARTS": parts}
    command = ["bash", "benchmarks/gpu.sh", "--tiny", "--output_dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=2400)
    found = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert done.returncode == 0 and {part["outcome"] for part in found.values()} == {"done"}, done.stdout
    assert list(found) == parts.split()
    for name in ("packing", "rl", "attention", "desk", "scores", "converted"):
        assert found[name]["result"]["ok"] and found[name]["result"]["rows"], name
    assert found["train_8b"]["result"]["bfloat16"][0]["labels_per_second"] > 0
    assert found["score_8b"]["result"]["bfloat16"]["largest_difference"] < 0.05


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
