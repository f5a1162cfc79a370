"""Stage 5 on a tiny model: rows, batches, the loss and what it does not depend on, the script and its output."""

import json
import math
import os
import re
import shutil
from functools import partial

import make_model
import pytest
import torch
from conftest import ROOT, Forked, deepspeed_on_cpu, run_forked
from internvl.train import internvl_chat_finetune
from internvl.train.batches import Collator
from internvl.train.dataset import read_rows
from internvl.train.dry_run import zero_memory
from internvl.train.trainer import flops_of_micro_batch, label_metrics, parameter_count
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import InternVLForConditionalGeneration

from mm_prm.cli import BadInput
from mm_prm.prm import Prm
from mm_prm.prm_format import Encoder
from mm_prm.prm_model import image_tiles, image_token_counts, load_model, load_processor, soft_label_loss, yes_no_ids

SCRIPT = "internvl_chat/internvl/train/internvl_chat_finetune.py"


def run_main(*args):
    """The script's main() in this process, for errors it raises before training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [SCRIPT, *map(str, args)])
        internvl_chat_finetune.main()


def prm_row(id_, labels, image="p.png", question="what?"):
    process = "\n\n".join(f"step {n}<prm>" for n in range(len(labels)))
    turns = [{"from": "human", "value": f"Question: {question}\nProcess: {process}"}, {"from": "gpt", "value": labels}]
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


def test_a_row_without_pictures_finishes_the_same_gradients_in_the_same_order(desk, tmp_path, monkeypatch):
    meta = write_dataset(tmp_path, [prm_row("a", [0.5]), prm_row("b", [0.5], image=None)])
    model, vocabulary = load_model(str(desk), torch.float32), yes_no_ids(load_processor(str(desk)).tokenizer)
    finished = []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: finished.append(name))

    def order(batch):
        finished.clear()
        model(**inputs_of(batch), vocabulary=vocabulary).sum().backward()
        return list(finished)

    picture, text = batches(desk, meta, [1, 1])
    alone = order(text)
    assert not any("vision_tower" in name for name in alone)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert order(picture) == order(text) and set(finished) > set(alone)
    blank = model(**inputs_of(text), vocabulary=vocabulary)
    monkeypatch.undo()
    assert torch.equal(blank, model(**inputs_of(text), vocabulary=vocabulary))


def inputs_of(batch):
    return {name: tensor for name, tensor in batch.items() if name not in ("targets", "counts", "dropped")}


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


@pytest.mark.parametrize(
    ("objective", "text", "fields", "message"),
    [
        ("sft", "<image>\n<image>\nWhat?", {"image": "p.png"}, "2 <image> for 1 picture$"),
        ("sft", "<image>\nWhat?", {"image": ["p.png", "p.png"]}, "1 <image> for 2 pictures"),
        ("sft", "<image>\nWhat?", {}, "1 <image> for 0 pictures"),
        ("sft", "<image>\nWhat?", {"images": ["p.png"]}, "field 'images': pictures are read from 'image'"),
        ("sft", "What?", {"image_path": "p.png"}, "field 'image_path': pictures are read from 'image'"),
        ("prm", "Question: <image> <image>?\nProcess: s<prm>", {"image": "p.png"}, "2 <image> for 1 picture$"),
        ("prm", "Question: <image>?\nProcess: s<prm>", {}, "1 <image> for 0 pictures"),
    ],
)
def test_a_row_that_does_not_hold_its_pictures_is_refused(tmp_path, objective, text, fields, message):
    target = [1] if objective == "prm" else "<answer>1</answer>"
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": target}]
    meta = write_dataset(tmp_path, [{"id": "a", **fields, "conversations": turns}])
    with pytest.raises(BadInput, match=message) as error:
        read_rows(meta, objective, 0)
    assert "record 1 (id a): field" in str(error.value)


def test_rows_that_place_their_pictures_elsewhere_share_no_picture(desk, tmp_path):
    """Packed or not, every row's logits are its own."""
    questions = ["x?", "x?", "in <image> x?", "in <image> x, y?"]
    rows = [prm_row(str(number), [1, number / 4], question=text) for number, text in enumerate(questions)]
    meta = write_dataset(tmp_path, rows)
    Image.effect_noise((112, 112), 90).save(tmp_path / "p.png")
    model = load_model(str(desk), torch.float32)

    def logits(batch):
        return model(**{name: tensor for name, tensor in batch.items() if name not in ("targets", "counts", "dropped")})

    (packed,) = batches(desk, meta, [4], pack=True)
    assert len(packed["pixel_values"]) == 2  # in front, in the middle
    alone = torch.cat([logits(batch) for batch in batches(desk, meta, [1] * 4)])
    torch.testing.assert_close(logits(packed), alone, atol=1e-5, rtol=1e-4)


def test_scoring_places_pictures_as_training_does(desk, tmp_path):
    meta = write_dataset(tmp_path, [prm_row("a", [1, 0], question="in <image> x?")])
    Image.effect_noise((112, 112), 90).save(tmp_path / "p.png")
    model = Prm.load(str(desk), "\n\n")
    (batch,) = batches(desk, meta, [1])
    inputs = {name: tensor for name, tensor in batch.items() if name not in ("targets", "counts", "dropped")}
    trained = model.model(**inputs, vocabulary=yes_no_ids(model.processor.tokenizer)).softmax(-1)[:, 0]
    (scores,) = model.score("in <image> x?", [str(tmp_path / "p.png")], [["step 0", "step 1"]])
    assert scores == pytest.approx(trained.tolist(), abs=1e-6)
    (in_front,) = model.score("in x?", [str(tmp_path / "p.png")], [["step 0", "step 1"]])
    assert scores != pytest.approx(in_front, abs=1e-6)


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


def finetune(desk, meta, out, *flags, processes=None):
    """Run the script in a fork, or in several as torchrun would start them; returns the first."""
    files = ["--model_name_or_path", desk, "--meta_path", meta, "--output_dir", out, "--report_to", "none"]
    files += ["--bf16", "False"]  # weights are compared: this CPU's own type may be bfloat16
    rates = [
        "--learning_rate",
        "1e-2",
        "--logging_steps",
        "1",
        "--lr_scheduler_type",
        "constant",
        "--warmup_ratio",
        "0",
    ]
    forks = [
        Forked(SCRIPT, *files, *rates, *flags, before=partial(join_group, rank, processes))
        for rank in range(processes or 1)
    ]
    first, *others = [fork.wait() for fork in forks]
    assert all(other.returncode == first.returncode for other in others)
    return first


def join_group(rank, processes):
    deepspeed_on_cpu()
    if processes:
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ.update({name: str(value) for name, value in group.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29633")


def weights(folder):
    return load_file(folder / "model.safetensors")


def losses(done):
    return re.findall(r"'loss': '([^']+)'", done.stdout)


@pytest.mark.slow
def test_training_learns_labels_however_it_is_split_over_steps_processes_and_engines(desk, tmp_path):
    """Protects the loss from depending on GPUs, accumulation and DeepSpeed."""
    # Problems with different numbers of paths and labels, one without a picture: a mean of means would weigh them
    # differently, and a process without pictures must still take part in what concerns the vision tower.
    rows = [prm_row(str(n), [0.9] * (1 + n % 3), "p.png" if n % 4 else None, f"what {n // 2}?") for n in range(8)]
    meta = write_dataset(tmp_path, rows)
    # Plain SGD: an optimizer that rescales gradients would hide a loss that is off by a factor.
    flags = ["--optim", "sgd", "--max_grad_norm", "0", "--weight_decay", "0", "--learning_rate", "0.1"]
    flags += ["--max_steps", "6", "--save_strategy", "no"]

    def run(name, size, accumulation, *more, processes=None):
        split = ["--per_device_train_batch_size", size, "--gradient_accumulation_steps", accumulation]
        done = finetune(desk, meta, tmp_path / name, *flags, *split, *more, processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
        return weights(tmp_path / name), json.loads((tmp_path / name / "train_results.json").read_text())["engine"]

    one, engine = run("one", 8, 1, "--pack_problems", "False")
    moved = max((one[name] - tensor).abs().max() for name, tensor in weights(desk).items())
    assert moved > 0.05 and engine == "InternVLForConditionalGeneration"

    def same(other):
        return max((one[name] - other[name]).abs().max() for name in one) < 1e-3 * moved

    four, _ = run("four", 2, 4)
    assert same(four)
    two, engine = run("two", 2, 2, "--use_cpu", "True", "--ddp_backend", "gloo", processes=2)
    assert same(two) and engine == "DistributedDataParallel"
    for stage in (1, 3):
        config = ROOT / "internvl_chat" / f"zero_stage{stage}_config.json"
        zero, engine = run(f"zero{stage}", 2, 4, "--deepspeed", config, processes=1)
        assert same(zero) and engine == "DeepSpeedEngine"
    # The checkpoint has all that scoring and serving need, and the labels were learned.
    [[score]] = Prm.load(str(tmp_path / "four"), "\n\n").score("what 1?", [str(tmp_path / "p.png")], [["step 0"]])
    [[before]] = Prm.load(str(desk), "\n\n").score("what 1?", [str(tmp_path / "p.png")], [["step 0"]])
    assert abs(score - 0.9) < abs(before - 0.9) / 2
    assert set(four) == set(weights(desk))
    config = json.loads((tmp_path / "four" / "config.json").read_text())
    assert (config["architectures"], config["objective"]) == (["InternVLForConditionalGeneration"], "prm")


@pytest.mark.slow
def test_frozen_parts_stay_lora_is_merged_and_a_stopped_run_goes_on_with_the_same_loss(desk, tmp_path):
    """Protects what must not be trained, adapters that are handed on, and days of training from a stop."""
    rows = [prm_row(str(n), [n / 16, 1 - n / 16], question=f"what {n // 3}?") for n in range(16)]
    meta = write_dataset(tmp_path, rows)
    flags = ["--freeze_backbone", "True", "--use_llm_lora", "4", "--freeze_mlp", "True", "--grad_checkpoint", "True"]
    flags += ["--save_steps", "1", "--per_device_train_batch_size", "4", "--max_steps"]
    whole = finetune(desk, meta, tmp_path / "whole", *flags, "5")
    first = finetune(desk, meta, tmp_path / "out", *flags, "3")
    assert first.returncode == 0 and len(losses(first)) == 3, first.stderr[-2000:]
    before, after = weights(desk), weights(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("language_model" in name and "_proj" in name for name in changed)
    again = finetune(desk, meta, tmp_path / "out", *flags, "5")
    assert losses(first) + losses(again) == losses(whole) and len(losses(whole)) == 5
    done = (tmp_path / "out/model.safetensors").read_bytes()
    once_more = finetune(desk, meta, tmp_path / "out", *flags, "5")
    assert once_more.returncode == 0 and "finished already" in once_more.stdout
    assert (tmp_path / "out/model.safetensors").read_bytes() == done
    # The same when all weights are trained, which are saved under other names than they have in memory.
    flags = flags[-5:]
    runs = [finetune(desk, meta, tmp_path / name, *flags, steps) for name, steps in (("a", 5), ("b", 3), ("b", 5))]
    assert losses(runs[1]) + losses(runs[2]) == losses(runs[0]) and len(losses(runs[0])) == 5


@pytest.mark.slow
def test_held_out_problems_are_evaluated_and_curves_written(desk, tmp_path):
    """Protects the curves by which a training is judged."""
    rows = [prm_row(str(n), [n % 2], question=f"what {n}?") for n in range(12)]
    flags = ["--eval_fraction", "0.25", "--drop_path_rate", "0.1", "--num_train_epochs", "2", "--skip_bad_rows", "1"]
    meta = write_dataset(tmp_path, [*rows, prm_row("bad", [2])])
    done = finetune(desk, meta, tmp_path / "out", *flags, "--report_to", "tensorboard")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "bad row left out (1 of 1 allowed)" in done.stdout and "training prm on 9 rows" in done.stdout
    for word in ("eval_loss", "eval_accuracy_right", "eval_accuracy_wrong", "eval_auroc"):
        assert done.stdout.count(word) == 2, word
    for word in ("labels_per_second", "tokens_per_second", "peak_memory_gib"):
        assert done.stdout.count(word) == 4, word
    assert list((tmp_path / "out" / "runs").rglob("events.*"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\n") and "license: unknown" in card and '"eval_fraction": 0.25' in card
    assert '"engine": "InternVLForConditionalGeneration"' in card and " with toy." in card


def test_label_metrics_by_hand():
    scores, labels = torch.tensor([0.9, 0.6, 0.4, 0.6, 0.1]), torch.tensor([1.0, 0.5, 0.75, 0.25, 0.0])
    # Right: 0.9, 0.6, 0.4; wrong: 0.6, 0.1. Of six pairs 0.9 wins 2, 0.6 wins 1 and ties 1, 0.4 wins 1.
    expected = {"accuracy_right": 2 / 3, "accuracy_wrong": 0.5, "auroc": 4.5 / 6}
    assert label_metrics(scores, labels) == pytest.approx(expected)
    assert math.isnan(label_metrics(scores, torch.ones(5))["auroc"])
    assert math.isnan(label_metrics(scores, torch.zeros(5))["auroc"])


def test_flops_and_memory_by_hand(desk):
    model = load_model(str(desk), torch.float32)
    model.model.vision_tower.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(False)
    tower, text = (parameter_count(part) for part in (model.model.vision_tower, model.model.language_model.layers))
    # Frozen tower: forward alone, 64 patches a tile; language model: forward and twice as much backward.
    assert flops_of_micro_batch(model, tokens=10, tiles=2) == 2 * 128 * tower + 6 * 10 * text
    for part in (model.model.language_model, model.lm_head):
        part.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)  # gradients pass through the frozen language model
    assert flops_of_micro_batch(model, tokens=10, tiles=0) == 4 * 10 * text
    memory = zero_memory(parameters=2**30, trained=2**29, processes=4)
    assert memory == {1: 2 + 1 + 6 / 4, 2: 2 + 7 / 4, 3: 9 / 4}


def test_a_dry_run_counts_without_weights(desk, tmp_path, capsys):
    meta = write_dataset(tmp_path / "d", [prm_row("a", [0.5, 1]), prm_row("b", [0, 0.25, 1]), prm_row("c", [0], None)])
    (tmp_path / "shapes").mkdir()
    for path in desk.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, tmp_path / "shapes")
    flags = ["--output_dir", tmp_path / "out", "--dry_run", "True", "--per_device_train_batch_size", 2]
    run_main("--model_name_or_path", tmp_path / "shapes", "--meta_path", meta, *flags, "--num_train_epochs", 3)
    said = capsys.readouterr().out
    lengths = [batch["input_ids"].shape[1] for batch in batches(desk, meta, [1, 1, 1])]
    assert f"{min(lengths)} / {sorted(lengths)[1]} / {max(lengths)}; in all {sum(lengths)}" in said
    # "a" is a beginning of "b": packed, it takes no token of its own.
    assert f"this process's share of an epoch {lengths[1] + lengths[2]}" in said
    assert "3 paths of 2 problems" in said and "targets: 6; cut off by --max_seq_length: 0" in said
    assert "labels: mean 0.458; 3 of 0.5 or more, 3 below" in said
    assert "steps: 6 of up to 2 paths = 2 per process x 1 processes x 1 accumulation steps" in said
    assert f"parameters: {sum(tensor.numel() for tensor in weights(desk).values()):,}" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("thumbnail", [True, False])
def test_image_tokens_are_counted_from_sizes_as_from_pixels(desk, tmp_path, thumbnail):
    processor = load_processor(str(desk))
    processor.image_processor.crop_to_patches, processor.image_processor.max_patches = True, 6
    processor.image_processor.use_thumbnail = thumbnail
    paths = []
    for width, height in ((112, 112), (40, 300), (500, 200), (225, 223), (1000, 100), (640, 480)):
        paths.append(str(tmp_path / f"{width}.png"))
        Image.new("RGB", (width, height)).save(paths[-1])
    pixels, counts = image_tiles(processor, paths)
    assert image_token_counts(processor, paths) == counts and sum(counts) == 16 * len(pixels)
    assert min(counts) == 16 and len(set(counts)) > 2


def test_a_tokenizer_without_the_marker_gets_it_and_the_other_ids_stay(desk):
    texts = [f"Question: what is {n}?\nProcess: Yes or No" for n in range(50)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_model, "SPECIAL", [token for token in make_model.SPECIAL if token != "<prm>"])
        tokenizer = make_model.make_tokenizer(texts)
    model, before = make_model.make_model(tokenizer, seed=0), tokenizer.get_vocab()
    embedding = model.get_input_embeddings().weight.detach().clone()
    with pytest.raises(BadInput, match="lacks the token.s. <prm>"):
        Encoder(tokenizer)
    Encoder(tokenizer, marker=False)
    for _ in range(2):  # once more changes nothing
        internvl_chat_finetune.add_marker(model, tokenizer)
        grown = model.get_input_embeddings().weight
        assert tokenizer.get_vocab() == before | {"<prm>": len(before)} and len(grown) == len(before) + 1
        assert model.lm_head.weight.shape == grown.shape and model.config.text_config.vocab_size == len(grown)
    assert torch.equal(grown[:-1], embedding)
    torch.testing.assert_close(grown[-1], embedding.mean(0), atol=1e-2, rtol=0)
    assert Encoder(tokenizer).prm("Question: a\nProcess: b<prm>", []).input_ids.count(len(before)) == 1
    # An embedding with a spare row, as padded vocabularies have, stays as it is.
    spare = make_model.make_tokenizer([*texts], vocab_size=700)
    model = make_model.make_model(tokenizer, seed=0)
    model.resize_token_embeddings(len(spare) + 5)
    internvl_chat_finetune.add_marker(model, spare)
    assert len(model.get_input_embeddings().weight) == len(spare) + 5


def test_bad_rows_may_be_left_out_up_to_a_number(tmp_path, capsys):
    meta = write_dataset(tmp_path, [prm_row("good", [0.5]), prm_row("high", [1.5]), prm_row("gone", [1], "gone.png")])
    with pytest.raises(BadInput) as error:
        read_rows(meta, "prm", 0, skip_bad_rows=1)
    assert len(error.value.problems) == 2
    assert [row.id for row in read_rows(meta, "prm", 0, skip_bad_rows=2)] == ["good"]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "record 2 (id high)" in said[0] and "gone.png" in said[1]
    # The file's length is no row.
    meta = write_dataset(tmp_path, [prm_row("good", [0.5])], length=2)
    with pytest.raises(BadInput, match="length is 2, but it has 1 rows"):
        read_rows(meta, "prm", 0, skip_bad_rows=9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeat_time": float("inf")}, "field 'repeat_time': expected a number from 0 to 1000, found inf"),
        ({"repeat_time": float("nan")}, "field 'repeat_time': expected a number from 0 to 1000, found nan"),
        ({"repeat_time": -1}, "field 'repeat_time': expected a number from 0 to 1000, found -1"),
        ({"repeat_time": "2"}, "field 'repeat_time': expected a number from 0 to 1000, found '2'"),
        ({"repeat_time": 10**400}, "field 'repeat_time': expected a number from 0 to 1000, found int"),
        ({"root": ["a"]}, "field 'root': expected the path of a folder, found ['a']"),
        ({"length": "1"}, "field 'length': expected a whole number, found '1'"),
        ({"annotation": ["p.jsonl"]}, "field 'annotation': expected the path of a JSONL file, found ['p.jsonl']"),
        ({"annotation": None}, "field 'annotation': expected the path of a JSONL file, found None"),
        ({"data_augment": "no"}, "field 'data_augment': expected true or false, found 'no'"),
    ],
)
def test_a_dataset_of_the_wrong_types_names_the_field(tmp_path, change, message):
    path = tmp_path / "meta.json"
    path.write_text(json.dumps({"d": {"annotation": "gone.jsonl"} | change, "other": 5}))
    with pytest.raises(BadInput) as error:
        read_rows(str(path), "prm", 0)
    assert error.value.problems == (
        f"{path}: dataset 'd': {message}",
        f"{path}: dataset 'other': expected an object, found int",
    )


def test_nothing_to_train_and_bad_fractions_are_refused(desk, tmp_path):
    meta = write_dataset(tmp_path / "d", [prm_row("a", [0.5])])
    flags = ["--model_name_or_path", desk, "--meta_path", meta, "--output_dir", tmp_path / "o"]
    frozen = [word for part in ("backbone", "mlp", "llm") for word in (f"--freeze_{part}", "True")]
    for more, message in (
        (frozen, "nothing to train"),
        (["--eval_fraction", "1.5"], "--eval_fraction 1.5"),
        (["--eval_fraction", "0.5"], "holds out all 1 problems"),
        (["--max_seq_length", "0"], "--max_seq_length"),
    ):
        with pytest.raises(BadInput, match=message):
            run_main(*flags, *more)
    assert not (tmp_path / "o").exists()


def test_an_unknown_flag_is_named(desk, tmp_path):
    flags = ["--model_name_or_path", desk, "--meta_path", tmp_path / "gone.json", "--output_dir", tmp_path / "o"]
    with pytest.raises(BadInput, match="unknown flags: --max_step 3"):
        run_main(*flags, "--max_step", "3")


def test_adapters_are_refused_where_weights_are_spread(desk, tmp_path, monkeypatch):
    meta = write_dataset(tmp_path / "d", [prm_row("a", [0.5])])
    monkeypatch.setattr(internvl_chat_finetune, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(BadInput, match="--use_llm_lora: adapters cannot be merged"):
        run_main(
            "--model_name_or_path", desk, "--meta_path", meta, "--output_dir", tmp_path / "o", "--use_llm_lora", "4"
        )


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
    config = json.loads((desk / "config.json").read_text())
    for wrong in ([], 5, {}, config | {"text_config": 5}, config | {"vision_config": {"image_size": "x"}}):
        (tmp_path / "other" / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(BadInput, match="not a native InternVL checkpoint"):
            load_model(str(tmp_path / "other"), torch.float32)


@pytest.mark.slow
def test_the_scoring_script_writes_one_number_per_step(desk, tmp_path):
    """Protects the way from a trained checkpoint to scores."""
    write_dataset(tmp_path, [prm_row("a", [0.5])])
    record = {"id": "a", "question": "what?", "image_path": "p.png", "labels": [1, 0], "answer": "6"}
    record["solutions_splits"] = [["3 + 3 = 6", "6"], []]
    (tmp_path / "r.json").write_text(json.dumps([record]))
    args = ["eval/prm/evaluate_prm.py", "--checkpoint", desk, "--input_file", tmp_path / "r.json", "--output_file"]
    done = run_forked(*args, tmp_path / "blank.json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert run_forked(*args, tmp_path / "bare.json", "--step_separator", "").returncode == 0
    blank, bare = (json.loads((tmp_path / f"{name}.json").read_text())[0]["prm_scores"] for name in ("blank", "bare"))
    assert [len(scores) for scores in blank] == [2, 0] and blank[0][0] == bare[0][0] and blank[0][1] != bare[0][1]
    (tmp_path / "r.json").write_text(json.dumps([{**record, "image_path": "gone.png"}]))
    done = run_forked(*args, tmp_path / "o.json")
    assert done.returncode == 2 and "record 1 (id a): field 'image_path'" in done.stderr
