"""Groups of answers -> packed rows -> log-probabilities -> optimizer steps.

A row holds a prompt's picture and question once for all its answers, and one prompt or several. The log-probabilities
of the drawn ids are computed some positions at a time and again in the backward pass: no logits over the whole
vocabulary are kept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers.integrations import is_deepspeed_zero3_enabled

from internvl.rl.objectives import LARGEST_LOG_RATIO, token_loss, token_weights
from internvl.train.trainer import flops_of_micro_batch
from mm_prm.cli import Fault
from mm_prm.packing import Packed, common_length
from mm_prm.prm_format import IMAGE_CONTEXT, Encoded, Encoder, defuse
from mm_prm.prm_model import image_tiles, position_hidden, row_tensors
from mm_prm.prompts import policy_prompt

if TYPE_CHECKING:  # updates need neither a server nor a judge, nor what these import
    from internvl.rl.draw import Group

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


# ---------------------------------------------------------------- rows


@dataclass
class Row:
    """The answers of one prompt or several. inputs: for `drawn_logprobs`; prompts: number of an answer's prompt;
    lengths: tokens of each answer; counts: whether it is trained on; served, old, reference: log-probabilities of the
    drawn tokens, [positions]; entropy: [positions]."""

    inputs: dict[str, Tensor]
    prompts: list[int]
    lengths: list[int]
    counts: list[bool]
    advantages: Tensor
    served: Tensor
    old: Tensor = field(default_factory=lambda: torch.empty(0))
    reference: Tensor = field(default_factory=lambda: torch.empty(0))
    entropy: Tensor = field(default_factory=lambda: torch.empty(0))

    def table(self, values: Tensor) -> Tensor:
        """[positions] -> [answers, tokens], 0 behind the end of an answer."""
        return pad_sequence(values.split(self.lengths), batch_first=True)


def counted(group: Group) -> list[bool]:
    """Which answers are trained on: those that have a reward."""
    return [answer.reward == answer.reward for answer in group.answers]


def token_mask(lengths: Sequence[int], counts: Sequence[bool]) -> Tensor:
    """The tokens that are trained on: [answers, tokens]."""
    limits = torch.tensor([length * count for length, count in zip(lengths, counts, strict=True)])
    return torch.arange(max(lengths))[None] < limits[:, None]


def means_in(name: str, groups: Sequence[Group]) -> int:
    """How many prompts or answers the loss of these groups is the mean of."""
    lengths = [[len(answer.ids) for answer in group.answers] for group in groups]
    masks = [token_mask(length, counted(group)) for length, group in zip(lengths, groups, strict=True)]
    return sum(int(token_weights(name, mask, [0] * len(mask))[1]) for mask in masks)


class RowMaker:
    """Groups -> rows, for one processor and one format of the policy's answers."""

    def __init__(self, processor: Any, step_format: str):
        self.processor, self.step_format = processor, step_format
        self.encoder = Encoder(processor.tokenizer, marker=False)
        self.image_token = processor.tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)

    def __call__(self, *groups: Group) -> Row:
        """Raises Fault when the server read a prompt otherwise than the trainer does."""
        packed, tiles, places = Packed(), list[Tensor](), list[int]()
        for group in groups:
            prompt, pictures = group.prompt_ids, self.pictures(group)
            # A prompt comes first in its tree. Its own image tokens are its pictures'; one in an answer was drawn.
            start = len(packed.input_ids)
            places += [
                start + at for at, token in enumerate(prompt) if token == self.image_token and pictures is not None
            ]
            tiles += [] if pictures is None else [pictures]
            packed.add([encoded(prompt, answer.ids) for answer in group.answers])
        inputs, answers = row_tensors(packed, tiles), [answer for group in groups for answer in group.answers]
        inputs["targets"] = torch.tensor([token for answer in answers for token in answer.ids])
        inputs |= {"image_places": torch.tensor(places)} if tiles else {}
        return Row(
            inputs,
            [number for number, group in enumerate(groups) for _ in group.answers],
            [len(answer.ids) for answer in answers],
            [count for group in groups for count in counted(group)],
            torch.tensor([answer.advantage for answer in answers]),
            torch.tensor([logprob for answer in answers for logprob in answer.logprobs]),
        )

    def pictures(self, group: Group) -> Tensor | None:
        """The prompt's tiles, as the trainer reads it."""
        problem = group.problem
        pixel_values, image_tokens = image_tiles(self.processor, problem.images)
        text = policy_prompt(defuse(problem.question), step_format=self.step_format)
        asked = self.encoder.sft(text, "", image_tokens)
        ours, prompt = asked.input_ids[: asked.target_start], group.prompt_ids
        if ours != prompt:
            at = common_length(ours, prompt)
            said = f"{len(prompt)} tokens at the server, {len(ours)} here, the first different one at {at}"
            raise Fault(f"problem {problem.id}: server and trainer read the prompt differently ({said})")
        return pixel_values


def encoded(prompt: list[int], answer: list[int]) -> Encoded:
    """A sequence of which the positions before the answer's tokens are wanted."""
    return Encoded(prompt + answer, list(range(len(prompt) - 1, len(prompt) - 1 + len(answer))))


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
        """One optimizer step. rows: this process's share; means: `means_in` all processes' rows together."""
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
            losses, mask = self.losses(row, logprobs), token_mask(row.lengths, row.counts).to(logprobs.device)
            weights, _ = token_weights(self.objective.algorithm, mask, row.prompts)
            loss = (losses.masked_fill(~mask, 0) * weights).sum() / max(means, 1)
            # Data parallelism averages the gradients of the processes; the factor turns that mean back into a sum.
            accelerator.backward(loss * accelerator.num_processes)
        tokens, tiles = row.inputs["input_ids"].shape[1], len(row.inputs.get("pixel_values", ()))
        flops = flops_of_micro_batch(self.base, tokens, tiles)
        return {"loss": loss.item(), "flops": flops, **self.ratios(row, logprobs.detach().cpu())}

    def ratios(self, row: Row, logprobs: Tensor) -> dict[str, float]:
        """The largest rho among the tokens that are trained on, how many there are, and how many the clip holds."""
        mask = token_mask(row.lengths, row.counts)
        log_ratio, good = row.table(logprobs - row.old), row.advantages[:, None] > 0
        rho, clip = log_ratio.exp(), self.objective.parameters["clip"]
        held = torch.where(good, rho > 1 + clip, rho < 1 - clip) & (row.advantages[:, None] != 0)
        largest = rho[mask].max().item() if mask.any() else 1.0
        return {"ratio_max": largest, "trained": int(mask.sum()), "clipped": int((held & mask).sum())}

    def export(self, folder: str) -> None:
        """Write the weights as a checkpoint; every process takes part."""
        accelerator = self.accelerator
        state = accelerator.get_state_dict(self.model) if is_deepspeed_zero3_enabled() else None
        if accelerator.is_main_process:
            self.base.save_pretrained(folder, state_dict=state)
        accelerator.wait_for_everyone()
