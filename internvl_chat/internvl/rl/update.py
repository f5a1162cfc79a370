"""Packed rows -> log-probabilities of the drawn ids -> optimizer steps.

The log-probabilities are computed some positions at a time and again in the backward pass: no logits over the whole
vocabulary are kept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from transformers.integrations import is_deepspeed_zero3_enabled

from internvl.rl.objectives import LARGEST_LOG_RATIO, held, token_loss
from internvl.rl.rows import Row
from internvl.train.trainer import flops_of_micro_batch
from mm_prm.prm_model import position_hidden

CHUNK = 1024  # positions whose logits exist at once: 0.6 GB in float32 with a vocabulary of 150,000


# ---------------------------------------------------------------- log-probabilities of the drawn tokens


def chunk_logprobs(weight: Tensor, hidden: Tensor, targets: Tensor, temperature: float, entropy: bool) -> Tensor:
    """Log-probability of each target, and where asked for the entropy at its place, float32: [positions, 1 or 2]."""
    logits = F.linear(hidden, weight).float()
    if temperature != 1:
        logits = logits / temperature
    logprobs = -F.cross_entropy(logits, targets, reduction="none")  # one pass forwards and one backwards
    if not entropy:
        return logprobs[:, None]
    with torch.no_grad():
        normaliser = logits.gather(1, targets[:, None])[:, 0] - logprobs
        spread = normaliser - (logits.softmax(dim=-1) * logits).sum(dim=-1)
    return torch.stack([logprobs, spread], dim=1)


def head_logprobs(self: nn.Linear, hidden: Tensor, targets: Tensor, temperature: float, entropy: bool) -> Tensor:
    """chunk_logprobs of all positions. In one forward of the head, so that ZeRO-3 gathers its weight as often on every
    process, however long its row is. hidden: [positions, width]; returns [positions, 1 or 2]."""
    pieces = zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
    return torch.cat(
        [
            checkpoint(chunk_logprobs, self.weight, h, ids, temperature, entropy, use_reentrant=False)
            for h, ids in pieces
        ]
    )


def drawn_logprobs(
    self: Any, *, targets: Tensor, temperature: float = 1.0, entropy: bool = False, **row: Tensor
) -> Tensor:
    """row: what `position_hidden` takes; targets: the id drawn after every wanted position. Returns [positions, 1], or
    with the entropy [positions, 2]."""
    return self.lm_head(position_hidden(self, **row), targets, temperature, entropy)


def with_drawn_logprobs(model: Any) -> Any:
    """The model of `load_model` with `drawn_logprobs` as its forward."""
    model.forward = MethodType(drawn_logprobs, model)
    model.lm_head.forward = MethodType(head_logprobs, model.lm_head)
    return model


# ---------------------------------------------------------------- the learner


@dataclass(frozen=True)
class Objective:
    """algorithm: a row of ALGORITHMS; parameters: of its token loss; kl_coef: weight of the divergence from the policy
    that training began with."""

    algorithm: str
    parameters: dict[str, float]
    kl_coef: float = 0.0
    temperature: float = 1.0
    max_grad_norm: float = 1.0  # 0: not clipped


class Learner:
    """A model under accelerate (plain, DDP or DeepSpeed) with its optimizer, and what its updates showed."""

    def __init__(
        self, accelerator: Accelerator, model: Any, optimizer: Any, objective: Objective, reference: Any = None
    ):
        self.accelerator, self.objective, self.reference = accelerator, objective, reference
        self.base = model
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.dtype = next(model.parameters()).dtype
        self.model.train()

    def forward(self, model: Any, row: Row, entropy: bool = False) -> Tensor:
        """Log-probability, and the entropy where asked for, at every drawn token: [positions, 1 or 2]."""
        inputs = {
            name: tensor.to(self.accelerator.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in row.inputs.items()
        }
        return model(**inputs, temperature=self.objective.temperature, entropy=entropy)

    @torch.no_grad()
    def old(self, rows: Sequence[Row]) -> dict[str, float]:
        """Fill in what the policy that drew the answers says to them. Returns what this process saw."""
        for row in rows:
            row.old, row.entropy = self.forward(self.model, row, entropy=True).float().cpu().unbind(dim=1)
            if self.reference is not None:
                row.reference = self.forward(self.reference, row)[:, 0].float().cpu()
        apart = torch.cat([(row.served - row.old).abs() for row in rows])
        return {"mismatch": apart.max().item(), "mismatch_sum": apart.sum().item(), "tokens": len(apart)} | {
            "entropy_sum": sum(row.entropy.sum().item() for row in rows)
        }

    def losses(self, row: Row, logprobs: Tensor) -> Tensor:
        """[answers, tokens] of one row, before they are averaged. logprobs: [positions]."""
        objective, device = self.objective, logprobs.device
        new, old = row.table(logprobs), row.table(row.old).to(device)
        losses = token_loss(objective.algorithm, new, old, row.advantages.to(device), **objective.parameters)
        if objective.kl_coef:
            apart = (row.table(row.reference).to(device) - new).clamp(max=LARGEST_LOG_RATIO)
            losses = losses + objective.kl_coef * (apart.exp() - 1 - apart)
        return losses

    def step(self, rows: Sequence[Row], means: int, learning_rate: float) -> dict[str, float]:
        """One optimizer step. rows: this process's share; means: of `means_in`, for all processes' rows together."""
        for settings in self.optimizer.param_groups:
            settings["lr"] = learning_rate
        seen = [self.backward(row, means, last=number == len(rows) - 1) for number, row in enumerate(rows)]
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.objective.max_grad_norm or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()
        names = ("loss", "clipped", "trained", "flops")
        totals = {name: sum(part[name] for part in seen) for name in names}
        return totals | {"ratio_max": max(part["ratio_max"] for part in seen), "gradient_norm": float(norm)}

    def backward(self, row: Row, means: int, last: bool) -> dict[str, float]:
        """One row's gradients; those of the step's last one are shared between the processes."""
        accelerator = self.accelerator
        accelerator.sync_gradients = last
        alone = isinstance(self.model, DistributedDataParallel) and not last
        with self.model.no_sync() if alone else contextlib.nullcontext():
            logprobs = self.forward(self.model, row)[:, 0]
            losses, mask = self.losses(row, logprobs), row.mask().to(logprobs.device)
            weights = row.weights[:, None].to(logprobs.device)
            loss = (losses.masked_fill(~mask, 0) * weights).sum() / max(means, 1)
            # Data parallelism averages the gradients of the processes; the factor turns that mean back into a sum.
            accelerator.backward(loss * accelerator.num_processes)
        tokens, tiles = row.inputs["input_ids"].shape[1], len(row.inputs.get("pixel_values", ()))
        flops = flops_of_micro_batch(self.base, tokens, tiles)
        return {"loss": loss.item(), "flops": flops, **self.ratios(row, logprobs.detach().cpu())}

    def ratios(self, row: Row, logprobs: Tensor) -> dict[str, float]:
        """The largest rho among the tokens that are trained on, how many there are, and how many the clip holds."""
        mask, log_ratio = row.mask(), row.table(logprobs - row.old)
        clipped = held(self.objective.algorithm, log_ratio, row.advantages, **self.objective.parameters) & mask
        largest = log_ratio[mask].max().exp().item() if mask.any() else 1.0
        return {"ratio_max": largest, "trained": int(mask.sum()), "clipped": int(clipped.sum())}

    def export(self, folder: str) -> None:
        """Write the weights as a checkpoint; every process takes part."""
        accelerator = self.accelerator
        state = accelerator.get_state_dict(self.model) if is_deepspeed_zero3_enabled() else None
        if accelerator.is_main_process:
            self.base.save_pretrained(folder, state_dict=state)
        accelerator.wait_for_everyone()
