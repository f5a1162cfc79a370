"""Scoring candidates: in batches, in pieces, after a kill and over several processes as one by one."""

import json
import os
import shutil
import subprocess
import sys

import evaluate_prm
import pytest
import torch
from conftest import ROOT, run_forked
from PIL import Image
from transformers import InternVLForConditionalGeneration

from mm_prm.prm import Prm
from mm_prm.prm_model import yes_no_ids
from mm_prm.prompts import SYSTEM_MESSAGE

SCRIPT = "eval/prm/evaluate_prm.py"


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    """Five problems: pictures, none, two; candidates with shared steps, none at all."""
    folder = tmp_path_factory.mktemp("rollouts")
    for index in range(2):
        Image.new("RGB", (112, 112), (90 * index, 30, 30)).save(folder / f"p{index}.png")
    images = ["p0.png", None, ["p0.png", "p1.png"], "p1.png", None]
    splits = [
        [["one", "two"], ["one", "three", "4"], []],
        [["a longer first step than the others have", "b"], ["c"]],
        [["x", "y", "z"]] * 2,
        [[], []],
        [["last"]],
    ]
    records = [
        {"id": str(n), "question": f"what {n}?", "image_path": image, "answer": "6"}
        | {"solutions_splits": steps, "labels": [[1, 0, 0], [0, 0], [1, 1], [0, 0], [0]][n]}
        for n, (image, steps) in enumerate(zip(images, splits, strict=True))
    ]
    (folder / "r.json").write_text(json.dumps(records))
    return folder / "r.json"


def one_by_one(desk, rollouts):
    """Every candidate in a row of its own."""
    prm = Prm.load(str(desk), "\n\n")
    records = [evaluate_prm.with_images(record, rollouts.parent) for record in json.loads(rollouts.read_text())]
    return [
        [prm.score(record["question"], images, [steps])[0] for steps in record["solutions_splits"]]
        for record, images in records
    ]


def flat(scores):
    return torch.tensor([score for problem in scores for candidate in problem for score in candidate])


def run(desk, rollouts, output, *flags):
    return run_forked(SCRIPT, "--checkpoint", desk, "--input_file", rollouts, "--output_file", output, *flags)


def scores_in(path):
    return [record["prm_scores"] for record in json.loads(path.read_text())]


@pytest.mark.parametrize("batch_tokens", ["16384", "120", "1"])
def test_batches_and_pieces_give_the_scores_of_one_by_one(desk, rollouts, tmp_path, monkeypatch, batch_tokens):
    # 120 tokens hold some problems, 1 token no two candidates.
    passes, forward = [], Prm.forward
    monkeypatch.setattr(Prm, "forward", lambda prm, pieces: passes.append(pieces) or forward(prm, pieces))
    args = ["--checkpoint", desk, "--input_file", rollouts, "--output_file", tmp_path / "s.json"]
    monkeypatch.setattr("sys.argv", ["", *map(str, args), "--batch_tokens", batch_tokens])
    evaluate_prm.main()
    sizes = [sum(piece.tokens for piece in pieces) for pieces in passes]
    assert {"16384": [1], "120": [2, 3, 4, 5], "1": [7]}[batch_tokens].count(len(passes)) == 1
    assert all(size <= int(batch_tokens) or len(pieces) == 1 for size, pieces in zip(sizes, passes, strict=True))
    expected = one_by_one(desk, rollouts)
    found = scores_in(tmp_path / "s.json")
    assert [[len(steps) for steps in problem] for problem in found] == [[2, 3, 0], [2, 1], [3, 3], [0, 0], [1]]
    torch.testing.assert_close(flat(found), flat(expected), atol=1e-5, rtol=0)
    assert sorted(os.listdir(tmp_path)) == ["s.json", "s_run.json"]


def test_what_was_scored_before_is_kept_and_another_run_is_refused(desk, rollouts, tmp_path, monkeypatch):
    output, partial = tmp_path / "s[1].json", tmp_path / "s[1].json.partial-0.jsonl"
    calls = []

    def stop_after_two(prm, problems):
        for number, (candidates, _) in enumerate(problems):
            calls.append(number)
            if number == 2:
                raise KeyboardInterrupt
            yield [[0.25] * len(steps) for steps in candidates]

    args = ["--checkpoint", desk, "--input_file", rollouts, "--output_file", output]
    monkeypatch.setattr("sys.argv", ["", *map(str, args)])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Prm, "score_each", stop_after_two)
        evaluate_prm.main()
    assert len(partial.read_text().splitlines()) == 3 and not output.exists()
    partial.write_text(partial.read_text() + '{"number": 2, "prm_sc')  # cut short by a kill
    released = ("--text", "released")
    for flags in (("--step_separator", ""), released, (*released, "--step_separator", r"\n\n")):
        done = run(desk, rollouts, output, *flags)
        assert done.returncode == 2 and "begun with other flags" in done.stderr
    done = run(desk, rollouts, output)
    assert done.returncode == 0 and "2 of 5 problems already scored" in done.stdout, done.stderr[-2000:]
    found = scores_in(output)
    assert found[0] == [[0.25] * 2, [0.25] * 3, []] and found[2][0][0] != 0.25 and not partial.exists()
    assert "warning" not in done.stderr


def test_the_released_text_gives_the_scores_of_its_string(desk, rollouts, tmp_path):
    """Its whole text through tokenizer and model at once, without Encoder, packing or shared prefixes."""
    output = tmp_path / "s.json"
    done = run(desk, rollouts, output, "--text", "released", "--dtype", "float32")
    assert done.returncode == 0, done.stderr[-2000:]
    kept = json.loads((tmp_path / "s_run.json").read_text())
    assert (kept["text"], kept["step_separator"]) == ("released", "")
    prm = Prm.load(str(desk))
    tokenizer, (yes, no) = prm.processor.tokenizer, yes_no_ids(prm.processor.tokenizer).tolist()
    question, steps = "what 1?", ["a longer first step than the others have", "b"]
    text = (
        f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n<|im_start|>assistant\n"
        f"Question: {question}\nProcess: {steps[0]}<prm>{steps[1]}<prm><|im_end|>\n"
    )
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        stock = InternVLForConditionalGeneration.from_pretrained(desk, dtype=torch.float32)
        logits = stock(input_ids=ids).logits[0]
    at = (ids[0] == tokenizer.convert_tokens_to_ids("<prm>")).nonzero().flatten()
    expected = logits[at][:, [yes, no]].softmax(-1)[:, 0]
    torch.testing.assert_close(torch.tensor(scores_in(output)[1][0]), expected, atol=1e-5, rtol=0)
    training = one_by_one(desk, rollouts)[1][0]
    assert abs(training[0] - expected[0]) > 1e-4 and abs(training[1] - expected[1]) > 1e-4


def test_a_policy_taken_for_a_prm_is_told(desk, rollouts, tmp_path):
    policy = shutil.copytree(desk, tmp_path / "policy")
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps(config | {"objective": "sft"}))
    done = run(policy, rollouts, tmp_path / "s.json")
    assert done.returncode == 0 and "policy was trained with --objective sft: no PRM" in done.stderr


@pytest.mark.slow
def test_ready_rollouts_are_scored_by_two_processes_as_by_one_and_counted(desk, rollouts, tmp_path):
    """Protects scores from depending on the number of GPUs, and the path from a rollouts file to its table."""
    env = {"PYTHON": sys.executable, "GPUS": "2", "OUTPUT_DIR": str(tmp_path), "SCORED": str(tmp_path / "two.json")}
    done = subprocess.run(
        ["sh", "eval/evaluate.sh", str(desk), str(rollouts)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    torch.testing.assert_close(
        flat(scores_in(tmp_path / "two.json")), flat(one_by_one(desk, rollouts)), atol=1e-5, rtol=0
    )
    result = json.loads((tmp_path / "two_score.json").read_text())
    # By hand: of 3 candidates one is right in the first problem, in the others all or none.
    assert result["random"]["accuracy"] == pytest.approx((1 / 3 + 1) / 5) and result["pass@3"]["accuracy"] == 0.4
    assert result["mean_odd"]["accuracy"] in (0.2, 0.4) and "pass@3" in done.stdout
    made = ["two.json", "two.json.made_for", "two_run.json", "two_score.json", "two_score.md", "two_score.png"]
    assert sorted(os.listdir(tmp_path)) == made


def test_a_scored_file_in_another_folder_still_finds_its_pictures(tmp_path):
    record = ({"id": "a", "image_path": ["p.png", "/q.png"]}, [str(tmp_path / "p.png"), "/q.png"])
    away = evaluate_prm.scored(record, [[0.5]], tmp_path, tmp_path / "out")
    assert away == {"id": "a", "image_path": ["../p.png", "/q.png"], "prm_scores": [[0.5]]}
    assert evaluate_prm.scored(record, [[0.5]], tmp_path, tmp_path)["image_path"] == ["p.png", "/q.png"]


def test_a_question_with_another_number_of_placeholders_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
    record = {"question": "<image> or <image>?", "image_path": "p.png"}
    with pytest.raises(ValueError, match="field 'question': 2 <image> for 1 picture$"):
        evaluate_prm.with_images(record, tmp_path)
