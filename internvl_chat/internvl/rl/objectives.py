"""The policy's losses as pure functions: a loss for every token, and the mean that makes a number of them.

With log_ratio = logp - old_logp, rho = exp(log_ratio), A the advantage of the whole answer, sg the stop-gradient:

    pg              -logp A                                                          REINFORCE
    cpg             -min(log_ratio A, clip(log_ratio, log(1 - eps), log(1 + eps)) A)  CPGD without the drift
    pgd             -log_ratio A + drift                                             CPGD without the clip
    cpgd            cpg + drift                                                      arXiv 2505.12504
    grpo            -min(rho A, clip(rho, 1 - eps, 1 + eps) A)                        arXiv 2402.03300, PPO's loss
    grpo_dual_clip  grpo with rho at most 3, for either sign of A                    MM-Eureka's released code

    drift = alpha min(sg(rho) - 1, c) logp

`old` is the policy that drew the answers. The drift's gradient is that of the estimate rho - 1 - log rho of
KL(old || new): nothing at rho = 1. The clip is on its coefficient, so beyond rho = c + 1 it goes on pulling back with
constant strength; clipping the estimate itself would switch the pull off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST_LOG_RATIO = 80.0  # exp of it is finite in float32: an infinite ratio times an advantage of 0 is no number


@dataclass(frozen=True)
class Parameters:
    """clip: eps; dual_clip: largest rho; drift_coef: alpha; drift_clip: c. The papers' values."""

    clip: float = 0.2
    dual_clip: float = 3.0
    drift_coef: float = 0.01
    drift_clip: float = 2.0


# A token's loss from logp and old_logp, [answers, tokens] each, and the advantages, [answers, 1].
TokenLoss = Callable[[Tensor, Tensor, Tensor, Parameters], Tensor]


def drift(logprobs: Tensor, old_logprobs: Tensor, parameters: Parameters) -> Tensor:
    """alpha min(sg(rho) - 1, c) logp."""
    coefficient = torch.expm1((logprobs - old_logprobs).detach()).clamp(max=parameters.drift_clip)
    return parameters.drift_coef * coefficient * logprobs


def pg(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, parameters: Parameters) -> Tensor:
    """-logp A."""
    return -logprobs * advantages


def cpg(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, parameters: Parameters) -> Tensor:
    """-min(log_ratio A, clip(log_ratio, log(1 - eps), log(1 + eps)) A)."""
    log_ratio = logprobs - old_logprobs
    clipped = log_ratio.clamp(math.log1p(-parameters.clip), math.log1p(parameters.clip))
    return -torch.minimum(log_ratio * advantages, clipped * advantages)


def pgd(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, parameters: Parameters) -> Tensor:
    """-log_ratio A + drift."""
    return -(logprobs - old_logprobs) * advantages + drift(logprobs, old_logprobs, parameters)


def cpgd(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, parameters: Parameters) -> Tensor:
    """cpg + drift."""
    return cpg(logprobs, old_logprobs, advantages, parameters) + drift(logprobs, old_logprobs, parameters)


def ppo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    parameters: Parameters,
    largest: float = LARGEST_LOG_RATIO,
) -> Tensor:
    """-min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho at most exp(largest)."""
    # Before exp: the gradient of a limit behind it would be 0 times infinity for a very large ratio.
    rho = (logprobs - old_logprobs).clamp(max=largest).exp()
    clipped = rho.clamp(1 - parameters.clip, 1 + parameters.clip)
    return -torch.minimum(rho * advantages, clipped * advantages)


def ppo_dual_clip(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, parameters: Parameters) -> Tensor:
    """ppo with rho <= dual_clip."""
    return ppo(logprobs, old_logprobs, advantages, parameters, largest=math.log(parameters.dual_clip))


class Algorithm(NamedTuple):
    """advantage: its default, a name of `internvl.rl.advantages`; mean_over: `prompt` is the mean over all tokens of a
    prompt's answers, then over prompts; `answer` is the mean over the tokens of an answer, then over answers."""

    token_loss: TokenLoss
    advantage: str
    mean_over: str


ALGORITHMS: dict[str, Algorithm] = {
    # arXiv 2505.12504 (CPGD), its equation and its ablations; the advantage is w (R - mean of the prompt's answers)
    "cpgd": Algorithm(cpgd, "std", "prompt"),
    "cpg": Algorithm(cpg, "std", "prompt"),
    "pgd": Algorithm(pgd, "std", "prompt"),
    "pg": Algorithm(pg, "std", "prompt"),
    # Its released code takes the mean per answer
    "cpgd_released": Algorithm(cpgd, "std", "answer"),
    # arXiv 2402.03300: A = (R - mean) / std over the prompt's answers
    "grpo": Algorithm(ppo, "std", "answer"),
    # MM-Eureka's released code, which it calls GRPO
    "grpo_dual_clip": Algorithm(ppo_dual_clip, "std", "answer"),
    # arXiv 2402.14740: A = R - mean of the other answers; whitened over the batch as MM-Eureka (arXiv 2503.07365) does
    "rloo": Algorithm(ppo, "rloo", "answer"),
    # arXiv 2501.03262: A = R whitened over the batch
    "reinforce_plus_plus": Algorithm(ppo, "whitened", "answer"),
}


def token_loss(name: str, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, **parameters: float) -> Tensor:
    """The loss of every token. logprobs, old_logprobs: [answers, tokens]; advantages: [answers]; parameters: those of
    `Parameters` that are not the paper's. Returns [answers, tokens]."""
    return ALGORITHMS[name].token_loss(logprobs, old_logprobs, advantages[:, None], Parameters(**parameters))


def held(name: str, log_ratio: Tensor, advantages: Tensor, **parameters: float) -> Tensor:
    """The tokens whose advantage the clip leaves without a gradient. log_ratio: [answers, tokens]; advantages:
    [answers]; returns bool [answers, tokens]."""
    loss, bounds, good = ALGORITHMS[name].token_loss, Parameters(**parameters), advantages[:, None] > 0
    if loss in (pg, pgd):
        return torch.zeros_like(log_ratio, dtype=torch.bool)
    rho = log_ratio.exp()
    outside = torch.where(good, rho > 1 + bounds.clip, rho < 1 - bounds.clip)
    if loss is ppo_dual_clip:
        outside |= rho > bounds.dual_clip
    return outside & (advantages[:, None] != 0)


def token_weights(name: str, mask: Tensor, prompt_of_answer: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
    """What a token counts in its prompt's or its answer's mean, 0 outside the mask, and the number of these means.

    mask: [answers, tokens], true for the tokens that count; prompt_of_answer: [answers], any numbers. Returns
    [answers, tokens] and a number; a prompt or answer of which nothing counts is in neither.
    """
    mask = mask.bool()
    if ALGORITHMS[name].mean_over == "prompt":
        unit = torch.as_tensor(prompt_of_answer, device=mask.device).unique(return_inverse=True)[1]
    else:
        unit = torch.arange(len(mask), device=mask.device)
    tokens = torch.zeros(len(mask), device=mask.device).index_add(0, unit, mask.sum(dim=1).float())
    return mask / tokens[unit].clamp(min=1)[:, None], (tokens > 0).sum()


def reduce(name: str, losses: Tensor, mask: Tensor, prompt_of_answer: Tensor | Sequence[int]) -> Tensor:
    """The loss of a batch: the algorithm's mean of its tokens' losses. Shapes as `token_weights`; returns a number."""
    weights, means = token_weights(name, mask, prompt_of_answer)
    return (losses.masked_fill(~mask.bool(), 0) * weights).sum() / means.clamp(min=1)
