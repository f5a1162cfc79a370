"""Stage 5 on a tiny model: rows, batches, the loss and what it does not depend on, the script and its output."""

import json
import math
import os
import shutil

import pytest
import torch
from conftest import ROOT, run_script
from internvl.train import internvl_chat_finetune
from internvl.train.batches import Collator
from internvl.train.dataset import read_rows
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import InternVLForConditionalGeneration

from mm_prm.cli import BadInput
from mm_prm.prm_model import Prm, load_model, load_processor, soft_label_loss, yes_no_ids

SCRIPT = "internvl_chat/internvl/train/internvl_chat_finetune.py"


def run_main(*args):
    """The script's main() in this process, for errors it raises before training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [SCRIPT, *map(str, args)])
        internvl_chat_finetune.main()


def prm_row(id_, labels, image="p.png"):
    process = "\n\n".join(f"step {n}<prm>" for n in range(len(labels)))
    turns = [{"from": "human", "value": f"Question: what?\nProcess: {process}"}, {"from": "gpt", "value": labels}]
    return {"id": id_, **({"image": image} if image else {}), "conversations": turns}


def write_dataset(folder, rows, **entry):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (112, 112), (200, 30, 30)).save(folder / "p.png")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    meta = {"toy": {"root": "", "annotation": "rows.jsonl", **entry}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return str(folder / "meta.json")


def test_soft_label_loss_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])  # p = 1/2, 3/4
    expected = math.log(2) - (0.25 * math.log(0.75) + 0.75 * math.log(0.25))
    assert soft_label_loss(logits, torch.tensor([0.3, 0.25])).item() == pytest.approx(expected)


def test_every_bad_row_is_named_before_training(tmp_path):
    rows = [
        prm_row("good", [0.5]),
        {
            **prm_row("few", [0.5, 1]),
            "conversations": [prm_row("", [1])["conversations"][0], {"from": "gpt", "value": [1, 0]}],
        },
        prm_row("high", [1.5]),
        prm_row("gone", [1], image="gone.png"),
        {"id": "empty", "conversations": []},
    ]
    meta = write_dataset(tmp_path, rows, length=4)
    with pytest.raises(BadInput) as error:
        read_rows(meta, "prm", 0)
    lines = error.value.problems
    assert len(lines) == 5 and "length is 4, but it has 5 rows" in lines[0]
    for line, words in zip(
        lines[1:], ["1 <prm> but 2 labels", "between 0 and 1", "gone.png", "one human"], strict=True
    ):
        assert words in line
    with pytest.raises(BadInput, match="record 2 .id few"):
        run_main("--model_name_or_path", tmp_path, "--meta_path", meta, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_repeat_time_repeats_whole_and_seeded_parts(tmp_path):
    meta = write_dataset(tmp_path, [prm_row(str(n), [0.5]) for n in range(8)], repeat_time=1.5)
    rows = read_rows(meta, "prm", 0)
    assert len(rows) == 12 and rows == read_rows(meta, "prm", 0) != read_rows(meta, "prm", 1)


def batches(desk, meta, sizes, max_length=8192, pack=False, objective="prm"):
    rows, collate = (
        iter(read_rows(meta, objective, 0)),
        Collator(load_processor(str(desk)), objective, max_length, pack),
    )
    return [collate([next(rows) for _ in range(size)]) for size in sizes]


def test_logits_at_markers_are_those_of_the_stock_model(desk, tmp_path):
    meta = write_dataset(tmp_path, [prm_row("a", [0.5, 1]), prm_row("b", [0], image=None), prm_row("c", [1, 0, 1])])
    model, vocabulary = load_model(str(desk), torch.float32).eval(), yes_no_ids(load_processor(str(desk)).tokenizer)
    stock = InternVLForConditionalGeneration.from_pretrained(desk).eval()
    for batch in batches(desk, meta, [1, 1, 1]):
        with torch.no_grad():
            ours = model(**inputs_of(batch), vocabulary=vocabulary)
            whole = stock(input_ids=batch["input_ids"], pixel_values=batch.get("pixel_values")).logits
        torch.testing.assert_close(ours, whole[0, batch["columns"]][:, vocabulary], atol=1e-5, rtol=1e-5)


def inputs_of(batch):
    return {name: tensor for name, tensor in batch.items() if name not in ("targets", "dropped")}


def test_what_truncation_cuts_is_dropped_with_its_labels(desk, tmp_path):
    meta = write_dataset(tmp_path, [prm_row("a", [0.5, 0.25, 0.75])])
    [whole] = batches(desk, meta, [1])
    [batch] = batches(desk, meta, [1], max_length=int(whole["columns"][2]))
    assert batch["targets"].tolist() == [0.5, 0.25] and batch["columns"].tolist() == whole["columns"].tolist()[:2]
    assert batch["dropped"] == 1 and batch["input_ids"].shape[1] == batch["columns"][1] + 1
    # Cut inside the picture's tokens: the picture goes too.
    [batch] = batches(desk, meta, [1], max_length=10)
    assert batch["targets"].tolist() == [] and batch["dropped"] == 3
    assert batch["input_ids"].shape == (1, 1) and "pixel_values" not in batch


def test_only_labelled_markers_are_trained(desk, tmp_path):
    [whole] = batches(desk, write_dataset(tmp_path, [prm_row("a", [0.5, 0.25, 0.5, 0.75])]), [1])
    at = whole["columns"].tolist()
    meta = write_dataset(tmp_path, [prm_row("a", [None, 0.25, None, 0.75]), prm_row("b", [1, None], image=None)])
    [batch, _] = batches(desk, meta, [1, 1])
    assert torch.equal(batch["input_ids"], whole["input_ids"])
    assert batch["columns"].tolist() == [at[1], at[3]] and batch["targets"].tolist() == [0.25, 0.75]
    # The loss is divided by the number of targets: those of the labelled markers.
    [both] = batches(desk, meta, [2])
    assert both["targets"].tolist() == [0.25, 0.75, 1] and both["columns"].tolist()[:2] == [at[1], at[3]]
    # Cut before the third marker: one label and two markers are gone.
    [cut, _] = batches(desk, meta, [1, 1], max_length=at[2])
    assert (cut["columns"].tolist(), cut["targets"].tolist(), int(cut["dropped"])) == ([at[1]], [0.25], 1)


def test_sft_targets_are_the_reply_and_the_end_of_the_turn(desk, tmp_path):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "<step>x</step><answer>1</answer>"}]
    meta = write_dataset(tmp_path, [{"id": "a", "image": "p.png", "conversations": turns}])
    [batch] = batches(desk, meta, [1], objective="sft")
    tokenizer = load_processor(str(desk)).tokenizer
    assert tokenizer.decode(batch["targets"]) == "<step>x</step><answer>1</answer><|im_end|>"
    ids, columns = batch["input_ids"][0], batch["columns"]
    assert torch.equal(ids[columns[1:]], batch["targets"][:-1]) and columns[-1] == len(ids) - 1
    assert tokenizer.decode(ids[: columns[0] + 1]).endswith("What?<|im_end|>\n<|im_start|>assistant\n")


def test_a_row_without_any_label_is_refused_by_name(tmp_path):
    meta = write_dataset(tmp_path, [prm_row("some", [None, 1]), prm_row("none", [None, None])])
    with pytest.raises(BadInput, match="record 2 .id none.*at least one number"):
        read_rows(meta, "prm", 0)


def test_scores_do_not_depend_on_the_other_candidates(desk, tmp_path):
    write_dataset(tmp_path, [prm_row("a", [0.5])])
    prm, image = Prm.load(str(desk), "\n\n"), [str(tmp_path / "p.png")]
    candidates = [["one", "two"], ["a much longer first step", "b", "c"], [], ["one", "two"]]
    together = prm.score("what?", image, candidates)
    assert [len(scores) for scores in together] == [2, 3, 0, 2] and together[0] == together[3]
    for steps, scores in zip(candidates, together, strict=True):
        assert prm.score("what?", image, [steps])[0] == pytest.approx(scores, abs=1e-5)
        # A score depends on the steps up to it alone.
        assert prm.score("what?", image, [steps[:1]])[0] == pytest.approx(scores[:1], abs=1e-5)


def finetune(desk, meta, out, *flags, launcher=(), **kwargs):
    return run_script(
        *[
            *launcher,
            SCRIPT,
            "--model_name_or_path",
            desk,
            "--meta_path",
            meta,
            "--output_dir",
            out,
            "--report_to",
            "none",
        ],
        *["--learning_rate", "1e-2", "--logging_steps", "1", "--lr_scheduler_type", "constant", "--warmup_ratio", "0"],
        *flags,
        **kwargs,
    )


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_training_learns_labels_and_the_split_of_a_batch_does_not_matter(desk, tmp_path):
    # Rows with different numbers of labels: a mean of means would weigh them differently.
    meta = write_dataset(tmp_path, [prm_row(str(n), [0.9] * (1 + n % 3)) for n in range(8)])
    # Plain SGD: an optimizer that rescales gradients would hide a loss that is off by a factor.
    flags = ["--optim", "sgd", "--max_grad_norm", "0", "--weight_decay", "0", "--learning_rate", "0.1"]
    flags += ["--max_steps", "6", "--save_strategy", "no", "--per_device_train_batch_size"]
    for out, size, accumulation in (("one", 8, 1), ("four", 2, 4)):
        done = finetune(desk, meta, tmp_path / out, *flags, size, "--gradient_accumulation_steps", accumulation)
        assert done.returncode == 0, done.stderr[-2000:]
    one, four = weights(tmp_path / "one"), weights(tmp_path / "four")
    moved = max((one[name] - tensor).abs().max() for name, tensor in weights(desk).items())
    apart = max((one[name] - four[name]).abs().max() for name in one)
    assert moved > 0.05 and apart < 1e-3 * moved
    assert (tmp_path / "one" / "train_results.json").exists()
    # A real DeepSpeed ZeRO-1 engine takes the same steps.
    done = finetune(
        *[desk, meta, tmp_path / "zero", *flags, 2, "--gradient_accumulation_steps", 4],
        *["--deepspeed", ROOT / "internvl_chat" / "zero_stage1_config.json"],
        launcher=["-m", "torch.distributed.run", "--nproc_per_node", "1", "--master_port", "29633"],
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )
    assert done.returncode == 0 and "DeepSpeed" in done.stdout, done.stderr[-2000:]
    zero = weights(tmp_path / "zero")
    assert max((one[name] - zero[name]).abs().max() for name in one) < 1e-3 * moved
    # The checkpoint has all that scoring and serving need, and the labels were learned.
    [[score]] = Prm.load(str(tmp_path / "one"), "\n\n").score("what?", [str(tmp_path / "p.png")], [["step 0"]])
    [[before]] = Prm.load(str(desk), "\n\n").score("what?", [str(tmp_path / "p.png")], [["step 0"]])
    assert abs(score - 0.9) < abs(before - 0.9) / 2
    assert set(weights(tmp_path / "one")) == set(weights(desk))
    assert json.loads((tmp_path / "one" / "config.json").read_text())["architectures"] == [
        "InternVLForConditionalGeneration"
    ]


@pytest.mark.slow
def test_frozen_parts_stay_lora_is_merged_and_a_stopped_run_goes_on(desk, tmp_path):
    meta = write_dataset(tmp_path, [prm_row(str(n), [0.9]) for n in range(4)])
    flags = ["--freeze_backbone", "True", "--use_llm_lora", "4", "--freeze_mlp", "True", "--drop_path_rate", "0.1"]
    first = finetune(
        desk, meta, tmp_path / "out", *flags, "--max_steps", "2", "--save_steps", "1", "--grad_checkpoint", "True"
    )
    assert first.returncode == 0, first.stderr[-2000:]
    before, after = weights(desk), weights(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("language_model" in name and "_proj" in name for name in changed)
    again = finetune(desk, meta, tmp_path / "out", *flags, "--max_steps", "4", "--save_steps", "1")
    assert again.returncode == 0 and "'epoch': '4'" in again.stdout and "'epoch': '1'" not in again.stdout
    nothing = finetune(
        desk, meta, tmp_path / "n", "--freeze_backbone", "True", "--freeze_mlp", "True", "--freeze_llm", "True"
    )
    assert nothing.returncode == 2 and "nothing to train" in nothing.stderr


def test_a_wrong_tile_size_or_checkpoint_is_refused_before_training(desk, tmp_path):
    meta = write_dataset(tmp_path / "d", [prm_row("a", [0.5])])
    flags = ["--meta_path", meta, "--output_dir", tmp_path / "o", "--report_to", "none"]
    with pytest.raises(BadInput, match="the vision tower takes 112"):
        run_main("--model_name_or_path", desk, *flags, "--force_image_size", 448)
    with pytest.raises(BadInput, match="no processor there"):
        run_main("--model_name_or_path", tmp_path, *flags)


def test_a_checkpoint_in_another_format_is_refused_not_filled_with_noise(desk, tmp_path):
    shutil.copytree(desk, tmp_path / "other")
    tensors = {f"vit.{name}": tensor for name, tensor in weights(desk).items()}
    save_file(tensors, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="weights missing or unknown"):
        load_model(str(tmp_path / "other"), torch.float32)
    (tmp_path / "other" / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(BadInput, match="not a native InternVL checkpoint"):
        load_model(str(tmp_path / "other"), torch.float32)


@pytest.mark.slow
def test_the_scoring_script_writes_one_number_per_step(desk, tmp_path):
    write_dataset(tmp_path, [prm_row("a", [0.5])])
    record = {"id": "a", "question": "what?", "image_path": "p.png", "labels": [1, 0], "answer": "6"}
    record["solutions_splits"] = [["3 + 3 = 6", "6"], []]
    (tmp_path / "r.json").write_text(json.dumps([record]))
    args = ["eval/prm/evaluate_prm.py", "--checkpoint", desk, "--input_file", tmp_path / "r.json", "--output_file"]
    done = run_script(*args, tmp_path / "blank.json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert run_script(*args, tmp_path / "bare.json", "--step_separator", "").returncode == 0
    blank, bare = (json.loads((tmp_path / f"{name}.json").read_text())[0]["prm_scores"] for name in ("blank", "bare"))
    assert [len(scores) for scores in blank] == [2, 0] and blank[0][0] == bare[0][0] and blank[0][1] != bare[0][1]
    (tmp_path / "r.json").write_text(json.dumps([{**record, "image_path": "gone.png"}]))
    done = run_script(*args, tmp_path / "o.json")
    assert done.returncode == 2 and "record 1 (id a): field 'image_path'" in done.stderr
