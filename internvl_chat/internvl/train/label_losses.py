"""What a PRM's prediction of a label costs: the label alone, or the rollouts that it is the mean of.

A label y is the mean of n rollouts, k = n y of them right; p = softmax(Yes, No)[Yes].

    soft            -[y log p + (1 - y) log(1 - p)], every label alike (MM-PRM, section 3.3)
    binomial        -[k log p + (n - k) log(1 - p)]: n times as much, for n times the evidence
    beta_binomial   -log of the chance to draw these rollouts, one after the other, from a Beta(s p, s (1 - p)): the
                    rollouts through a state need not all have the same chance (as BetaPRM, arXiv 2605.15529)

The concentration s of beta_binomial comes from the same two logits; P(Yes) is served and read as ever.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mm_prm.prm_model import concentration, soft_label_loss


def log_rising(log_start: Tensor, count: Tensor) -> Tensor:
    """log of a (a + 1) ... (a + count - 1), from log a: sums of logarithms, exact where a is next to nothing."""
    steps = torch.arange(max(1, int(count.max())), device=count.device)
    terms = torch.logaddexp(log_start[:, None], steps.float().log()[None])
    return terms.masked_fill(steps[None] >= count[:, None], 0).sum(dim=1)


def soft(yes_no_logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    return soft_label_loss(yes_no_logits, labels)


def binomial(yes_no_logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    log_p = F.log_softmax(yes_no_logits.float(), dim=-1)
    return -(counts * (labels * log_p[:, 0] + (1 - labels) * log_p[:, 1])).sum()


def beta_binomial(yes_no_logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    log_p, log_s = F.log_softmax(yes_no_logits.float(), dim=-1), concentration(yes_no_logits)
    right = (labels * counts).round()
    drawn = log_rising(log_s + log_p[:, 0], right) + log_rising(log_s + log_p[:, 1], counts - right)
    return -(drawn - log_rising(log_s, counts)).sum()


# Summed over labels. yes_no_logits: [labels, 2]; labels: [labels], in 0..1; counts: [labels], rollouts behind each.
LABEL_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "soft": soft,
    "binomial": binomial,
    "beta_binomial": beta_binomial,
}


def evidence(name: str, counts: Tensor) -> Tensor:
    """What a batch's summed loss is divided by: its labels, or, where counts count, its rollouts."""
    return counts.sum() if name != "soft" else torch.tensor(float(len(counts)))
