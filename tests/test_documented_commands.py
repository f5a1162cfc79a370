"""The Python commands of docs/pipeline.md and docs/reproduce.md, as they stand there, one after the other.

Shell commands and torchrun need a policy server or GPUs: test_desk.py, test_evaluate_sh.py, test_launch.py run those.
"""

import json
import os
import re
import subprocess

import pytest
from conftest import ROOT, run_forked
from fake_server import ChatServer, seeded_policy
from PIL import Image
from test_benchmarks import picture, write_parquet
from test_convert_checkpoint import make_original
from test_docs import commands
from test_interchange import completion, prm800k_row, step_of
from test_step_errors import visual_row

QUESTION = {"id": "a", "question": "What is x?", "correct_answer": "75", "image_path": "images/0.png"}


def answer(request):
    """What a policy, a judge and a rewriting LLM would say."""
    if "n" in request and request["n"] > 1:
        return seeded_policy(request)
    return ["Yes" if request.get("top_logprobs") else "<step>As it is shown, it is 75.</step><answer>75</answer>"]


def spelled_out(path, url):
    """Every command of a document; a shell's loops unrolled, placeholders filled in, optional parts taken."""
    text = path.read_text()
    for name in re.findall(r"\[--\w+ [\w.]+\]", text):
        text = text.replace(name, name[1:-1])
    found = [c for c in commands(re.sub(r"```.*?```", "", text, flags=re.DOTALL)) if c.startswith("python ")]
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        hollow = 'python() { printf "python %s\\n" "$*"; }; sh() { :; }\n' + block.replace("GPUS=8 sh", "sh")
        found += subprocess.run(["bash", "-c", hollow], capture_output=True, text=True, check=True).stdout.splitlines()
    for name, value in (("URL", url), ("NAME", "m"), ("ID", "mit"), (r"http://(llm|judge):8000/v1", url)):
        found = [re.sub(rf"(?<= ){name}\b", value, command) for command in found]
    return [command.split()[1:] for command in found]


@pytest.fixture
def workplace(tmp_path, desk):
    for name in ("data_pipeline", "eval", "internvl_chat", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    pictured = ("images", "data/policy/images", "VisualProcessBench/images")
    for folder in ("outputs", "mine", "work_dirs", "pretrained", *pictured):
        (tmp_path / folder).mkdir(parents=True)
    for folder in pictured:
        Image.new("RGB", (20, 30)).save(tmp_path / folder / "0.png")
    (tmp_path / "work_dirs/mm_prm").symlink_to(desk)
    make_original(tmp_path / "InternVL2_5-8B", "qwen2")
    (tmp_path / "pretrained/InternVL2_5-8B").symlink_to(tmp_path / "InternVL2_5-8B")
    (tmp_path / "mm_prm").symlink_to("InternVL2_5-8B-native")
    rows = [{"id": n, "question": "What is x?", "answer": "75", "image": picture(1)} for n in range(16)]
    for folder in ("MM-K12", "data/MM-K12"):
        write_parquet(tmp_path / folder / "train-00000-of-00001.parquet", rows)
    solution = json.dumps({**QUESTION, "solution": "It is 75."})
    (tmp_path / "solutions.json").write_text(f"[{solution}]")
    (tmp_path / "data/policy/raw.jsonl").write_text(solution)
    rated = [completion("one", 1), completion("two", -1)]
    (tmp_path / "phase2_train.jsonl").write_text(json.dumps(prm800k_row(step_of(*rated, chosen=1))))
    rows = [visual_row(f"What is {n}?") for n in range(20)]
    (tmp_path / "VisualProcessBench/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "seed.json").write_text(json.dumps([{**QUESTION, "id": n} for n in range(16)]))
    pair = json.dumps({"reference": "79", "answer": "79 miles"})
    (tmp_path / "pairs.jsonl").write_text(pair)
    return tmp_path


@pytest.mark.slow
def test_documented_python_commands_run_as_they_stand(workplace):
    """Protects what users copy: every Python command of pipeline.md and reproduce.md that needs no model runs as it
    stands."""

    def run(*command):
        done = run_forked(*command, before=lambda: os.chdir(workplace))
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"

    yes = [{"token": "Yes", "logprob": -0.1}]
    with ChatServer(answer, top_logprobs=yes) as server:
        policy = ["--policy_endpoint", server.url, "--model", "m", "--judge", "rule"]
        trees = ["--input_file", "seed.json", "--max_search_count", "3"]
        run("data_pipeline/run_data_pipeline.py", *trees, "--output_dir", "trees", *policy)
        for folder in ("outputs", "mine"):
            (workplace / folder / "trees").symlink_to(workplace / "trees")
        run("eval/generate_rollouts.py", "--data", "seed.json", "--output_file", "rollouts.json", *policy)
        rollouts = json.loads((workplace / "rollouts.json").read_text())
        scored = [{**r, "prm_scores": [[0.5] * len(s) for s in r["solutions_splits"]]} for r in rollouts]
        (workplace / "scored.json").write_text(json.dumps(scored))
        documented = [spelled_out(ROOT / "docs" / name, server.url) for name in ("pipeline.md", "reproduce.md")]
        for command in documented[0] + documented[1]:
            run(*command)
    assert [len(some) for some in documented] == [24, 6]
    assert (workplace / "trees.html").stat().st_size > 10_000 and (workplace / "cases/cases.md").exists()
