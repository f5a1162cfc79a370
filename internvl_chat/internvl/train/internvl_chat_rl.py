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

from internvl.rl.advantages import ADVANTAGES
from internvl.rl.loop import Run
from internvl.rl.objectives import ALGORITHMS, Parameters
from internvl.rl.outside import Outside
from internvl.rl.processes import PATIENCE, Processes
from internvl.rl.rewards import PRM_MODES, Weights
from internvl.rl.rows import RowMaker
from internvl.rl.update import Learner, Objective, with_drawn_logprobs
from internvl.train.arguments import ModelArguments
from internvl.train.internvl_chat_finetune import prepare_model
from mm_prm import cli
from mm_prm.files import read_json, read_jsonl, write_json
from mm_prm.judge import add_judge_flags
from mm_prm.prm_format import STEP_FORMATS
from mm_prm.prm_model import KEPT, Prm, load_config, load_model, load_processor
from mm_prm.records import Problem, read_seed
from mm_prm.servers import parse_endpoints

# Largest |log-probability served - trained| in a step. In float32 the two agree to some 1e-6; in bfloat16 two kernels
# may differ in every digit of an unlikely token, so only gross faults can be told.
MAX_MISMATCH = {torch.float32: 1e-3, torch.bfloat16: 5.0}
# What a run may be gone on with
FREE_FLAGS = ("output_dir", "policy_endpoint", "api_endpoint", "max_outage", "weights_dir", "save_every")


def truth(text: str) -> bool:
    """argparse type: True or False, as the fine-tune script's flags have it."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"must be True or False, got {text}")
    return text == "True"


def add_problem_flags(parser: argparse.ArgumentParser) -> None:
    endpoint = os.environ.get("POLICY_ENDPOINT")
    parser.add_argument(
        "--model_name_or_path", required=True, help="policy to start from, a native InternVL checkpoint"
    )
    parser.add_argument("--seed_file", type=Path, required=True, help="problems with answers to check, a JSON list")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="folder for checkpoints, logs and the new policy"
    )
    parser.add_argument(
        "--policy_endpoint",
        required=not endpoint,
        default=endpoint or None,
        type=parse_endpoints,
        help="base URL(s) of the policy's servers, comma-separated; default: POLICY_ENDPOINT",
    )
    parser.add_argument("--model", default="policy", help="name under which they serve the policy")
    parser.add_argument(
        "--skip_invalid", action="store_true", help="leave bad records of --seed_file out and list them"
    )
    parser.add_argument("--eval_file", type=Path, help="held-out problems for pass@1")
    parser.add_argument("--eval_every", type=cli.positive_int, default=10, help="steps between two evaluations")
    parser.add_argument("--eval_rollouts", type=cli.positive_int, default=4, help="answers to each held-out problem")
    parser.add_argument(
        "--drop_solved", action="store_true", help="only problems with some but not all of 8 answers right"
    )
    parser.add_argument(
        "--accuracy_bounds",
        type=cli.fraction,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="keep prompts with a mean accuracy between these, and draw until the batch is full",
    )


def add_objective_flags(parser: argparse.ArgumentParser) -> None:
    papers = Parameters()
    parser.add_argument("--algorithm", choices=list(ALGORITHMS), default="cpgd", help="internvl/rl/objectives.py")
    parser.add_argument("--advantage", choices=list(ADVANTAGES), help="default: the algorithm's own")
    for name, text in (
        ("clip", "eps of the clip"),
        ("dual_clip", "largest ratio of grpo_dual_clip"),
        ("drift_coef", "alpha of CPGD's drift"),
        ("drift_clip", "c of CPGD's drift"),
    ):
        parser.add_argument(f"--{name}", type=cli.non_negative, default=getattr(papers, name), help=text)
    parser.add_argument(
        "--kl_coef", type=cli.non_negative, default=0.0, help="weight of the divergence from the first policy; 0: none"
    )
    weights = Weights()
    parser.add_argument(
        "--accuracy_weight", type=cli.non_negative, default=weights.accuracy, help="reward of a right answer"
    )
    parser.add_argument(
        "--format_weight", type=cli.non_negative, default=weights.format, help="reward of an answer in --step_format"
    )
    parser.add_argument("--prm", help="PRM checkpoint, for --prm_mode")
    parser.add_argument("--prm_mode", choices=list(PRM_MODES), default="none", help="what its scores add to the reward")
    parser.add_argument("--prm_weight", type=cli.non_negative, default=weights.prm, help="weight of that")


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rollouts", type=cli.positive_int, default=8, help="answers to each prompt")
    parser.add_argument("--prompts", type=cli.positive_int, default=128, help="prompts of a step")
    parser.add_argument("--updates_per_rollout", type=cli.positive_int, default=8, help="optimizer steps of a step")
    parser.add_argument(
        "--row_prompts",
        type=cli.positive_int,
        default=1,
        help="prompts in one forward pass: more are faster for a small model, and need more memory",
    )
    parser.add_argument(
        "--row_tokens",
        type=cli.positive_int,
        default=16384,
        help="tokens in one forward pass: what bounds memory; a prompt's answers are split over several where they "
        "are longer together",
    )
    parser.add_argument("--passes", type=cli.non_negative, default=1.0, help="over the problems that are trained on")
    parser.add_argument("--steps", type=cli.positive_int, help="default: as many as --passes takes")
    parser.add_argument("--max_new_tokens", type=cli.positive_int, default=4096, help="longest answer in tokens")
    parser.add_argument(
        "--temperature", type=cli.non_negative, default=1.0, help="of the draws; there is no top-k or top-p"
    )
    parser.add_argument("--step_format", choices=STEP_FORMATS, default="tags", help="how the policy is asked to answer")
    parser.add_argument("--seed", type=int, default=0, help="decides the order of the problems and the draws")
    parser.add_argument(
        "--max_outage", type=cli.non_negative, default=600, help="seconds a server may stay out of reach"
    )


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--learning_rate", type=cli.non_negative, default=1e-6, help="at the first step")
    parser.add_argument(
        "--lr_scheduler_type", choices=("cosine", "constant"), default="cosine", help="cosine: down to a tenth"
    )
    parser.add_argument("--weight_decay", type=cli.non_negative, default=0.01, help="of AdamW")
    parser.add_argument("--adam_beta1", type=cli.fraction, default=0.9, help="of AdamW")
    parser.add_argument("--adam_beta2", type=cli.fraction, default=0.95, help="of AdamW")
    parser.add_argument(
        "--max_grad_norm", type=cli.non_negative, default=1.0, help="gradients are clipped to this norm; 0: not"
    )
    parser.add_argument("--freeze_backbone", type=truth, default=True, help="do not train the vision tower")
    parser.add_argument("--freeze_mlp", type=truth, default=False, help="do not train the projector")
    parser.add_argument("--grad_checkpoint", type=truth, default=False, help="recompute activations to save memory")
    parser.add_argument("--bf16", type=truth, default=False, help="train in bfloat16 (with --deepspeed)")
    parser.add_argument("--deepspeed", type=Path, help="DeepSpeed configuration; without: plain torch")
    parser.add_argument(
        "--packed_attention", choices=("segments", "flex_attention"), default="segments", help="as stage 5"
    )
    parser.add_argument("--save_every", type=cli.positive_int, default=5, help="steps between two checkpoints")
    parser.add_argument("--weights_dir", type=Path, default="/dev/shm", help="folder that the servers see as well")
    parser.add_argument(
        "--max_mismatch",
        type=cli.non_negative,
        help="largest |log-probability served - trained|; default: by precision",
    )


def make_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    for add in (add_problem_flags, add_objective_flags, add_sampling_flags, add_training_flags, add_judge_flags):
        add(parser)
    return parser


def parse_args() -> argparse.Namespace:
    parser = make_parser()
    args = parser.parse_args()
    args.advantage = args.advantage or ALGORITHMS[args.algorithm].advantage
    if args.max_mismatch is None:
        args.max_mismatch = MAX_MISMATCH[torch.bfloat16 if args.bf16 else torch.float32]
    if args.prm_mode != "none" and not args.prm:
        parser.error(f"--prm_mode {args.prm_mode} needs --prm")
    if args.rollouts < 2:
        parser.error("--rollouts must be at least 2: an answer is compared with the others of its prompt")
    if args.clip >= 1 or args.dual_clip <= 1:
        parser.error("--clip must be below 1 and --dual_clip above 1")
    if args.accuracy_bounds and args.accuracy_bounds[0] > args.accuracy_bounds[1]:
        parser.error("--accuracy_bounds: LOW is above HIGH")
    if not args.temperature:
        parser.error("--temperature must be above 0")
    if args.bf16 and not args.deepspeed:
        parser.error("--bf16 True needs --deepspeed, which keeps the optimizer's weights in float32")
    return args


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
    if path.exists() and (before := read_json(path)) != own:
        other = sorted(name for name in {*own, *before} if own.get(name) != before.get(name))
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
    args = parse_args()
    if (args.output_dir / "train_results.json").exists():
        print(f"{args.output_dir}: finished already; another --output_dir trains anew")
        return
    set_seed(args.seed)
    logging.set_verbosity_error()  # weights are written in every step, each time with a bar and a line about tied ones
    logging.disable_progress_bar()
    logging.get_logger("accelerate.utils.other").setLevel("ERROR")  # the same line for every checkpoint
    problems, held_out = read_problems(args)
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
