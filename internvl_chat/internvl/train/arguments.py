"""Every flag of the fine-tune script; transformers' own TrainingArguments come with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from internvl.train.label_losses import LABEL_LOSSES
from mm_prm.cli import BadInput
from mm_prm.cpu import cpu_dtype


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "native InternVL checkpoint to start from"})
    freeze_llm: bool = field(default=False, metadata={"help": "do not train the language model"})
    freeze_mlp: bool = field(default=False, metadata={"help": "do not train the projector"})
    freeze_backbone: bool = field(default=False, metadata={"help": "do not train the vision tower"})
    use_llm_lora: int = field(default=0, metadata={"help": "rank of LoRA adapters in the language model; 0: none"})
    drop_path_rate: float = field(default=0.0, metadata={"help": "stochastic depth in the vision tower while training"})
    packed_attention: str = field(
        default="segments",
        metadata={
            "help": "attention of the language model: pieces through torch's fused kernels, or FlexAttention (GPU)",
            "choices": ["segments", "flex_attention"],
        },
    )
    grad_checkpoint: bool = field(default=False, metadata={"help": "recompute activations to save memory"})


@dataclass
class DataArguments:
    meta_path: str = field(metadata={"help": "dataset JSON: {name: {root, annotation, repeat_time, length, ...}}"})
    objective: str = field(
        default="prm", metadata={"help": "prm: labels at <prm>; sft: the reply's tokens", "choices": ["prm", "sft"]}
    )
    label_loss: str = field(
        default="soft",
        metadata={
            "help": "soft: every label alike; binomial, beta_binomial: by the rollouts behind it (label_counts)",
            "choices": list(LABEL_LOSSES),
        },
    )
    conv_style: str = field(default="internvl2_5", metadata={"help": "conversation format", "choices": ["internvl2_5"]})
    force_image_size: int | None = field(
        default=None, metadata={"help": "side of a tile in pixels, checked against the checkpoint; default: its own"}
    )
    dynamic_image_size: bool | None = field(
        default=None, metadata={"help": "cut images into tiles by their aspect ratio; default: as the checkpoint does"}
    )
    max_dynamic_patch: int | None = field(
        default=None, metadata={"help": "largest number of tiles of one image; default: the checkpoint's"}
    )
    use_thumbnail: bool | None = field(
        default=None, metadata={"help": "add the whole image as one more tile; default: as the checkpoint does"}
    )
    max_seq_length: int = field(
        default=8192,
        metadata={"help": "longest path in tokens; what is beyond is dropped with its labels, and counted"},
    )
    pack_problems: bool | None = field(
        default=None,
        metadata={
            "help": "compute picture, question and common steps of a problem's paths once; same loss and gradients. "
            "Default: True for prm, False for sft"
        },
    )
    skip_bad_rows: int = field(default=0, metadata={"help": "leave out up to this many bad rows instead of stopping"})
    eval_fraction: float = field(
        default=0.0, metadata={"help": "share of the problems held out for loss, accuracy and AUROC"}
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "print lengths, label counts, steps and memory per GPU for ZeRO 1, 2 and 3, and exit"},
    )

    def __post_init__(self) -> None:
        if self.pack_problems is None:
            self.pack_problems = self.objective == "prm"
        if not 0 <= self.eval_fraction < 1:
            raise BadInput(f"--eval_fraction {self.eval_fraction}: must be at least 0 and below 1")
        if self.max_seq_length < 1 or self.skip_bad_rows < 0:
            raise BadInput("--max_seq_length must be at least 1, --skip_bad_rows at least 0")


@dataclass
class FinetuneArguments(TrainingArguments):
    """TrainingArguments with the paper's PRM training as defaults (section 4.1; decay and warm-up: released script)."""

    learning_rate: float = field(default=4e-6, metadata={"help": "peak learning rate"})
    num_train_epochs: float = field(default=1.0, metadata={"help": "passes over the data"})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW weight decay"})
    warmup_ratio: float = field(default=0.03, metadata={"help": "share of all steps in which the rate rises"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "shape of the rate after the warm-up"})
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "compute in bfloat16. Default: on a GPU, and on a CPU that has units for it; else float32"},
    )

    def __post_init__(self) -> None:
        if not self.warmup_steps:  # type: ignore[has-type]
            self.warmup_steps = self.warmup_ratio  # transformers reads a warmup_steps below 1 as a share
        if self.bf16 is None:  # DeepSpeed on a CPU is for tests: it trains in float32
            on_cpu = not self.deepspeed and cpu_dtype() == "bfloat16"
            self.bf16 = not self.fp16 and (torch.cuda.is_available() or on_cpu)  # type: ignore[has-type]
        self.use_cpu = self.use_cpu or not (torch.cuda.is_available() or self.deepspeed)  # type: ignore[has-type]
        super().__post_init__()
