"""Rewards -> advantages: how much better an answer was than what was to be expected.

rewards: [prompts, answers], the whole batch of a rollout. NaN marks an answer nobody could judge: it is in no mean and
its advantage is 0. Where all rewards that count are equal, so are the advantages: 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STD_EPSILON = 1e-9  # added to a prompt's std (released code)
SMALLEST_VARIANCE = 1e-8  # of a whitened batch (released code)
LARGEST_FILTER_WEIGHT = 3.0  # arXiv 2505.12504


def centred(rewards: Tensor) -> Tensor:
    """R - mean of the prompt's answers; exactly 0 where they are all equal, and for those without a reward."""
    known = ~rewards.isnan()
    differences = rewards - rewards.nanmean(dim=1, keepdim=True)
    return torch.where(known & varied(rewards), differences, 0)


def varied(rewards: Tensor) -> Tensor:
    """Which prompts have answers of different rewards: [prompts, 1]. A comparison, which no rounding disturbs."""
    low, high = rewards.nan_to_num(nan=torch.inf), rewards.nan_to_num(nan=-torch.inf)
    return high.amax(dim=1, keepdim=True) > low.amin(dim=1, keepdim=True)


def others(rewards: Tensor) -> Tensor:
    """Number of a prompt's other answers with a reward, at least 1: [prompts, 1]."""
    return ((~rewards.isnan()).sum(dim=1, keepdim=True) - 1).clamp(min=1)


def std(rewards: Tensor) -> Tensor:
    """(R - mean) / (std + 1e-9), std with n - 1 in the denominator, as the released code has it (GRPO, CPGD)."""
    differences = centred(rewards)
    spread = (differences.square().sum(dim=1, keepdim=True) / others(rewards)).sqrt()
    return differences / (spread + STD_EPSILON)


def filtered(rewards: Tensor) -> Tensor:
    """w (R - mean), w = min(3, prompts / prompts whose answers differ) (CPGD's clip-filter-like weight)."""
    weight = len(rewards) / varied(rewards).sum().clamp(min=1)
    return weight.clamp(max=LARGEST_FILTER_WEIGHT) * centred(rewards)


def whitened(rewards: Tensor) -> Tensor:
    """(R - mean) / std over the whole batch, std with n in the denominator (REINFORCE++)."""
    batch = rewards.reshape(1, -1)
    differences = centred(batch)
    variance = differences.square().sum() / (~batch.isnan()).sum().clamp(min=1)
    return (differences / variance.clamp(min=SMALLEST_VARIANCE).sqrt()).reshape(rewards.shape)


def rloo(rewards: Tensor) -> Tensor:
    """R - mean of the prompt's other answers, then whitened (RLOO as MM-Eureka uses it)."""
    known = (~rewards.isnan()).sum(dim=1, keepdim=True)
    leave_one_out = centred(rewards) * known / others(rewards)
    differences = whitened(leave_one_out.masked_fill(rewards.isnan(), torch.nan)).nan_to_num(nan=0)
    return differences.masked_fill(~varied(rewards), 0)  # the batch's mean is 0 but for rounding


ADVANTAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "std": std,
    "equal": centred,  # CPGD with equal weights
    "filter": filtered,
    "rloo": rloo,
    "whitened": whitened,
}


def advantages(name: str, rewards: Tensor) -> Tensor:
    """The advantages of a batch: [prompts, answers], as the rewards."""
    return ADVANTAGES[name](rewards if rewards.is_floating_point() else rewards.float())
