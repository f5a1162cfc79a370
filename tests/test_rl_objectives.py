"""The losses and advantages of stage 7 against values worked out by hand, gradients included."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from internvl.rl.advantages import ADVANTAGES, advantages
from internvl.rl.objectives import ALGORITHMS, Algorithm, held, reduce, token_loss

# Ratios of six tokens: those of the first answer have the advantage 2, those of the second -1.
RATIOS = torch.tensor([[0.5, 1.0, 1.5], [0.5, 1.5, 4.0]])
ADVANTAGE = torch.tensor([2.0, -1.0])
OLD = torch.tensor([[-1.0, -2.0, -3.0], [-1.5, -2.5, -3.5]])
LOG = RATIOS.log()
LOW, HIGH = math.log(0.8), math.log(1.2)


def loss_and_gradient(name, **parameters):
    logprobs = (OLD + LOG).requires_grad_()
    losses = token_loss(name, logprobs, OLD, ADVANTAGE, **parameters)
    return losses.detach(), torch.autograd.grad(losses.sum(), logprobs)[0]


# The clip bites where it makes the objective smaller: a good answer above 1.2, a bad one below 0.8.
CPG = -torch.tensor([[2 * math.log(0.5), 0.0, 2 * HIGH], [-LOW, -math.log(1.5), -math.log(4)]])
CPG_GRADIENT = -torch.tensor([[2.0, 2.0, 0.0], [0.0, -1.0, -1.0]])
# alpha min(rho - 1, 2): 4 is beyond rho = 3, where the pull stays as strong as it is there.
PULL = 0.01 * torch.tensor([[-0.5, 0.0, 0.5], [-0.5, 0.5, 2.0]])
DRIFT = PULL * (OLD + LOG)
PG = -torch.tensor([[2.0], [-1.0]]) * (OLD + LOG)
PG_GRADIENT = -torch.tensor([[2.0] * 3, [-1.0] * 3])
PGD = -torch.tensor([[2.0], [-1.0]]) * LOG + DRIFT
GRPO = -torch.tensor([[1.0, 2.0, 2.4], [-0.8, -1.5, -4.0]])
GRPO_GRADIENT = -torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.5, -4.0]])  # d rho / d logp is rho
# rho is 3 at most: the last token's loss is that of 3, and nothing pulls it back.
DUAL = -torch.tensor([[1.0, 2.0, 2.4], [-0.8, -1.5, -3.0]])
DUAL_GRADIENT = -torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.5, 0.0]])


@pytest.mark.parametrize(
    ("name", "losses", "gradient"),
    [
        ("pg", PG, PG_GRADIENT),
        ("cpg", CPG, CPG_GRADIENT),
        ("pgd", PGD, PG_GRADIENT + PULL),
        ("cpgd", CPG + DRIFT, CPG_GRADIENT + PULL),
        ("cpgd_released", CPG + DRIFT, CPG_GRADIENT + PULL),
        ("grpo", GRPO, GRPO_GRADIENT),
        ("grpo_dual_clip", DUAL, DUAL_GRADIENT),
        ("rloo", GRPO, GRPO_GRADIENT),
        ("reinforce_plus_plus", GRPO, GRPO_GRADIENT),
    ],
)
def test_every_loss_and_its_gradient_by_hand(name, losses, gradient):
    ours, slope = loss_and_gradient(name)
    torch.testing.assert_close(ours, losses)
    torch.testing.assert_close(slope, gradient)


def test_no_algorithm_is_left_out_above():
    marks = test_every_loss_and_its_gradient_by_hand.pytestmark[0]
    assert {row[0] for row in marks.args[1]} == set(ALGORITHMS)


def test_the_parameters_are_the_flags():
    _, slope = loss_and_gradient("cpgd", clip=0.6, drift_coef=0.1, drift_clip=1)
    # clip: between log 0.4 and log 1.6 nothing is cut off here
    torch.testing.assert_close(slope, PG_GRADIENT + 0.1 * torch.tensor([[-0.5, 0.0, 0.5], [-0.5, 0.5, 1.0]]))
    losses, _ = loss_and_gradient("grpo_dual_clip", dual_clip=1.5)
    torch.testing.assert_close(losses[1], torch.tensor([0.8, 1.5, 1.5]))
    with pytest.raises(TypeError, match="no_such"):
        loss_and_gradient("pg", no_such=1)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
def test_a_ratio_beyond_all_numbers_gives_numbers(name, advantage):
    logprobs = torch.zeros(1, 2, requires_grad=True)
    losses = token_loss(name, logprobs, torch.tensor([[-2000.0, 2000.0]]), torch.tensor([advantage]))
    slope = torch.autograd.grad(losses.sum(), logprobs)[0]
    assert losses.isfinite().all() and slope.isfinite().all()


def test_the_drift_is_the_gradient_of_the_estimated_divergence():
    logprobs = torch.tensor([[-1.2, -0.7]], requires_grad=True)
    old = torch.tensor([[-1.0, -1.0]])
    losses = token_loss("pgd", logprobs, old, torch.zeros(1), drift_coef=1)
    log_ratio = logprobs - old
    estimate = log_ratio.exp() - 1 - log_ratio
    ours, reference = (torch.autograd.grad(part.sum(), logprobs, retain_graph=True)[0] for part in (losses, estimate))
    torch.testing.assert_close(ours, reference)


# Prompt 7 has two answers of 1 and 3 tokens, prompt 3 one of 2, prompt 9 one that nobody could judge.
LOSSES = torch.tensor([[6.0, torch.nan, torch.inf], [1.0, 2.0, 3.0], [4.0, 8.0, 0.0], [5.0, 5.0, 5.0]])
MASK = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0]])
PROMPTS = [7, 7, 3, 9]


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        *((name, (12 / 4 + 12 / 2) / 2) for name in ("cpgd", "cpg", "pgd", "pg")),
        *((name, (6 + 2 + 6) / 3) for name in ("cpgd_released", "grpo", "grpo_dual_clip", "rloo")),
        ("reinforce_plus_plus", (6 + 2 + 6) / 3),
    ],
)
def test_every_mean_by_hand(name, mean):
    for mask in (MASK, MASK.bool(), MASK.float()):
        assert reduce(name, LOSSES, mask, torch.tensor(PROMPTS)).item() == pytest.approx(mean)
    assert reduce(name, LOSSES, MASK, PROMPTS).item() == pytest.approx(mean)
    nothing = LOSSES.clone().requires_grad_()
    total = reduce(name, nothing, torch.zeros(4, 3), PROMPTS)
    assert total.item() == 0 and torch.autograd.grad(total, nothing)[0].abs().sum() == 0


REWARDS = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.5, 0.5, 0.5, 1.5], [0.5, 0.5, 0.5, 0.5]])
CENTRED = torch.tensor([[0.75, -0.25, -0.25, -0.25], [0.5, -0.5, -0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])


def test_equal_is_the_distance_from_the_prompts_mean():
    torch.testing.assert_close(advantages("equal", REWARDS), CENTRED)


def test_std_divides_by_the_unbiased_deviation_of_the_prompts_answers():
    # squares: 0.75, 1; over n - 1 = 3
    expected = CENTRED / torch.tensor([[math.sqrt(0.25)], [math.sqrt(1 / 3)], [1.0]])
    torch.testing.assert_close(advantages("std", REWARDS), expected)
    torch.testing.assert_close(advantages("std", REWARDS)[:2], CENTRED[:2] / (REWARDS[:2].std(1, keepdim=True) + 1e-9))


def test_equal_rewards_are_no_advantage_whatever_rounding_does():
    same = torch.full((2, 8), 0.1) + torch.tensor([[0.0], [0.2]])  # their float32 mean is not the number itself
    for name in ("std", "equal", "filter"):
        assert torch.equal(advantages(name, same), torch.zeros(2, 8))
    assert torch.equal(advantages("whitened", same[:1]), torch.zeros(1, 8))
    assert torch.equal(advantages("rloo", same), torch.zeros(2, 8))
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):  # the mean of the batch is not 0 exactly
        mixed = torch.cat([torch.rand(3, 8, generator=draw), same[:1]])
        assert torch.equal(advantages("rloo", mixed)[3], torch.zeros(8))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpgd", [[False, False, True, True], [True, False, False, False], [False] * 4]),
        ("grpo", [[False, False, True, True], [True, False, False, False], [False] * 4]),
        ("grpo_dual_clip", [[False, False, True, True], [True, False, False, True], [False] * 4]),
        ("pgd", [[False] * 4] * 3),
        ("pg", [[False] * 4] * 3),
    ],
)
def test_tokens_that_the_clip_holds_have_no_gradient(name, expected):
    ratios = torch.tensor([0.7, 1.1, 1.3, 3.1]).expand(3, 4)
    row = torch.tensor([1.0, -1.0, 0.0])
    found = held(name, ratios.log(), row)
    assert found.tolist() == expected
    logprobs = ratios.log().clone().requires_grad_()
    token_loss(name, logprobs, torch.zeros(3, 4), row, drift_coef=0.0).sum().backward()
    assert torch.equal(found, (logprobs.grad == 0) & (row != 0)[:, None])


def test_filter_weighs_the_prompts_whose_answers_differ():
    torch.testing.assert_close(advantages("filter", REWARDS), 1.5 * CENTRED)  # 3 prompts, 2 of them
    many = torch.cat([REWARDS[:1], REWARDS[2:].expand(9, 4)])
    torch.testing.assert_close(advantages("filter", many)[0], 3 * CENTRED[0])  # 10, but 3 at most


def test_whitened_is_over_the_batch():
    # 12 rewards: sum 7, squares 7, so the variance is 7/12 - (7/12)^2
    torch.testing.assert_close(advantages("whitened", REWARDS), (REWARDS - 7 / 12) / math.sqrt(35 / 144))


def test_rloo_leaves_one_out_and_whitens():
    one_out = torch.tensor([[1.0, -1 / 3, -1 / 3, -1 / 3], [2 / 3, -2 / 3, -2 / 3, 2 / 3], [0.0] * 4])
    squares = 1 + 3 / 9 + 4 * 4 / 9
    torch.testing.assert_close(advantages("rloo", REWARDS), one_out / math.sqrt(squares / 12))


@pytest.mark.parametrize("name", ADVANTAGES)
def test_an_answer_without_a_reward_is_as_if_it_had_not_been_drawn(name):
    with_gap = torch.tensor([[1.0, torch.nan, 0.0, 0.0], [torch.nan, torch.nan, torch.nan, torch.nan]])
    found = advantages(name, with_gap)
    assert found[0, 1] == 0 and torch.equal(found[1], torch.zeros(4))
    if name != "filter":  # which also counts prompts
        torch.testing.assert_close(found[:1, [0, 2, 3]], advantages(name, with_gap[:1, [0, 2, 3]]))
    assert torch.equal(advantages(name, torch.tensor([[1.0], [0.0]])).isfinite(), torch.ones(2, 1, dtype=torch.bool))


def test_an_own_algorithm_is_one_more_row(monkeypatch):
    monkeypatch.setitem(
        ALGORITHMS, "own", Algorithm(lambda new, old, advantage, _: (new - old) * advantage, "equal", "answer")
    )
    losses = token_loss("own", OLD + LOG, OLD, ADVANTAGE)
    torch.testing.assert_close(losses, LOG * ADVANTAGE[:, None])
    assert reduce("own", losses, torch.ones(2, 3), [0, 0]).item() == pytest.approx(losses.mean().item())


# ---------------------------------------------------------------- another implementation, where it is installed


class TrlTrainer(SimpleNamespace):
    """What TRL's `_compute_loss` asks of its trainer: our log-probabilities, its default settings, nowhere to log."""

    def __init__(self, logprobs, **settings):
        same = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, gather_for_metrics=lambda x: x)
        same.num_processes = 1
        super().__init__(
            _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logprobs, torch.zeros_like(logprobs), None),
            model=torch.nn.Identity(),
            accelerator=same,
            _metrics=defaultdict(lambda: defaultdict(list)),
            args=SimpleNamespace(delta=settings.pop("delta", None)),
            **{"top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token"},
            **{"epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.0, "loss_type": "grpo", "use_vllm": False},
            **{"aux_loss_enabled": False, "_entropy_bonus_enabled": False, "use_adaptive_entropy": False},
            current_gradient_accumulation_steps=1,
        )


@pytest.mark.parametrize(
    ("name", "trainer", "tokens", "delta"),
    [
        ("grpo", "GRPOTrainer", 6, None),
        ("grpo_dual_clip", "GRPOTrainer", 6, 3.0),
        ("rloo", "RLOOTrainer", 1, None),  # TRL's ratio is of the whole answer: the same where that is one token
    ],
)
def test_losses_and_gradients_are_those_of_trl(name, trainer, tokens, delta):
    trl = pytest.importorskip("trl", reason="trl is not installed")
    torch.manual_seed(0)
    old, lengths = torch.randn(5, tokens), torch.randint(1, tokens + 1, (5, 1))
    mask, weights = torch.arange(tokens)[None] < lengths, torch.randn(5)
    values = (old + torch.randn(5, tokens)).requires_grad_(True)  # ratios of 0.1 to 10: both clips are at work
    ours = reduce(name, token_loss(name, values, old, weights), mask, torch.zeros(5))
    inputs = {
        "prompt_ids": torch.zeros(5, 0),
        "prompt_mask": torch.zeros(5, 0),
        "completion_ids": torch.zeros(5, tokens),
    }
    inputs |= {"completion_mask": mask.float(), "advantages": weights, "old_per_token_logps": old}
    inputs |= {"old_logps": (old * mask).sum(1)}
    theirs = getattr(trl, trainer)._compute_loss(TrlTrainer(values, delta=delta), None, inputs)
    torch.testing.assert_close(ours, theirs)
    mine, yours = (torch.autograd.grad(loss, values)[0] for loss in (ours, theirs))
    torch.testing.assert_close(mine, yours)
    assert mine.abs().sum() > 0
