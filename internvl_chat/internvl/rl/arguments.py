"""Every flag of stage 7; the papers' values are the defaults of the launch scripts."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from internvl.rl.advantages import ADVANTAGES
from internvl.rl.objectives import ALGORITHMS, Parameters
from internvl.rl.rewards import PRM_MODES, Weights
from mm_prm import cli
from mm_prm.judge import add_judge_flags
from mm_prm.prm_format import STEP_FORMATS
from mm_prm.servers import add_endpoint_flag, add_outage_flag

# Largest |log-probability served - trained| in a step. In float32 the two agree to some 1e-6; in bfloat16 two kernels
# may differ in every digit of an unlikely token, so only gross faults can be told.
MAX_MISMATCH = {torch.float32: 1e-3, torch.bfloat16: 5.0}


def truth(text: str) -> bool:
    """argparse type: True or False, as the fine-tune script's flags have it."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"must be True or False, got {text}")
    return text == "True"


def add_problem_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_name_or_path", required=True, help="policy to start from, a native InternVL checkpoint"
    )
    parser.add_argument("--seed_file", type=Path, required=True, help="problems with answers to check, a JSON list")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="folder for checkpoints, logs and the new policy"
    )
    add_endpoint_flag(parser)
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
    add_outage_flag(parser)


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


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    parser = cli.Parser(description)
    for add in (add_problem_flags, add_objective_flags, add_sampling_flags, add_training_flags, add_judge_flags):
        add(parser)
    return parser


def parse_args(description: str) -> argparse.Namespace:
    """The flags, checked against one another. description: of the help text."""
    parser = make_parser(description)
    args = parser.parse_args()
    args.advantage = args.advantage or ALGORITHMS[args.algorithm].advantage
    if args.max_mismatch is None:
        args.max_mismatch = MAX_MISMATCH[torch.bfloat16 if args.bf16 else torch.float32]
    if args.prm_mode != "none" and not args.prm:
        parser.error(f"--prm_mode {args.prm_mode} needs --prm")
    if args.prm and args.prm_mode == "none":
        parser.error("--prm needs a --prm_mode: what its scores add to the reward")
    if args.prm and not args.accuracy_weight:
        parser.error("--accuracy_weight 0: a PRM's scores alone are no reward, a policy learns to please the PRM")
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
