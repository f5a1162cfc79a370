"""Which beginnings of solutions count as one, and what that does to labels."""

import json

import numpy as np
import pytest
import torch
from conftest import run_forked
from hidden_states import HiddenStates
from labels import Prefixes, whole_rollouts
from merging import clusters, exact, guarded
from PIL import Image
from transformers import InternVLForConditionalGeneration

from mm_prm.prm_format import render_steps
from mm_prm.prm_model import image_tiles
from mm_prm.prompts import policy_prompt
from mm_prm.trees import Node, Tree, write_tree


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3 + 4 = 7", "Next, 3 plus 4 is 7.", True),
        ("3 x 4 = 12", "Three parts: 3 times 4 makes 12", True),
        (r"$3 \times 4 = 12$", "3 × 4 = 12", True),
        ("The angle x is 30 degrees.", "x measures 30", True),  # a name, not a sign
        ("A has 5, B has 7.", "5 at A and 7 at B", True),
        ("3 + 4 = 7", "4 + 3 = 7", False),
        ("3 + 4 = 7", "3 + 4 = 8", False),
        ("3 + 4 = 7", "3 - 4 = 7", False),
        ("3.5 m", "3 m, 5 m", False),
        ("We add them.", "They are added.", False),  # no number to go by
        ("We add them.", "We add them.", True),
    ],
)
def test_the_guard_wants_the_same_numbers_and_operators_in_order(one, other, same):
    assert (guarded((one,), 0) == guarded((other,), 0)) == same


def reworded_root():
    """Three rollouts; the first two say the same first step in two ways."""
    right = [["3 + 4 = 7", "So 7.", "7"], ["3 plus 4 is 7", "7 it is.", "7"]]
    return Node([], 2 / 3, 0, 3, 2, right, [1, 1], [["3 + 4 = 7", "Hence 8.", "8"]], [1])


def test_merged_beginnings_share_their_rollouts():
    for key, labels in ((exact, [(0.5, 1, 1), (1, 1, 1), (0.5, 0, 0)]), (guarded, [(2 / 3, 1, 1), (2 / 3, 1, 1)])):
        prefixes = Prefixes(reworded_root(), key)
        found = [path.labels for path in whole_rollouts(reworded_root(), 0, prefixes)]
        assert found[: len(labels)] == [pytest.approx(label) for label in labels]
    assert prefixes.singletons() == (2, 5)  # 3+4=7; 7 and then 7; 8 and then 8
    assert found[2] == pytest.approx((2 / 3, 0, 0))


def test_states_split_what_the_guard_has_put_together():
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    nearly = np.array([0.99, np.sqrt(1 - 0.99**2)])
    states = {
        ("3 + 4 = 7",): east,
        ("3 plus 4 is 7",): nearly,
        ("3 and + 4, 7",): north,
        ("3 + 4 = 7", "So 7."): north,
        ("3 plus 4 is 7", "7 it is."): north,  # behind the same beginning
        ("3 and + 4, 7", "7 it is."): east,  # behind another one: a cluster of its own
    }
    assert list(clusters(states).values()) == [0, 0, 1, 0, 0, 0]
    assert list(clusters(states, close=0.999).values()) == [0, 1, 2, 0, 0, 0]


def test_hidden_states_are_those_of_the_policy_at_the_ends_of_the_steps(desk, tmp_path):
    Image.new("RGB", (112, 112), (200, 30, 30)).save(tmp_path / "p.png")
    tree = Tree("t", "What is 3 + 4?", "7", [str(tmp_path / "p.png")], reworded_root(), {})
    states = HiddenStates(str(desk))
    beginnings = [("3 + 4 = 7",), ("3 + 4 = 7", "So 7."), ("3 plus 4 is 7",)]
    stock = InternVLForConditionalGeneration.from_pretrained(desk).eval()
    pixels, image_tokens = image_tiles(states.processor, tree.images)
    for steps, state in zip(beginnings, states.of(tree, beginnings), strict=True):
        row = states.encoder.sft(policy_prompt(tree.question), render_steps(list(steps)), image_tokens)
        with torch.no_grad():
            whole = stock.model(input_ids=torch.tensor([row.input_ids]), pixel_values=pixels).last_hidden_state
        expected = torch.nn.functional.normalize(whole[0, -2], dim=-1)  # the last token is that of the turn's end
        torch.testing.assert_close(torch.tensor(state), expected, atol=1e-5, rtol=1e-4)
        assert states.processor.tokenizer.decode(row.input_ids[-2]) == "</step>"
    key = states.key(tree)
    assert key(("3 + 4 = 7",), 0)[0] == key(("3 plus 4 is 7",), 0)[0] == ("3", "+", "4", "7")


def test_the_script_merges_and_says_how_many_prefixes_are_alone(tmp_path):
    root = reworded_root()
    for rollouts in (root.correct_rollouts, root.incorrect_rollouts):
        rollouts[:] = [
            [*steps[:-1], "and these are some more words to be long enough", steps[-1]] for steps in rollouts
        ]
    (tmp_path / "trees").mkdir()
    write_tree(tmp_path / "trees" / "t.json", Tree("t", "q", "7", [], root, {}))
    args = ["data_pipeline/traverse.py", "--input_dir", tmp_path / "trees", "--output_file", tmp_path / "paths.json"]
    done = run_forked(*args, "--labels_from", "rollouts", "--merge", "guarded")
    assert done.returncode == 0 and "prefixes 7, prefixes_of_one_rollout 3" in done.stdout, done.stdout + done.stderr
    paths = json.loads((tmp_path / "paths.json").read_text())
    assert [path["labels"][0] for path in paths] == [pytest.approx(2 / 3)] * 3
    assert [path["label_counts"][0] for path in paths] == [3] * 3
    done = run_forked(*args, "--merge", "hidden")
    assert done.returncode == 2 and "--merge hidden and --policy go together" in done.stderr
