"""Losses of labels and of the rollouts behind them, against values worked out by hand."""

import json
import math

import pytest
import torch
from internvl.train.batches import Collator
from internvl.train.dataset import read_rows
from internvl.train.label_losses import LABEL_LOSSES, concentration, evidence
from test_training import prm_row, run_main, write_dataset

from mm_prm.cli import BadInput
from mm_prm.prm_model import load_processor

LOGITS = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0], [2.0, 2.0]])  # p = 1/4, 3/4, 1/2
LABELS, COUNTS = torch.tensor([0.5, 1.0, 0.0]), torch.tensor([4.0, 1.0, 7.0])


def test_soft_and_binomial_by_hand():
    half, quarter, rest = math.log(0.5), math.log(0.25), math.log(0.75)
    soft = LABEL_LOSSES["soft"](LOGITS, LABELS, COUNTS)
    assert soft.item() == pytest.approx(-(half_of(quarter, rest) + rest + half))
    binomial = LABEL_LOSSES["binomial"](LOGITS, LABELS, COUNTS)
    assert binomial.item() == pytest.approx(-(2 * quarter + 2 * rest + rest + 7 * half))
    assert evidence("soft", COUNTS) == 3 and evidence("binomial", COUNTS) == evidence("beta_binomial", COUNTS) == 12


def half_of(one, other):
    return 0.5 * one + 0.5 * other


def rising(start, count):
    return math.lgamma(start + count) - math.lgamma(start)


def test_beta_binomial_is_the_chance_of_the_rollouts_one_after_the_other():
    expected = 0.0
    for (yes, no), label, count in zip(LOGITS.tolist(), LABELS.tolist(), COUNTS.tolist(), strict=True):
        total = math.log(math.exp(yes) + math.exp(no))
        sure, p = total + math.sqrt(1 + total**2), math.exp(yes - total)
        right = label * count
        expected -= rising(sure * p, right) + rising(sure * (1 - p), count - right) - rising(sure, count)
    assert LABEL_LOSSES["beta_binomial"](LOGITS, LABELS, COUNTS).item() == pytest.approx(expected, rel=1e-5)
    assert concentration(LOGITS).exp()[2].item() == pytest.approx(2.693147 + math.sqrt(1 + 2.693147**2))


def test_a_very_sure_beta_binomial_is_the_binomial():
    sure = LOGITS + 1e5
    given = LABEL_LOSSES["binomial"](sure, LABELS, COUNTS)
    assert LABEL_LOSSES["beta_binomial"](sure, LABELS, COUNTS).item() == pytest.approx(given.item(), rel=1e-3)


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_gradients_are_numbers_even_where_the_prediction_is_certain_and_wrong(name):
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0], [-200.0, -200.0]], requires_grad=True)
    labels, counts = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([3.0, 2.0, 500.0])
    LABEL_LOSSES[name](logits, labels, counts).backward()
    assert logits.grad.isfinite().all() and logits.grad[0, 0] > 0 and logits.grad[2, 0] < 0


def test_counts_come_with_the_labels_of_a_row(desk, tmp_path):
    rows = [prm_row("a", [0.5, None, 1]) | {"label_counts": [4, None, 2]}, prm_row("b", [0.25])]
    read = read_rows(write_dataset(tmp_path, rows), "prm", 0)
    batch = Collator(load_processor(str(desk)), "prm", 8192, True)(read)
    assert batch["targets"].tolist() == [0.5, 1, 0.25] and batch["counts"].tolist() == [4, 2, 1]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([4], "field 'label_counts': expected a list of 2"),
        ("44", "field 'label_counts': expected a list of 2"),
        ([4, 0], "field 'label_counts': expected a whole number above 0 for the label 1, found 0"),
        ([4, None], "expected a whole number above 0 for the label 1, found None"),
        ([4, 2.0], "expected a whole number above 0 for the label 1, found 2.0"),
    ],
)
def test_wrong_counts_name_the_field(tmp_path, counts, message):
    with pytest.raises(BadInput, match=message):
        read_rows(write_dataset(tmp_path, [prm_row("a", [0.5, 1]) | {"label_counts": counts}]), "prm", 0)


def test_a_loss_of_rollouts_wants_to_know_how_many(desk, tmp_path):
    meta = write_dataset(tmp_path, [prm_row("a", [0.5]) | {"label_counts": [4]}, prm_row("b", [0.5])])
    files = ("--model_name_or_path", desk, "--meta_path", meta, "--output_dir", tmp_path / "out")
    with pytest.raises(BadInput, match=r"1 of 2 rows have no 'label_counts': --label_loss binomial needs them"):
        run_main(*files, "--label_loss", "binomial")
    assert json.loads((tmp_path / "meta.json").read_text()) and not (tmp_path / "out").exists()
