"""The policy's state at the end of every step of a tree's rollouts, for `traverse.py --merge hidden`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from merging import Key, Steps, clusters, guarded
from torch.nn import functional as F

from mm_prm.packing import Packed
from mm_prm.prm_format import Encoded, Encoder, defuse, render_steps
from mm_prm.prm_model import image_tiles, load_model, load_processor, position_hidden, row_tensors
from mm_prm.prompts import policy_prompt
from mm_prm.trees import Tree

TOGETHER = 64  # beginnings of solutions in one forward pass; what they have in common is computed once


class HiddenStates:
    """checkpoint: the policy's; step_format: how it writes its steps."""

    def __init__(self, checkpoint: str, step_format: str = "tags"):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self.model = load_model(checkpoint, dtype).to(self.device).eval()
        self.processor, self.step_format = load_processor(checkpoint), step_format
        self.encoder = Encoder(self.processor.tokenizer, marker=False)

    def sequence(self, question: str, image_tokens: list[int], steps: Steps) -> Encoded:
        """A beginning of a solution; wanted is the position of its last token."""
        prompt = policy_prompt(defuse(question), step_format=self.step_format)
        asked = self.encoder.sft(prompt, render_steps(list(steps), self.step_format), image_tokens)
        return Encoded(asked.input_ids, [len(asked.input_ids) - 2])  # behind it the end of the turn

    @torch.no_grad()
    def of(self, tree: Tree, beginnings: Sequence[Steps]) -> Iterator[np.ndarray]:
        """The last layer's state at the end of each, of length 1: [width]."""
        pixels, image_tokens = image_tiles(self.processor, tree.images)
        for first in range(0, len(beginnings), TOGETHER):
            row = Packed()
            row.add([self.sequence(tree.question, image_tokens, steps) for steps in beginnings[first:][:TOGETHER]])
            tensors = row_tensors(row, [] if pixels is None else [pixels])
            inputs = {name: tensor.to(self.device) for name, tensor in tensors.items()}
            yield from F.normalize(position_hidden(self.model, **inputs).float(), dim=-1).cpu().numpy()

    def key(self, tree: Tree) -> Key:
        """What a step of this tree is known by: its guard and the cluster of its state."""
        rollouts = [steps for _, steps, _, _ in tree.root.rollouts()]
        beginnings = list(dict.fromkeys(steps[: at + 1] for steps in rollouts for at in range(len(steps))))
        found = clusters(dict(zip(beginnings, self.of(tree, beginnings), strict=True)))
        return lambda steps, at: (guarded(steps, at), found.get(steps[: at + 1]))
