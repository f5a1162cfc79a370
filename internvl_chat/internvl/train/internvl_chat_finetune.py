"""Train a PRM (--objective prm) or a policy (--objective sft).

    torchrun --nproc_per_node 8 \\
        internvl_chat/internvl/train/internvl_chat_finetune.py \\
        --model_name_or_path policy --output_dir work_dirs/mm_prm \\
        --meta_path internvl_chat/shell/data/prm.json \\
        --deepspeed internvl_chat/zero_stage1_config.json

From a native InternVL checkpoint and a dataset JSON. The launch scripts under
internvl_chat/shell set everything else. The finished checkpoint lies in
--output_dir; train_results.json is written last. An interrupted run goes on
from its last checkpoint-N.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import HfArgumentParser, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import IntervalStrategy

from internvl.train.arguments import DataArguments, FinetuneArguments, ModelArguments
from internvl.train.batches import Collator
from internvl.train.dataset import Row, hold_out, read_rows
from internvl.train.dry_run import meta_model, report
from internvl.train.trainer import FinetuneTrainer, newest_checkpoint
from mm_prm import cli
from mm_prm.cards import model_card
from mm_prm.files import read_json, write_atomic
from mm_prm.prm_format import MARKER
from mm_prm.prm_model import KEPT, load_config, load_model, load_processor, yes_no_ids

STATE = "trainer_state.json"  # what transformers writes last into a checkpoint-N
CARD_SETTINGS = ["num_train_epochs", "learning_rate", "lr_scheduler_type", "weight_decay", "warmup_steps", "bf16"]
CARD_SETTINGS += ["per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "seed"]


def configure_images(processor: Any, data: DataArguments, tile_size: int) -> None:
    """Let the flags override how the checkpoint cuts images; the result is saved with the trained model."""
    images = processor.image_processor
    if data.force_image_size not in (None, tile_size):
        raise cli.BadInput(f"--force_image_size {data.force_image_size}: the vision tower takes {tile_size} pixels")
    for flag, attribute in (
        (data.dynamic_image_size, "crop_to_patches"),
        (data.max_dynamic_patch, "max_patches"),
        (data.use_thumbnail, "use_thumbnail"),
    ):
        if flag is not None:
            setattr(images, attribute, flag)


def add_drop_path(vision_tower: nn.Module, rate: float) -> None:
    """Stochastic depth: layer i of n drops each of its two residual branches with probability rate * i / (n - 1).

    The native tower has none; DropPath goes behind the dropout that ends each branch.
    """
    from timm.layers import DropPath

    layers = vision_tower.encoder.layer
    for index, layer in enumerate(layers):
        probability = rate * index / max(len(layers) - 1, 1)
        layer.dropout = nn.Sequential(layer.dropout, DropPath(probability))
        layer.attention.projection_dropout = nn.Sequential(layer.attention.projection_dropout, DropPath(probability))


def prepare_model(model: Any, args: ModelArguments) -> Any:
    """Freeze, add drop path and adapters as the flags say. Returns the model to train."""
    parts = model.model
    for freeze, part in (
        (args.freeze_backbone, parts.vision_tower),
        (args.freeze_mlp, parts.multi_modal_projector),
        (args.freeze_llm, parts.language_model),
        (args.freeze_llm, model.lm_head),
    ):
        if freeze:
            part.requires_grad_(False)
    # Stochastic depth in a tower that is not trained is only noise; the released script keeps it (docs/fidelity.md).
    if args.drop_path_rate and not args.freeze_backbone:
        add_drop_path(parts.vision_tower, args.drop_path_rate)
    if args.use_llm_lora:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(
            r=args.use_llm_lora,
            lora_alpha=2 * args.use_llm_lora,
            lora_dropout=0.05,
            target_modules=r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj",
            modules_to_save=None if args.freeze_mlp else ["multi_modal_projector"],
        )
        model = get_peft_model(model, lora)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise cli.BadInput("--freeze_llm, --freeze_mlp and --freeze_backbone leave nothing to train")
    return model


def has_all_steps(checkpoint: Path, args: FinetuneArguments) -> bool:
    """Whether a checkpoint-N is the last one of this training."""
    path = checkpoint / STATE
    with cli.refusing(f"{path}: not the state of a training"):
        state = read_json(path)
        return state["global_step"] >= args.max_steps if args.max_steps > 0 else state["epoch"] >= args.num_train_epochs


def save_final(trainer: FinetuneTrainer, processor: Any, args: FinetuneArguments, start: str) -> None:
    """Write the finished checkpoint (adapters merged, in the training precision) beside its processor.

    start: the checkpoint it was trained from; what that keeps of its original format is handed on.
    """
    if not args.should_save:
        trainer.save_model(args.output_dir)  # every process takes part when the weights are spread over them
        return
    if hasattr(trainer.model, "merge_and_unload"):
        trainer.model.merge_and_unload().to(torch.bfloat16 if args.bf16 else torch.float32).save_pretrained(
            args.output_dir
        )
    else:
        if args.bf16 and not trainer.is_deepspeed_enabled:
            trainer.model.to(torch.bfloat16)
        trainer.save_model(args.output_dir)
    processor.save_pretrained(args.output_dir)
    if (Path(start) / KEPT).exists():
        shutil.copytree(Path(start) / KEPT, Path(args.output_dir) / KEPT, dirs_exist_ok=True)


def write_card(
    folder: Path, model: ModelArguments, data: DataArguments, args: FinetuneArguments, results: dict[str, Any]
) -> None:
    """README.md of the finished checkpoint: start, data, settings, results, and a licence to be filled in."""
    settings = {**vars(model), **vars(data)} | {name: getattr(args, name) for name in CARD_SETTINGS}
    start, names = str(settings.pop("model_name_or_path")), list(read_json(data.meta_path))
    write_atomic(folder / "README.md", model_card(folder.resolve().name, start, "unknown", names, settings, results))


def add_marker(model: Any, tokenizer: Any) -> None:
    """Give a tokenizer without <prm> the token; where the embedding has no spare row, it grows by the rows' mean."""
    if tokenizer.add_tokens([AddedToken(MARKER, special=True, normalized=False)]):
        rows = tokenizer.convert_tokens_to_ids(MARKER) + 1
        if rows > model.config.text_config.vocab_size:
            model.resize_token_embeddings(rows, mean_resizing=model.device.type != "meta")


def check_counts(rows: list[Row], data_args: DataArguments) -> None:
    """A loss of rollouts needs to know how many there were."""
    without = sum(row.counts is None for row in rows) if data_args.label_loss != "soft" else 0
    if without:
        needs = f"--label_loss {data_args.label_loss} needs them; traverse.py and prm_data_format.py write them"
        raise cli.BadInput(f"{data_args.meta_path}: {without} of {len(rows)} rows have no 'label_counts': {needs}")


def flags() -> tuple[ModelArguments, DataArguments, FinetuneArguments]:
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, FinetuneArguments),
        description=__doc__,
        formatter_class=cli.HelpFormatter,
        usage="%(prog)s [flags]",
        allow_abbrev=False,
    )
    with cli.refusing("these flags do not go together"):  # transformers checks them, and reads --deepspeed's file
        model_args, data_args, args, unknown = parser.parse_args_into_dataclasses(return_remaining_strings=True)
    if unknown:
        raise cli.BadInput(f"unknown flags: {' '.join(unknown)}")
    if args.n_gpu > 1:
        raise cli.BadInput(f"{args.n_gpu} GPUs in one process: start under torchrun, as shell/launch.sh does")
    if model_args.use_llm_lora and is_deepspeed_zero3_enabled():
        raise cli.BadInput("--use_llm_lora: adapters cannot be merged into weights spread by ZeRO-3, use ZeRO-1")
    return model_args, data_args, args


def open_model(model_args: ModelArguments, data_args: DataArguments, args: FinetuneArguments) -> tuple[Any, Any]:
    """(model to train, processor) as the flags say. A dry run's model has shapes and no weights."""
    processor = load_processor(model_args.model_name_or_path)
    config = load_config(model_args.model_name_or_path)
    configure_images(processor, data_args, config.vision_config.image_size[0])
    if data_args.dry_run:
        model = meta_model(config)
    else:
        dtype = torch.bfloat16 if args.deepspeed and args.bf16 else torch.float32
        model = load_model(model_args.model_name_or_path, dtype, model_args.packed_attention)
    if data_args.objective == "prm":
        add_marker(model, processor.tokenizer)
    model = prepare_model(model, model_args)
    model.config.objective, model.config.label_loss = data_args.objective, data_args.label_loss
    return model, processor


def train(
    model: Any,
    args: FinetuneArguments,
    data_args: DataArguments,
    rows: list[Row],
    held_out: list[Row],
    collator: Collator,
) -> tuple[FinetuneTrainer, dict[str, Any]]:
    """From the last checkpoint on, if there is one. Returns the trainer and what the training came to."""
    model.config.use_cache = False
    args.remove_unused_columns = False
    if held_out and args.eval_strategy == "no":
        args.eval_strategy = IntervalStrategy.EPOCH
    trainer = FinetuneTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=held_out or None,
        data_collator=collator,
        vocabulary=yes_no_ids(collator.processor.tokenizer) if data_args.objective == "prm" else None,
        pack=bool(data_args.pack_problems),
        label_loss=data_args.label_loss,
    )
    if args.should_save:
        print(f"training {data_args.objective} on {len(rows)} rows from {data_args.meta_path}", flush=True)
    begun = newest_checkpoint(Path(args.output_dir), STATE)
    result = trainer.train(resume_from_checkpoint=str(begun) if begun else None)
    if (dropped := int(trainer.seen[3])) and args.should_save:
        length = data_args.max_seq_length
        print(f"--max_seq_length {length} cut off {dropped} targets, counted in every epoch of this run")
    result.metrics["engine"] = type(trainer.model_wrapped).__name__
    return trainer, result.metrics


def main() -> None:
    model_args, data_args, args = flags()
    output = Path(args.output_dir)
    begun = newest_checkpoint(output, STATE)
    finished = (output / "train_results.json").exists() and not data_args.dry_run
    if finished and begun and has_all_steps(begun, args):  # else the results of no step, or of one too many
        print(f"{output}: finished already; another --output_dir trains anew")
        return
    set_seed(args.seed)
    rows = read_rows(data_args.meta_path, data_args.objective, args.seed, data_args.skip_bad_rows)
    check_counts(rows, data_args)
    rows, held_out = hold_out(rows, data_args.eval_fraction, args.seed)
    model, processor = open_model(model_args, data_args, args)
    collator = Collator(processor, data_args.objective, data_args.max_seq_length, bool(data_args.pack_problems))
    if data_args.dry_run:
        if args.should_save:  # one process speaks for all
            print("\n".join(report(rows, held_out, collator, model, args)))
        return
    args.gradient_checkpointing = args.gradient_checkpointing or model_args.grad_checkpoint
    trainer, results = train(model, args, data_args, rows, held_out, collator)
    save_final(trainer, processor, args, model_args.model_name_or_path)
    if args.should_save:
        write_card(output, model_args, data_args, args, results)
    trainer.save_metrics("train", results, combined=False)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    cli.run(main)
