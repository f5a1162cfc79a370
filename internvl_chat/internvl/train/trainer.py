"""A transformers Trainer whose loss is normalised by the number of targets in the global batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer

from mm_prm.prm_model import soft_label_loss


class FinetuneTrainer(Trainer):
    """`vocabulary` holds the ids of Yes and No for the PRM objective, None for SFT.

    The loss is the sum over all targets divided by their number in the global batch, so the result does not depend
    on how samples are split over processes and accumulation steps.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, vocabulary: Tensor | None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.vocabulary = vocabulary

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Tensor]:
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(len(batch["targets"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(count).sum()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        targets = inputs.pop("targets")
        if self.vocabulary is None:
            logits = model(**inputs)  # [targets, vocabulary]
            total = F.cross_entropy(logits, targets, reduction="sum")
        else:
            logits = model(**inputs, vocabulary=self.vocabulary.to(targets.device))  # [targets, 2]
            total = soft_label_loss(logits, targets)
        # Data parallelism averages the gradients of the processes; the factor turns that mean back into a sum.
        items = len(targets) if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        loss = total / items
        return (loss, {"logits": logits}) if return_outputs else loss
