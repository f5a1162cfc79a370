"""What a training run would do, without a weight in memory: lengths, labels, steps, memory per GPU."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from internvl.train.batches import Collator, MicroBatches
from internvl.train.dataset import Row, by_problem
from internvl.train.trainer import parameter_count


def spread(numbers: list[int]) -> str:
    return f"{min(numbers):,} / {median(numbers):,.0f} / {max(numbers):,}"


def zero_memory(parameters: int, trained: int, processes: int) -> dict[int, float]:
    """GiB per GPU by ZeRO stage (Rajbhandari et al. 2020, section 3): weights and gradients in bfloat16, 2 bytes each,
    Adam's float32 weights and two moments, 12 bytes."""
    weights, gradients, adam = 2 * parameters, 2 * trained, 12 * trained
    sizes = {
        1: weights + gradients + adam / processes,
        2: weights + (gradients + adam) / processes,
        3: (weights + gradients + adam) / processes,
    }
    return {stage: size / 2**30 for stage, size in sizes.items()}


def meta_model(config: InternVLConfig) -> InternVLForConditionalGeneration:
    """The model's shapes without its weights."""
    with torch.device("meta"):
        return InternVLForConditionalGeneration(config)


def report(rows: list[Row], held_out: list[Row], collator: Collator, model: Any, args: Any) -> list[str]:
    """Lines to print. model: on the meta device, frozen and adapted as it will be trained."""
    kind = (collator.processor, collator.objective, collator.max_length)
    alone, together = (Collator(*kind, pack, pixels=False) for pack in (False, collator.pack))
    single = [alone([row]) for row in rows]
    batches = MicroBatches(
        rows,
        args.train_batch_size,
        args.gradient_accumulation_steps,
        args.world_size,
        args.process_index,
        collator.pack,
        args.data_seed or args.seed,
    )
    packed = [together([rows[path] for path in paths])["input_ids"].shape[1] for paths in batches]
    tokens = [len(batch["subtree_end"]) for batch in single]
    targets = torch.cat([batch["targets"] for batch in single]).float()
    lines = [
        f"{len(rows):,} paths of {len(by_problem(rows)):,} problems"
        + (f", {len(held_out):,} paths held out" if held_out else ""),
        f"tokens of a path (least / median / most): {spread(tokens)}; in all {sum(tokens):,}",
        f"tokens of a micro-batch: {spread(packed)}; this process's share of an epoch {sum(packed):,}",
        f"targets: {len(targets):,}; cut off by --max_seq_length: {sum(int(batch['dropped']) for batch in single):,}",
    ]
    if collator.objective == "prm":
        right = int((targets >= 0.5).sum())
        lines.append(f"labels: mean {targets.mean():.3f}; {right:,} of 0.5 or more, {len(targets) - right:,} below")
    steps = args.max_steps if args.max_steps > 0 else math.ceil(batches.steps * args.num_train_epochs)
    size, accumulation = args.train_batch_size, args.gradient_accumulation_steps
    lines.append(
        f"steps: {steps:,} of up to {size * batches.micro_batches:,} paths = {size} per process x {args.world_size} "
        f"processes x {accumulation} accumulation steps"
    )
    parameters, trained = parameter_count(model), parameter_count(model, trained=True)
    text = model.config.text_config
    kept = max(packed) * text.num_hidden_layers * text.hidden_size * 2 / 2**30
    lines.append(f"parameters: {parameters:,}, trained {trained:,}")
    for stage, size in zero_memory(parameters, trained, args.world_size).items():
        lines.append(f"memory per GPU, ZeRO-{stage}: {size:.2f} GiB for weights, gradients and Adam's state")
    lines.append(f"and {kept:.2f} GiB for the inputs of the longest micro-batch's layers (with --grad_checkpoint)")
    return lines
