"""What marker-only logits and problem packing are worth in PRM training.

    python benchmarks/train_prm.py    # float32 and bfloat16, scaled to a CPU
    python benchmarks/train_prm.py --shape 8b --dtype bfloat16 \\
        --attention segments flex_attention

One problem at the paper's shape: a picture of 7 tiles (1,792 tokens), a
question of 60 tokens, 9 paths of 8 steps of 50 tokens, one label a step. The
weights are random, the vision tower is frozen, no optimizer step is taken (it
comes once for hundreds of paths and is the same in every row). All rows run in
this process, one after the other, round after round; the fastest round of each
counts.

    released   one path per sequence, its picture encoded with it, logits of the
               whole vocabulary at every token
    markers    one path per sequence, logits of Yes and No at the markers
    packed     markers, and the problem's paths as one tree: picture, question
               and common steps once
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from internvl.train.trainer import flops_of_micro_batch, peak_flops
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration

from mm_prm import cli
from mm_prm.files import write_json
from mm_prm.packing import Packed
from mm_prm.prm_format import Encoded
from mm_prm.prm_model import row_tensors, soft_label_loss, with_position_logits

TILES, QUESTION, PATHS, STEPS, STEP = 7, 60, 9, 8, 50
MARK, WORDS = 4, range(100, 1000)  # token ids, in every vocabulary


def tile(shape: str) -> tuple[int, int]:
    """(pixels of a side, tokens) of a tile."""
    return (112, 16) if shape == "tiny" else (448, 256)


# language model: hidden, layers, heads, key heads, MLP, vocabulary; vision tower: hidden, layers, heads, MLP
SHAPES = {
    "tiny": ((64, 2, 4, 2, 128, 1024), (64, 1, 4, 128)),
    "cpu": ((896, 4, 14, 2, 4864, 25280), (1024, 4, 16, 4096)),  # 1b with a sixth of its layers and of its vocabulary
    "1b": ((896, 24, 14, 2, 4864, 151674), (1024, 24, 16, 4096)),
    "8b": ((4096, 32, 32, 8, 14336, 92553), (1024, 24, 16, 4096)),
}


def make_model(shape: str, dtype: torch.dtype, device: str) -> InternVLForConditionalGeneration:
    (hidden, layers, heads, key_heads, mlp, vocabulary), (width, depth, vision_heads, vision_mlp) = SHAPES[shape]
    config = InternVLConfig(
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": vision_heads,
            "intermediate_size": vision_mlp,
            "image_size": tile(shape)[0],
            "patch_size": 14,
            "attention_bias": True,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "intermediate_size": mlp,
            "vocab_size": vocabulary,
            "tie_word_embeddings": False,
        },
        image_token_id=3,
        image_seq_length=tile(shape)[1],
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = InternVLForConditionalGeneration._from_config(config, dtype=dtype)
    model.model.vision_tower.requires_grad_(False)
    return model.train()


def make_pixels(shape: str, dtype: torch.dtype, device: str) -> Tensor:
    """A picture, [tiles, 3, height, width]."""
    side, _ = tile(shape)
    return torch.randn(TILES, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def head(shape: str, generator: random.Random) -> list[int]:
    """Pictures and question."""
    return [3] * (TILES * tile(shape)[1]) + generator.choices(WORDS, k=QUESTION)


def random_steps(number: int, generator: random.Random) -> list[int]:
    """A marker ends every step."""
    return [token for _ in range(number) for token in (*generator.choices(WORDS, k=STEP - 1), MARK)]


def marked(ids: list[int]) -> Encoded:
    return Encoded(ids, [at for at, token in enumerate(ids) if token == MARK])


def paths(common_steps: int, seed: int, shape: str = "8b") -> list[Encoded]:
    """9 paths: three stems of `common_steps` steps (0: none), three continuations each."""
    generator = random.Random(seed)
    asked, found = head(shape, generator), []
    for _ in range(3):
        stem = asked + random_steps(common_steps, generator)
        found += [marked(stem + random_steps(STEPS - common_steps, generator)) for _ in range(3)]
    return found


OUT_OF_MEMORY = (float("inf"), float("nan"))  # of a row: (seconds, peak GiB)


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the resident set's high-water mark starts anew


def peak() -> float:
    """GiB since `reset_peak`: of the GPU, or the resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def released(model: Any, problem: list[Encoded], pixels: Tensor) -> None:
    for path in problem:
        ids = torch.tensor([path.input_ids], device=pixels.device)
        logits = type(model).forward(model, input_ids=ids, pixel_values=pixels, use_cache=False).logits.float()
        backward(logits[0, path.marker_positions][:, [1, 2]], len(path.marker_positions))


def separate(model: Any, problem: list[Encoded], pixels: Tensor) -> None:
    for path in problem:
        one_row(model, [path], pixels)


def one_row(model: Any, problem: list[Encoded], pixels: Tensor) -> None:
    row = Packed()
    row.add(problem)
    inputs = {name: tensor.to(pixels.device) for name, tensor in row_tensors(row, [pixels]).items()}
    logits = model(**inputs, vocabulary=torch.tensor([1, 2], device=pixels.device))
    backward(logits, len(row.columns))


def backward(logits: Tensor, labels: int) -> None:
    (soft_label_loss(logits, torch.full((labels,), 0.5, device=logits.device)) / labels).backward()


def measure(run: Callable[[], None], model: Any) -> tuple[float, float]:
    """(seconds, peak GiB) of one forward and backward over the problem; OUT_OF_MEMORY where a GPU has too little."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)  # in every row the gradients are there already
    reset_peak()
    start = time.perf_counter()
    try:
        run()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return OUT_OF_MEMORY
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, peak()


def head_memory(model: Any) -> tuple[float, float]:
    """MiB of a path's logits and their gradient in float32: all tokens and words, and Yes and No at the markers."""
    path = paths(0, seed=0)[0]
    sizes = []
    for positions, vocabulary in ((len(path.input_ids), None), (STEPS, torch.tensor([1, 2], device=model.device))):
        hidden = torch.zeros(positions, model.lm_head.in_features, dtype=model.dtype, device=model.device)
        with torch.no_grad():
            logits = model.lm_head(hidden, vocabulary)
        sizes.append(2 * logits.numel() * logits.element_size() / 2**20)
    return sizes[0], sizes[1]


def bench(args: Any, dtype: torch.dtype) -> list[dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(args.shape, dtype, device)
    if args.grad_checkpoint:
        model.gradient_checkpointing_enable()
    pixels = make_pixels(args.shape, dtype, device)
    with_position_logits(model)
    rows: list[tuple[str, str, int, Any]] = [
        ("released", "sdpa", args.common_steps, released),
        ("markers", "segments", args.common_steps, separate),
    ]
    rows += [("packed", attention, args.common_steps, one_row) for attention in args.attention]
    rows += [("packed, no common steps", args.attention[0], 0, one_row)]
    best: dict[int, tuple[float, float]] = {}
    for _ in range(args.rounds):
        for number, (_, attention, common, run) in enumerate(rows):
            problem = paths(common, 0, args.shape)
            model.set_attn_implementation({"text_config": attention, "vision_config": "sdpa"})
            best[number] = min(best.get(number, OUT_OF_MEMORY), measure(partial(run, model, problem, pixels), model))
    whole, two = head_memory(model)
    print(f"\nhead, a path's logits and their gradient: {whole:.1f} MiB released, {two:.4f} MiB at markers")
    top = peak_flops()
    table = []
    for number, (title, attention, common, run) in enumerate(rows):
        seconds, memory = best[number]
        problem = paths(common, 0, args.shape)
        packed = Packed()
        packed.add(problem)
        tokens = len(packed.input_ids) if run is one_row else sum(len(path.input_ids) for path in problem)
        flops = flops_of_micro_batch(model, tokens, TILES if run is one_row else TILES * PATHS)
        table.append(
            {
                "row": title,
                "attention": attention,
                "tokens": tokens,
                "labels_per_second": PATHS * STEPS / seconds,
                "ratio": best[0][0] / seconds,
                "peak_gib": memory,
                **({"mfu": flops / seconds / top} if top else {}),
            }
        )
    return table


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="cpu", help="model to build from random weights")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], help="float32, bfloat16")
    parser.add_argument("--attention", nargs="+", default=["segments"], help="segments, flex_attention (GPU)")
    parser.add_argument("--common_steps", type=int, default=2, help="steps that paths have in common, by threes")
    parser.add_argument("--rounds", type=cli.positive_int, default=2, help="times every row is run")
    parser.add_argument("--grad_checkpoint", action="store_true", help="recompute activations, in every row")
    parser.add_argument("--output_file", type=Path, help="JSON of the table")
    args = parser.parse_args()
    tables = {}
    for dtype in args.dtype:
        tables[dtype] = bench(args, getattr(torch, dtype))
        print(f"\n{args.shape}, {dtype}, {torch.get_num_threads()} threads\n")
        print("| row | attention | tokens | labels/s | ratio | peak GiB | MFU |\n|---|---|---|---|---|---|---|")
        for row in tables[dtype]:
            mfu = f"{row['mfu']:.2f}" if "mfu" in row else ""
            print(
                f"| {row['row']} | {row['attention']} | {row['tokens']:,} | {row['labels_per_second']:.2f} "
                f"| {row['ratio']:.2f} | {row['peak_gib']:.2f} | {mfu} |",
                flush=True,
            )
    if args.output_file:
        write_json(args.output_file, tables)


if __name__ == "__main__":
    cli.run(main)
