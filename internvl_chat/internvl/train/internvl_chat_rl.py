"""Make a policy better by rule-based reinforcement learning.

    torchrun --nproc_per_node 8 \\
        internvl_chat/internvl/train/internvl_chat_rl.py \\
        --model_name_or_path work_dirs/mm_policy --seed_file seed.json \\
        --output_dir work_dirs/mm_policy_rl --algorithm cpgd \\
        --policy_endpoint http://127.0.0.1:8000/v1 \\
        --deepspeed internvl_chat/zero_stage1_config.json --bf16 True

From seed problems and a policy (native InternVL) that vLLM serves as well. A
step draws answers, has them judged, weighs them, updates the policy and gives
its weights to the servers. The launch scripts under
internvl_chat/shell/internvl2.5/rl start the servers too. The finished policy
lies in --output_dir; train_results.json is written last. An interrupted run
goes on from its last checkpoint-N.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs
from transformers import set_seed
from transformers.utils import logging

from internvl.rl.arguments import parse_args
from internvl.rl.loop import Run
from internvl.rl.objectives import Parameters
from internvl.rl.outside import Outside
from internvl.rl.processes import PATIENCE, Processes
from internvl.rl.rows import RowMaker
from internvl.rl.update import Learner, Objective, with_drawn_logprobs
from internvl.train.arguments import ModelArguments
from internvl.train.internvl_chat_finetune import prepare_model
from mm_prm import cli
from mm_prm.files import read_json, read_jsonl, write_json
from mm_prm.prm import Prm
from mm_prm.prm_model import KEPT, load_config, load_model, load_processor
from mm_prm.records import Problem, read_seed

# What a run may be gone on with: servers, files, and what changes a step by no more than rounding
FREE_FLAGS = {"output_dir", "policy_endpoint", "api_endpoint", "max_outage", "weights_dir", "save_every"}
FREE_FLAGS |= {"row_tokens", "row_prompts", "grad_checkpoint", "packed_attention"}


def deepspeed_plugin(path: Path, hidden: int, max_grad_norm: float) -> DeepSpeedPlugin:
    """The configuration of stage 5, with what the Trainer fills in there."""
    config = read_json(path)
    # A micro-batch is a row, and the loop says itself which one is an optimizer step's last.
    config |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    config["gradient_clipping"] = max_grad_norm
    zero = config["zero_optimization"]
    sizes = {
        "reduce_bucket_size": hidden * hidden,
        "stage3_prefetch_bucket_size": int(0.9 * hidden * hidden),
        "stage3_param_persistence_threshold": 10 * hidden,
    }
    zero |= {name: size for name, size in sizes.items() if zero.get(name) == "auto"}
    return DeepSpeedPlugin(hf_ds_config=config)


def make_accelerator(args: argparse.Namespace, hidden: int) -> Accelerator:
    plugin = deepspeed_plugin(args.deepspeed, hidden, args.max_grad_norm) if args.deepspeed else None
    return Accelerator(
        cpu=not (torch.cuda.is_available() or plugin),  # with DeepSpeed, DS_ACCELERATOR=cpu says so
        mixed_precision="bf16" if args.bf16 else "no",
        deepspeed_plugin=plugin,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


def make_learner(args: argparse.Namespace, accelerator: Accelerator) -> Learner:
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    zero3 = args.deepspeed and accelerator.deepspeed_plugin.zero_stage == 3
    for flag, value in (("--kl_coef", args.kl_coef), ("--prm_mode", args.prm_mode != "none")):
        if value and zero3:
            raise cli.BadInput(
                f"{flag}: its model is kept whole on every GPU, which ZeRO-3 would spread out; use ZeRO-1"
            )
    model = load_model(args.model_name_or_path, dtype, args.packed_attention)
    frozen = ModelArguments(args.model_name_or_path, freeze_mlp=args.freeze_mlp, freeze_backbone=args.freeze_backbone)
    model = with_drawn_logprobs(prepare_model(model, frozen))
    model.config.use_cache = False
    if args.grad_checkpoint:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    reference = None
    if args.kl_coef:
        reference = with_drawn_logprobs(load_model(args.model_name_or_path, dtype, args.packed_attention))
        reference = reference.requires_grad_(False).eval().to(accelerator.device)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        weight_decay=args.weight_decay,
    )
    parameters = {name: getattr(args, name) for name in Parameters.__dataclass_fields__}
    objective = Objective(args.algorithm, parameters, args.kl_coef, args.temperature, args.max_grad_norm)
    return Learner(accelerator, model, optimizer, objective, reference)


def check_sizes(args: argparse.Namespace, processes: int) -> None:
    """Every optimizer step takes as many prompts, and every process as many of them."""
    if args.prompts % (args.updates_per_rollout * processes):
        raise cli.BadInput(
            f"--prompts {args.prompts}: not a multiple of --updates_per_rollout {args.updates_per_rollout} "
            f"x {processes} processes"
        )


def check_settings(args: argparse.Namespace, processes: int) -> None:
    """What decides the steps stands in settings.json: a run is gone on with as it was begun."""
    own = {name: value for name, value in vars(args).items() if name not in FREE_FLAGS} | {"processes": processes}
    own = json.loads(json.dumps(own, default=str))
    path = args.output_dir / "settings.json"
    before = read_json(path) if path.exists() else own
    if other := sorted(name for name in {*own, *before} - FREE_FLAGS if own.get(name) != before.get(name)):
        raise cli.BadInput(f"{args.output_dir} was begun with another --{', --'.join(other)}; use another --output_dir")
    write_json(path, own)


def save_final(run: Run, processor: Any) -> None:
    """The policy beside its processor, then train_results.json."""
    args, output = run.args, run.output
    run.learner.export(str(output))
    if run.processes.rank > 0:
        return
    processor.save_pretrained(output)
    if (kept := Path(args.model_name_or_path) / KEPT).exists():
        shutil.copytree(kept, output / KEPT, dirs_exist_ok=True)
    steps = [row for row in read_jsonl(output / "steps.jsonl") if row["step"]]
    write_json(
        output / "train_results.json",
        {
            "algorithm": args.algorithm,
            "advantage": args.advantage,
            "steps": len(steps),
            "pass_at_1_before": run.first_pass_at_1,
            "pass_at_1": steps[-1].get("pass_at_1"),
            "mismatch": max(row["mismatch"] for row in steps),
            "engine": type(run.learner.model).__name__,
        },
    )


def read_problems(args: argparse.Namespace) -> tuple[list[Problem], list[Problem]]:
    """Training and held-out problems; a problem that is in both is refused."""
    problems, skipped = read_seed(args.seed_file, args.skip_invalid)
    for line in skipped:
        print(f"skipped: {line}")
    held_out = read_seed(args.eval_file)[0] if args.eval_file else []
    if both := {problem.key for problem in problems} & {problem.key for problem in held_out}:
        raise cli.BadInput(
            f"{args.eval_file}: {len(both)} of its problems are in {args.seed_file}: they are not held out"
        )
    return problems, held_out


def main() -> None:
    args = parse_args(__doc__)
    if (args.output_dir / "train_results.json").exists():
        print(f"{args.output_dir}: finished already; another --output_dir trains anew")
        return
    set_seed(args.seed)
    logging.set_verbosity_error()  # weights are written in every step, each time with a bar and a line about tied ones
    logging.disable_progress_bar()
    logging.get_logger("accelerate.utils.other").setLevel("ERROR")  # the same line for every checkpoint
    problems, held_out = read_problems(args)
    cli.end_of_check()
    hidden = load_config(args.model_name_or_path).text_config.hidden_size
    accelerator = make_accelerator(args, hidden)
    processes = Processes(accelerator)
    check_sizes(args, processes.count)
    processor = load_processor(args.model_name_or_path)
    prm = Prm.load(args.prm) if args.prm_mode != "none" else None
    outside = Outside(args) if processes.rank == 0 else None
    rows = RowMaker(processor, args.step_format)
    run = Run(args, make_learner(args, accelerator), processes, outside, rows, prm)
    processes.first_does(lambda: check_settings(args, processes.count))  # behind all that may be refused
    try:
        run.train(problems, held_out)
    finally:
        if outside:
            outside.close()
    save_final(run, processor)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    cli.run(main)
