"""Packing: the tree a problem's paths become, its attention, and the same loss and gradients as separate sequences."""

import json
import random

import pytest
import torch
from internvl.train.batches import Collator, MicroBatches, parts
from internvl.train.dataset import Row, hold_out, read_rows
from PIL import Image
from transformers import AttentionInterface

from mm_prm.packing import Packed, segments
from mm_prm.prm_format import Encoded, prm_text, process_text
from mm_prm.prm_model import load_model, load_processor, packed_mask, soft_label_loss, yes_no_ids


def packed(*groups):
    row = Packed()
    for sequences in groups:
        row.add([Encoded(list(ids), wanted) for ids, wanted in sequences])
    return row


def test_a_packed_row_by_hand():
    # The trees of the module's example; "ABD" is cut at its last wanted position.
    row = packed([((1, 2, 5), [2]), ((1, 2, 3, 4), [1, 3]), ((1, 2, 3, 9), [2])], [((6, 7), [1])])
    assert row.input_ids == [1, 2, 3, 4, 5, 6, 7]
    assert row.position_ids == [0, 1, 2, 3, 2, 0, 1]
    assert row.subtree_end == [5, 5, 4, 4, 5, 7, 7]
    assert row.columns == [4, 1, 3, 2, 6]
    assert segments(row.subtree_end) == [(0, 2, [(0, 2)]), (2, 4, [(0, 4)]), (4, 5, [(0, 2), (4, 5)]), (5, 7, [(5, 7)])]


def test_every_token_sees_its_own_sequence_and_nothing_else():
    generator = random.Random(0)
    for _ in range(200):
        groups = []
        for _ in range(generator.randint(1, 3)):
            lengths = [generator.randint(1, 8) for _ in range(generator.randint(1, 6))]
            groups.append([([generator.randint(0, 1) for _ in range(n)], [generator.randrange(n)]) for n in lengths])
        row = packed(*groups)
        seen = {}
        for start, stop, spans in segments(row.subtree_end):
            keys = [key for first, last in spans for key in range(first, last)]
            seen |= {query: [key for key in keys if key <= query] for query in range(start, stop)}
        wanted = iter(row.columns)
        for ids, [at] in (sequence for group in groups for sequence in group):
            column = next(wanted)
            assert [row.input_ids[key] for key in seen[column]] == ids[: at + 1]
            assert [row.position_ids[key] for key in seen[column]] == list(range(at + 1))
        # FlexAttention's mask is the same relation.
        mask, tokens = packed_mask(torch.tensor(row.subtree_end)).mask_mod, torch.arange(len(row.input_ids))
        sees = mask(None, None, tokens[:, None], tokens[None])
        assert [row.nonzero()[:, 0].tolist() for row in sees] == [seen[query] for query in range(len(tokens))]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """Rows of three problems (one picture, two pictures, none), with shared steps, both spellings, null labels."""
    folder = tmp_path_factory.mktemp("packing")
    for name, colour in (("a", 250), ("b", 90)):
        Image.new("RGB", (112, 112), (colour, 30, 30)).save(folder / f"{name}.png")
    paths = [
        (["first", "second", "third"], [0.5, 0.25, 1.0]),
        (["first", "second", "other"], [0.5, 0.25, 0.0]),
        (["first"], [0.5]),
        (["first\nsecond", "third"], [0.25, 1.0]),  # edge spelling: an entry of two steps
        (["first", "second", "third", "end"], [None, None, None, 0.75]),  # step spelling of one edge
    ]
    rows = []
    for question, images in (("What?", ["a.png"]), ("Which?", ["a.png", "b.png"]), ("Why?", None)):
        for steps, labels in paths:
            text = prm_text(question, process_text(steps))
            turns = [{"from": "human", "value": text}, {"from": "gpt", "value": labels}]
            rows.append({"id": question, "image": images, "conversations": turns})
    random.Random(1).shuffle(rows)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "meta.json").write_text(json.dumps({"toy": {"root": "", "annotation": "rows.jsonl"}}))
    return read_rows(str(folder / "meta.json"), "prm", 0)


def loss_and_gradients(model, vocabulary, batches):
    model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("targets", "counts", "dropped")}
        total = total + soft_label_loss(model(**inputs, vocabulary=vocabulary), batch["targets"])
    (total / sum(len(batch["targets"]) for batch in batches)).backward()
    return total.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def dense_attention(module, query, key, value, attention_mask, scaling, segments, **_):
    """The reference: softmax over all pairs of the row, those that are not seen at minus infinity."""
    tokens = query.shape[2]
    sees = torch.zeros(tokens, tokens, dtype=torch.bool)
    for start, stop, spans in segments:
        for first, last in spans:
            sees[start:stop, first:last] = True
    sees &= torch.ones_like(sees).tril()
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~sees, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2), None


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_problems_give_the_loss_and_gradients_of_separate_sequences(desk, problems, checkpointing):
    processor = load_processor(str(desk))
    vocabulary = yes_no_ids(processor.tokenizer)
    alone, together = (Collator(processor, "prm", 8192, pack) for pack in (False, True))
    model = load_model(str(desk), torch.float32).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    loss, gradients = loss_and_gradients(model, vocabulary, [alone([row]) for row in problems])
    batch = together(problems)
    assert len(batch["pixel_values"]) == 3 and batch["input_ids"].numel() < 0.5 * sum(
        alone([row])["input_ids"].numel() for row in problems
    )
    for batches in ([batch], [alone(problems)], [together(problems[:7]), together(problems[7:])]):
        again, others = loss_and_gradients(model, vocabulary, batches)
        assert again == pytest.approx(loss, rel=1e-5) and others.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(others[name], gradient, atol=1e-5, rtol=1e-4)


def test_segment_attention_with_fewer_key_heads_equals_a_dense_mask():
    row = packed([((1, 2, 3, 4), [3]), ((1, 2, 5), [2]), ((1, 2, 5, 6), [3])], [((1, 2), [1])])
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, len(row.input_ids), 8, requires_grad=True) for heads in (6, 2, 2))
    results = []
    for attention in (AttentionInterface()["segments"], dense_attention):
        out, _ = attention(None, query, key, value, None, scaling=0.3, segments=segments(row.subtree_end))
        gradients = torch.autograd.grad(out.square().sum(), (query, key, value))
        results.append((out, *gradients))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


def rows_of(sizes):
    return [
        Row(str(n), [], f"Question: {n}\nProcess: {i}<prm>", [0.5]) for n, size in enumerate(sizes) for i in range(size)
    ]


def micro_batches(rows, per_device, accumulation, processes, pack=True, epoch=0):
    shares = []
    for rank in range(processes):
        sampler = MicroBatches(rows, per_device, accumulation, processes, rank, pack, seed=0)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
    return [micro_batch for together in zip(*shares, strict=True) for micro_batch in together]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_micro_batches_hold_whole_problems_and_every_path_once(processes):
    rows = rows_of([6, 9, 3, 8, 4, 7, 2, 9])  # 48 paths
    found = micro_batches(rows, 12, 4 // processes, processes)  # 48 paths a step
    assert len(found) == 4 and sorted(path for batch in found for path in batch) == list(range(48))
    problems = [{rows[path].id for path in batch} for batch in found]
    assert sum(map(len, problems)) == 8, "a problem is in one micro-batch"
    assert all(9 <= len(batch) <= 15 for batch in found)
    # How the micro-batches are dealt out does not change them.
    assert sorted(map(sorted, found)) == sorted(map(sorted, micro_batches(rows, 12, 4, 1)))
    several = [micro_batches(rows, 6, 4 // processes, processes, epoch=epoch) for epoch in (0, 0, 1)]
    assert several[0] == several[1] != several[2]


def test_steps_take_the_same_number_of_paths_and_few_rows_leave_micro_batches_empty():
    rows = rows_of([5] * 20)  # 100 paths, 32 a step: 4 steps of 25
    found = micro_batches(rows, 8, 4, 1)
    assert [sum(map(len, found[step : step + 4])) for step in range(0, 16, 4)] == [25] * 4
    assert sorted(map(len, micro_batches(rows_of([3]), 4, 2, 2))) == [0, 1, 1, 1]
    assert sorted(map(len, micro_batches(rows_of([40]), 8, 5, 1))) == [8] * 5
    assert parts([1, 2, 3, 4, 5], 2) == [[1], [2, 3], [4, 5]]
    unpacked = micro_batches(rows_of([4, 4]), 2, 1, 2, pack=False)
    assert sorted(map(len, unpacked)) == [2] * 4 and sorted(sum(unpacked, [])) == list(range(8))


def test_an_empty_micro_batch_and_one_that_is_cut_off_give_no_loss(desk, problems):
    processor = load_processor(str(desk))
    model = load_model(str(desk), torch.float32)
    for batch in (Collator(processor, "prm", 8192, True)([]), Collator(processor, "prm", 5, True)(problems)):
        assert batch["input_ids"].shape == (1, 1) and len(batch["targets"]) == 0
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("targets", "counts", "dropped")}
        loss = soft_label_loss(model(**inputs, vocabulary=yes_no_ids(processor.tokenizer)), batch["targets"])
        loss.backward()
        assert loss == 0


def test_held_out_problems_are_whole_and_seeded():
    rows = rows_of([3, 4, 5, 6])
    train, held = hold_out(rows, 0.5, seed=0)
    assert len(train) + len(held) == 18 and len({row.id for row in held}) == 2
    assert not {row.id for row in train} & {row.id for row in held} and hold_out(rows, 0.5, seed=0) == (train, held)
    assert hold_out(rows, 0, seed=0) == (rows, [])


def test_a_packed_row_runs_under_bfloat16_autocast(desk, problems):
    processor, model = load_processor(str(desk)), load_model(str(desk), torch.float32)
    batch = Collator(processor, "prm", 8192, True)(problems)
    inputs = {name: tensor for name, tensor in batch.items() if name not in ("targets", "counts", "dropped")}
    vocabulary = yes_no_ids(processor.tokenizer)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(**inputs, vocabulary=vocabulary)
    assert low.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(low, model(**inputs, vocabulary=vocabulary), atol=0.05, rtol=0.05)
