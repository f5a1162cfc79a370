"""A transformers Trainer over packed micro-batches: loss per target of the global batch, rates, held-out metrics."""

from __future__ import annotations

import math
import resource
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import Trainer

from internvl.train.batches import MicroBatches
from internvl.train.label_losses import LABEL_LOSSES, evidence
from mm_prm.cpu import Threads
from mm_prm.prm_model import load_model
from mm_prm.statistics import auroc


def newest_checkpoint(folder: Path, last_file: str) -> Path | None:
    """The newest whole checkpoint-N to go on from; one without the file that is written last was cut short."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{last_file}")]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


# Dense bfloat16 peak of a GPU in FLOP/s, by a word of its name (vendors' data sheets)
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "H800": 989e12, "B200": 2250e12, "A100": 312e12, "A800": 312e12}
PEAK_FLOPS |= {"L40S": 362e12, "4090": 165e12, "5090": 210e12}


def peak_flops() -> float | None:
    """Of this machine's GPU; None without one, or when its name is not known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((value for word, value in PEAK_FLOPS.items() if word in name), None)


def parameter_count(part: nn.Module, trained: bool = False) -> int:
    """Parameters of a part, or the trained ones; ZeRO-3 keeps their number aside."""
    chosen = (p for p in part.parameters() if p.requires_grad or not trained)
    return sum(getattr(p, "ds_numel", p.numel()) for p in chosen)


def flops_of_micro_batch(model: Any, tokens: int, tiles: int) -> float:
    """Floating-point operations of forward and backward, estimated: 2 per parameter and token forward, as many
    backward through what lies behind a trained part, as many again for the trained parameters. Attention scores,
    embeddings and the head are left out."""
    vision = model.config.vision_config
    patches = tiles * (vision.image_size[0] // vision.patch_size[0]) ** 2
    tower, text = model.model.vision_tower, model.model.language_model
    early = any(p.requires_grad for part in (tower, model.model.multi_modal_projector) for p in part.parameters())
    total = 0.0
    for part, steps, behind in ((tower, patches, False), (text.layers, tokens, True)):
        size, trained = parameter_count(part), parameter_count(part, trained=True)
        through = size if trained or (behind and early) else 0
        total += 2 * steps * (size + through + trained)
    return total


def peak_memory() -> float:
    """Largest memory this process has held so far, GiB: the GPU's, or resident memory without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def label_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy on right steps (label >= 0.5) and wrong ones, and the area under the ROC curve.

    scores: P(Yes), labels: soft labels, each [labels]. NaN where a class is empty.
    """
    right = labels >= 0.5
    area = auroc(scores.numpy(), right.numpy())
    return {
        "accuracy_right": (scores[right] >= 0.5).double().mean().item(),
        "accuracy_wrong": (scores[~right] < 0.5).double().mean().item(),
        "auroc": math.nan if area is None else area,
    }


class FinetuneTrainer(Trainer):
    """`vocabulary` holds the ids of Yes and No for the PRM objective, None for SFT. Datasets are lists of rows.

    The loss is the sum over all targets divided by their number in the global batch (or by that of the rollouts behind
    them, see `label_losses`), so it does not depend on how rows are split over processes and accumulation steps.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, vocabulary: Tensor | None, pack: bool, label_loss: str = "soft", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.vocabulary, self.pack, self.label_loss = vocabulary, pack, label_loss
        self.base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        # Targets, tokens, flops, dropped targets, what losses are divided by; over all processes
        self.seen = torch.zeros(5, dtype=torch.float64)
        self.reported, self.reported_at = self.seen, time.monotonic()
        self.threads = Threads()

    def get_train_dataloader(self) -> DataLoader:
        return self._loader(self.train_dataset, self.args.train_batch_size, self.args.gradient_accumulation_steps)

    def _loader(self, rows: Any, per_device: int, accumulation: int) -> DataLoader:
        args = self.args
        # Each process takes its own share: accelerate would cut a problem's paths apart.
        batches = MicroBatches(
            rows, per_device, accumulation, args.world_size, args.process_index, self.pack, args.data_seed or args.seed
        )
        return DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Tensor]:
        self.threads.adjust()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.zeros(5, dtype=torch.float64)
        for batch in batches:
            tokens, tiles = batch["input_ids"].shape[1], len(batch.get("pixel_values", ()))
            flops = flops_of_micro_batch(self.base, tokens, tiles)
            found = [len(batch["targets"]), tokens, flops, batch.pop("dropped"), self.divisor(batch)]
            counts += torch.tensor(found, dtype=torch.float64)
        counts = self.accelerator.reduce(counts.to(device), "sum").cpu()
        self.seen = self.seen + counts
        # At least one: truncation may have cut off every target.
        return batches, counts[4].clamp(min=1).to(device, torch.float32)

    def divisor(self, batch: dict[str, Any]) -> float:
        """A micro-batch's part of what the summed loss is divided by."""
        return float(evidence(self.label_loss, batch["counts"])) if "counts" in batch else len(batch["targets"])

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        total, _ = self.summed_loss(model, inputs)
        # Data parallelism averages the gradients of the processes; the factor turns that mean back into a sum.
        return total * self.accelerator.num_processes / num_items_in_batch

    def summed_loss(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Summed loss and logits of one micro-batch."""
        inputs = {name: tensor for name, tensor in inputs.items() if name != "dropped"}
        targets, counts = inputs.pop("targets"), inputs.pop("counts", None)
        if self.vocabulary is None:
            logits = model(**inputs)  # [targets, vocabulary]
            return F.cross_entropy(logits, targets, reduction="sum"), logits
        logits = model(**inputs, vocabulary=self.vocabulary.to(targets.device))  # [targets, 2]
        return LABEL_LOSSES[self.label_loss](logits, targets, counts), logits

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # Trainer loads the file's names as they are, without an error: a native InternVL is saved under others.
        if self.base is not self.model:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        saved = load_model(resume_from_checkpoint, next(self.model.parameters()).dtype)
        self.model.load_state_dict(saved.state_dict())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.rates()
        super().log(logs, start_time)

    def rates(self) -> dict[str, float]:
        """Since the last call, over all processes: labels and tokens per second, share of the GPUs' peak; memory."""
        now = time.monotonic()
        targets, tokens, flops, *_ = ((self.seen - self.reported) / (now - self.reported_at)).tolist()
        self.reported, self.reported_at = self.seen, now
        peak = peak_flops()
        return {
            **({} if self.vocabulary is None else {"labels_per_second": round(targets, 1)}),
            "tokens_per_second": round(tokens, 1),
            **({"mfu": round(flops / peak / self.args.world_size, 4)} if peak else {}),
            "peak_memory_gib": round(peak_memory(), 2),
        }

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss on the held-out rows; for a PRM also `label_metrics`."""
        started = time.monotonic()
        self.model_wrapped.eval()
        totals, scores, labels = [], [], []
        for batch in self._loader(eval_dataset or self.eval_dataset, self.args.per_device_eval_batch_size, 1):
            batch = self._prepare_inputs(batch)
            with self.compute_loss_context_manager():
                total, batch_logits = self.summed_loss(self.model_wrapped, batch)
            totals.append((total.item(), self.divisor(batch)))
            if self.vocabulary is not None:
                scores += batch_logits.softmax(-1)[:, 0].tolist()
                labels += batch["targets"].tolist()
        losses, counts = zip(*gather_object(totals), strict=True)
        metrics = {"loss": sum(losses) / max(sum(counts), 1)}
        if self.vocabulary is not None:
            metrics |= label_metrics(torch.tensor(gather_object(scores)), torch.tensor(gather_object(labels)))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        control = self.control  # type: ignore[has-type]
        self.control = self.callback_handler.on_evaluate(self.args, self.state, control, metrics)
        self.reported_at += time.monotonic() - started  # an evaluation is not training time
        return metrics
