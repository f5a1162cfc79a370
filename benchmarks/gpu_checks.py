"""Is a GPU's answer the right one? The parts of gpu.sh that check.

    python benchmarks/gpu_checks.py packing --output_dir runs/gpu
    python benchmarks/gpu_checks.py scores --output_dir runs/gpu --tiny

Each writes <output_dir>/<part>.json, {"ok", "rows", "text"}, and ends with
exit code 1 when its check fails. Without a GPU it compares the CPU with itself.

    packing     packed loss and gradients against one path per sequence
    rl          stage 7: packed gradients against one answer per sequence
    attention   segments, flex_attention, a dense mask, one path per call:
                values, gradients, milliseconds by length
    profile     where the time of a packed training step goes
    desk        the desk PRM, 200 steps here and on the CPU: Best-of-16
    scores      that PRM's scores here against the CPU's, packed against single
    converted   there and back through the original format: the same scores
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from make_problems import FAMILIES, Made, make_split, teach, write_problems
from torch import Tensor
from torch.nn import functional as F
from train_prm import QUESTION, TILES, WORDS, make_model, make_pixels, one_row, paths, released, tile
from transformers import AttentionInterface
from wordings import say_all

from mm_prm import cli
from mm_prm.files import read_json, write_json, write_jsonl
from mm_prm.packing import Packed, segments
from mm_prm.prm import Prm
from mm_prm.prm_format import STEP_SEPARATOR, Encoded, prm_text, process_text
from mm_prm.prm_model import packed_mask, with_position_logits
from mm_prm.records import dataset_entry, parse_scored

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROOT = Path(__file__).parent.parent
BASE = ROOT / "examples/desk/base"
Result = dict[str, Any]


def distance(ours: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the reference's norm."""
    return ((ours.double() - reference.double()).norm() / reference.double().norm().clamp(min=1e-30)).item()


# ---------------------------------------------------------------- packing and attention


def gradients(model: Any, run: Callable[[], object]) -> Tensor:
    """All trained gradients of one forward and backward, [parameters]."""
    model.zero_grad()
    run()
    return torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])


def packing(args: Any) -> Result:
    """Gradients of a packed problem against the released way, one path per sequence, as one long vector.

    Bfloat16 rounds both ways: its bound is six times the released way's own distance from float32. The errors of
    nine passes that round on their own cancel to a third of one pass's; twice that is allowed.
    """
    shape = "tiny" if args.tiny else "cpu"
    problem = paths(2, 0, shape)
    return compared(
        shape,
        with_position_logits,
        one_by_one=lambda model, pixels: released(model, problem, pixels),
        together=lambda model, pixels: one_row(model, problem, pixels),
        scale=len(problem),
    )


def rl(args: Any) -> Result:
    """As `packing`, for a prompt's answers under CPGD's loss: one answer per sequence, the whole vocabulary."""
    import rl_step

    shape = "tiny" if args.tiny else "cpu"
    prompt, answers = rl_step.prompt_and_answers(shape)
    return compared(
        shape,
        rl_step.with_drawn_logprobs,
        one_by_one=lambda model, pixels: rl_step.released(model, prompt, answers, pixels),
        together=lambda model, pixels: rl_step.ours(model, prompt, answers, pixels),
        scale=1,
    )


def compared(
    shape: str,
    prepare: Callable[[Any], Any],
    one_by_one: Callable[[Any, Tensor], object],
    together: Callable[[Any, Tensor], object],
    scale: int,
) -> Result:
    """Gradients of both ways, those of one_by_one over `scale`, in float32 and in bfloat16."""
    pixels, rows, exact = make_pixels(shape, torch.float32, DEVICE), list[dict[str, Any]](), None
    for dtype in (torch.float32, torch.bfloat16):
        model = prepare(make_model(shape, torch.float32, DEVICE)).to(dtype)
        model.set_attn_implementation({"text_config": "sdpa", "vision_config": "sdpa"})
        reference = gradients(model, lambda: one_by_one(model, pixels.to(dtype))) / scale  # noqa: B023
        exact = reference if exact is None else exact
        bound = 1e-4 if dtype == torch.float32 else 6 * distance(reference, exact)
        for attention in ("segments", "flex_attention") if DEVICE == "cuda" else ("segments",):
            model.set_attn_implementation({"text_config": attention, "vision_config": "sdpa"})
            found = distance(gradients(model, lambda: together(model, pixels.to(dtype))), exact)  # noqa: B023
            name = str(dtype).removeprefix("torch.")
            rows.append({"dtype": name, "attention": attention, "gradient_distance": found, "bound": bound})
    return {"ok": all(row["gradient_distance"] <= row["bound"] for row in rows), "rows": rows}


def packed_row(length: int) -> tuple[Packed, list[int]]:
    """A picture, a question and nine paths that fill about `length` tokens; also each path's own length."""
    head = min(TILES * tile("8b")[1] + QUESTION, length // 2)
    own = max(1, (length - head) // 9)
    generator = random.Random(0)
    sequences = [[3] * head + generator.choices(WORDS, k=own) for _ in range(9)]
    row = Packed()
    row.add([Encoded(ids, [len(ids) - 1]) for ids in sequences])
    return row, [len(ids) for ids in sequences]


def dense(inputs: Sequence[Tensor], subtree_end: Tensor) -> Tensor:
    query, key, value = inputs
    at = torch.arange(len(subtree_end), device=query.device)
    sees = (at[None] <= at[:, None]) & (at[:, None] < subtree_end[None])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=sees, enable_gqa=True).transpose(1, 2)


def separate(inputs: Sequence[Tensor], lengths: list[int]) -> Tensor:
    """What one path per sequence costs: as many causal calls of the path's length; its values are not compared."""
    parts = []
    for n in lengths:
        q, k, v = (x[:, :, :n] for x in inputs)
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
    return torch.cat(parts, dim=2).transpose(1, 2)


def timed(run: Callable[[], Tensor], inputs: list[Tensor], rounds: int) -> tuple[list[Tensor], float]:
    """(value and gradients, milliseconds of the fastest forward and backward)."""
    best, result = float("inf"), []
    for _ in range(rounds):
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        out = run()
        with_gradients = inputs[0].requires_grad
        found = torch.autograd.grad(out.float().square().sum(), inputs) if with_gradients else ()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        best, result = min(best, time.perf_counter() - start), [out.detach(), *found]
    return result, 1000 * best


def attention(args: Any) -> Result:
    """Each way at each length, at the 8B shape's heads, against a dense mask in float32."""
    heads, key_heads, width = (4, 2, 16) if args.tiny else (32, 8, 128)
    module, rows = torch.nn.Module(), list[dict[str, Any]]()
    for length in (256,) if args.tiny else (2048, 4864, 9728, 19456):
        row, lengths = packed_row(length)
        ends = torch.tensor(row.subtree_end, device=DEVICE)
        torch.manual_seed(0)
        shapes = [(1, count, len(ends), width) for count in (heads, key_heads, key_heads)]
        whole = [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in shapes]
        reference, _ = timed(lambda: dense(whole, ends), whole, 1)  # noqa: B023
        inputs = [x.detach().to(torch.bfloat16).requires_grad_(True) for x in whole]
        pieces, mask = segments(row.subtree_end), packed_mask(ends)
        ways: dict[str, Callable[[], Tensor]] = {
            "segments": lambda: AttentionInterface()["segments"](module, *inputs, None, segments=pieces)[0],  # noqa: B023
            "flex_attention": lambda: AttentionInterface()["flex_attention"](module, *inputs, mask)[0],  # noqa: B023
            "dense mask": lambda: dense(inputs, ends),  # noqa: B023
            "one path per call": lambda: separate(inputs, lengths),  # noqa: B023
        }
        for name, run in ways.items():
            for x in inputs:  # FlexAttention has no backward on a CPU
                x.requires_grad_(not (name == "flex_attention" and DEVICE == "cpu"))
            found, milliseconds = timed(run, inputs, 2 if args.tiny else 5)
            compared = [] if name == "one path per call" else list(zip(found, reference, strict=False))
            off = max((distance(ours, exact) for ours, exact in compared), default=None)
            rows.append({"tokens": len(ends), "way": name, "milliseconds": milliseconds, "distance": off})
    return {"ok": all((row["distance"] or 0) < 0.02 for row in rows), "rows": rows}


def profile(args: Any) -> Result:
    """Share of the device's time by kind of kernel in one packed step of the large shape, and the time it was idle."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    shape = "tiny" if args.tiny else "8b"
    model = with_position_logits(make_model(shape, torch.bfloat16, DEVICE))
    pixels, problem = make_pixels(shape, torch.bfloat16, DEVICE), paths(2, 0, shape)
    model.set_attn_implementation({"text_config": "segments", "vision_config": "sdpa"})
    model.gradient_checkpointing_enable()  # fits beside whatever the allocator holds
    one_row(model, problem, pixels)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])]
    with record(activities=activities) as recorded:
        start = time.perf_counter()
        one_row(model, problem, pixels)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    field = "self_device_time_total" if DEVICE == "cuda" else "self_cpu_time_total"
    events = sorted(recorded.key_averages(), key=lambda event: -getattr(event, field))
    total = sum(getattr(event, field) for event in events) / 1e6
    rows = [{"kernel": event.key[:70], "calls": event.count, "share": getattr(event, field) / 1e6 / seconds}
            for event in events[:15]]  # fmt: skip
    rows.append({"kernel": "all", "calls": None, "share": total / seconds})
    return {"ok": True, "rows": rows, "text": f"one step took {seconds:.3f} s under the profiler"}


# ---------------------------------------------------------------- a trained thing


def solutions(problem: Made, count: int, rng: random.Random) -> list[tuple[list[str], bool]]:
    """`count` solutions of a teacher that slips in 60 of 100, (steps with the answer, right)."""
    right = str(FAMILIES[problem.family].solve(problem.numbers, problem.thing)[1])
    drawn = [teach(problem, 0.6, rng) for _ in range(count)]
    return [([*say_all(moves, 1, rng), str(answer)], str(answer) == right) for moves, answer in drawn]


def make_data(folder: Path, tiny: bool) -> None:
    """Training rows (8 solutions a problem, each step labelled with the outcome) and 16 candidates a test problem."""
    rng, rows = random.Random(0), []
    problems = make_split("train", 20 if tiny else 800, 0)
    for problem, record in zip(problems, write_problems(folder, "train", problems), strict=True):
        for steps, right in solutions(problem, 8, rng):
            text = prm_text(record["question"], process_text(steps))
            turns = [{"from": "human", "value": text}, {"from": "gpt", "value": [float(right)] * len(steps)}]
            rows.append({"id": record["id"], "image": record["image_path"], "conversations": turns})
    write_jsonl(folder / "rows.jsonl", rows)
    test, candidates = make_split("test", 10 if tiny else 300, 0), []
    for problem, record in zip(test, write_problems(folder, "test", test), strict=True):
        drawn = solutions(problem, 16, rng)
        splits, labels = [steps for steps, _ in drawn], [int(right) for _, right in drawn]
        candidates.append(
            {name: record[name] for name in ("id", "question", "image_path")}
            | {"answer": record["correct_answer"], "solutions_splits": splits, "labels": labels}
            | {"answers": [steps[-1] for steps in splits]}
        )
    write_json(folder / "test.json", candidates)
    write_json(folder / "meta.json", {"desk": dataset_entry(folder, folder / "rows.jsonl", len(rows))})


def train(folder: Path, name: str, steps: int) -> Path:
    """The PRM of `steps` optimizer steps of 32 paths from the desk base, on this process's device."""
    if not (folder / "data/meta.json").exists():
        raise cli.Fault(f"{folder}/data: no training rows; `desk --train_only` makes them")
    flags = ["--model_name_or_path", BASE, "--meta_path", folder / "data/meta.json", "--output_dir", folder / name]
    flags += ["--max_steps", steps, "--per_device_train_batch_size", 32, "--learning_rate", "5e-4"]
    flags += ["--freeze_backbone", "True", "--adam_beta2", "0.98", "--save_strategy", "no", "--report_to", "none"]
    script = ROOT / "internvl_chat/internvl/train/internvl_chat_finetune.py"
    subprocess.run([sys.executable, script, *map(str, flags), "--logging_steps", "25"], check=True)
    return folder / name


def scored(checkpoint: Path, data: Path, limit: int | None = None, dtype: str | None = None, device: str = DEVICE):
    """Test records with the PRM's scores, computed on `device`."""
    prm = Prm.load(str(checkpoint), STEP_SEPARATOR, dtype=dtype or ("float32" if device == "cpu" else "bfloat16"))
    prm.model.to(device)
    records = read_json(data / "test.json")[:limit]
    for record in records:
        image = [str(data / record["image_path"])]
        record["prm_scores"] = prm.score(record["question"], image, record["solutions_splits"])
    return [parse_scored(record) for record in records]


def desk(args: Any) -> Result:
    """Best-of-16 of the GPU's PRM against the interval of the CPU's: the same rows, seed and steps."""
    from extract_calculate import calculate

    folder, steps = args.output_dir / "desk", 3 if args.tiny else 200
    if args.train_only:
        make_data(folder / "data", args.tiny)
        train(folder, "cpu", steps)
        return {}
    train(folder, "here", steps)
    here, cpu = (calculate(scored(folder / name, folder / "data", device=device), 0)
                 for name, device in (("here", DEVICE), ("cpu", "cpu")))  # fmt: skip
    rows = []
    for rule in ("min", "average", "mean_odd"):
        low, high = cpu[rule]["ci95"]
        values = {"gpu": here[rule]["accuracy"], "cpu": cpu[rule]["accuracy"], "cpu_low": low, "cpu_high": high}
        rows.append({"rule": rule, **values, "random": cpu["random"]["accuracy"]})
    seconds = [read_json(folder / name / "train_results.json")["train_runtime"] for name in ("here", "cpu")]
    text = f"training took {seconds[0]:.0f} s here, {seconds[1]:.0f} s on the CPU beside the other parts"
    return {"ok": all(row["cpu_low"] <= row["gpu"] <= row["cpu_high"] for row in rows), "rows": rows, "text": text}


def scores(args: Any) -> Result:
    """A trained PRM's scores, one candidate at a time on the CPU in float32 against every other way."""
    folder, limit = args.output_dir / "desk", 10
    checkpoint = next((folder / name for name in ("here", "cpu") if (folder / name / "config.json").exists()), None)
    if checkpoint is None:
        raise cli.Fault(f"{folder}: no trained PRM; run the part `desk` first")

    def flat(records: list[dict[str, Any]]) -> Tensor:
        return torch.tensor([score for record in records for steps in record["prm_scores"] for score in steps])

    prm, exact = Prm.load(str(checkpoint), STEP_SEPARATOR, dtype="float32"), []
    prm.model.to("cpu")
    for record in read_json(folder / "data/test.json")[:limit]:
        image = [str(folder / "data" / record["image_path"])]
        for steps in record["solutions_splits"]:
            exact += prm.score(record["question"], image, [steps])[0]
    rows = []
    for device, dtype, bound in ((DEVICE, "float32", 1e-4), (DEVICE, "bfloat16", 0.1), ("cpu", "float32", 1e-5)):
        found = flat(scored(checkpoint, folder / "data", limit, dtype, device))
        largest = (found - torch.tensor(exact)).abs().max().item()
        rows.append({"device": device, "dtype": dtype, "scores": len(found), "largest": largest, "bound": bound})
    return {"ok": all(row["largest"] <= row["bound"] for row in rows), "rows": rows}


def converted(args: Any) -> Result:
    """The base there and back through the original format: every weight's bytes, and the scores here."""
    folder, script = args.output_dir / "converted", ROOT / "internvl_chat/tools/convert_checkpoint.py"
    for start, end, to in ((BASE, "original", "original"), (folder / "original", "native", "native")):
        command = [sys.executable, script, "--input_dir", start, "--output_dir", folder / end, "--to", to]
        subprocess.run(list(map(str, command)), check=True)
    problem = [["the bars are 3 and 4", "3 + 4 = 7", "7"], ["the bars are 3 and 4", "8"]]
    one, other = (Prm.load(str(path), STEP_SEPARATOR, dtype="float32").score("What is the total?", [], problem)
                  for path in (BASE, folder / "native"))  # fmt: skip
    largest = max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))
    return {"ok": largest == 0, "rows": [{"scores": sum(map(len, one)), "largest": largest}]}


PARTS = {part.__name__: part for part in (packing, rl, attention, profile, desk, scores, converted)}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("part", choices=PARTS, help="what to check")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/gpu"), help="folder for <part>.json")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, for a CPU")
    parser.add_argument("--train_only", action="store_true", help="desk: make the rows and train, compare nothing")
    args = parser.parse_args()
    args.output_dir = args.output_dir.absolute()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.backends.cudnn.allow_tf32 = False  # the patch embedding: float32 means float32 here
    result = PARTS[args.part](args)
    if result:
        write_json(args.output_dir / f"{args.part}.json", result)
        print(result)
        if not result["ok"]:
            raise cli.Fault(f"{args.part}: out of bounds, see {args.output_dir / args.part}.json")


if __name__ == "__main__":
    cli.run(main)
