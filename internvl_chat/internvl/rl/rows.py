"""Groups of answers -> packed rows.

A row holds a prompt's picture and question once for its answers: of one prompt or several, or, where all its answers
would be too long for one forward pass, of a part of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mm_prm.cli import Fault
from mm_prm.packing import Packed, common_length
from mm_prm.prm_format import IMAGE_CONTEXT, Encoded, Encoder, defuse
from mm_prm.prm_model import image_tiles, row_tensors
from mm_prm.prompts import policy_prompt

if TYPE_CHECKING:  # rows need neither a server nor a judge, nor what these import
    from internvl.rl.draw import Group

# ---------------------------------------------------------------- which answers go together


def tokens_in(groups: Sequence[Group]) -> int:
    """At most: answers that begin alike are shorter in a row."""
    return sum(len(group.prompt_ids) + sum(len(answer.ids) for answer in group.answers) for group in groups)


def pieces(group: Group, most_tokens: int) -> list[Group]:
    """The group in parts of consecutive answers, each of at most so many tokens or of a single answer."""
    parts: list[Group] = []
    for answer in group.answers:
        longer = replace(parts[-1], answers=[*parts[-1].answers, answer]) if parts else None
        if longer and tokens_in([longer]) <= most_tokens:
            parts[-1] = longer
        else:
            parts.append(replace(group, answers=[answer]))
    return parts


def in_rows(groups: Sequence[Group], most_tokens: int, most_prompts: int) -> list[list[Group]]:
    """The groups, or their parts, of each row, in order."""
    rows: list[list[Group]] = []
    for piece in (piece for group in groups for piece in pieces(group, most_tokens)):
        if rows and len(rows[-1]) < most_prompts and tokens_in([*rows[-1], piece]) <= most_tokens:
            rows[-1].append(piece)
        else:
            rows.append([piece])
    return rows


def halves(row: list[Group]) -> tuple[list[Group], list[Group]]:
    """A row of several groups, or of one group's several answers, as two."""
    if len(row) > 1:
        return row[: len(row) // 2], row[len(row) // 2 :]
    group, middle = row[0], len(row[0].answers) // 2
    return [replace(group, answers=group.answers[:middle])], [replace(group, answers=group.answers[middle:])]


def split_into(rows: list[list[Group]], count: int) -> list[list[Group]]:
    """So many rows at least: processes take part in each other's forward passes (ZeRO-3), so all need as many."""
    while len(rows) < count:
        several = [at for at, row in enumerate(rows) if sum(len(group.answers) for group in row) > 1]
        at = max(several, key=lambda at: tokens_in(rows[at]))
        rows = [*rows[:at], *halves(rows[at]), *rows[at + 1 :]]
    return rows


# ---------------------------------------------------------------- rows


@dataclass
class Row:
    """The answers of one prompt or several. inputs: for `drawn_logprobs`; lengths: tokens of each answer; weights: what
    each of its tokens counts in the loss, 0 where it is not trained on; served, old, reference: log-probabilities of
    the drawn tokens, [positions]; entropy: [positions]."""

    inputs: dict[str, Tensor]
    lengths: list[int]
    weights: Tensor
    advantages: Tensor
    served: Tensor
    old: Tensor = field(default_factory=lambda: torch.empty(0))
    reference: Tensor = field(default_factory=lambda: torch.empty(0))
    entropy: Tensor = field(default_factory=lambda: torch.empty(0))

    def table(self, values: Tensor) -> Tensor:
        """[positions] -> [answers, tokens], 0 behind the end of an answer."""
        return pad_sequence(values.split(self.lengths), batch_first=True)

    def mask(self) -> Tensor:
        """The tokens that are trained on: [answers, tokens]."""
        limits = torch.tensor(self.lengths) * (self.weights > 0)
        return torch.arange(max(self.lengths))[None] < limits[:, None]


class RowMaker:
    """Groups -> a row, for one processor and one format of the policy's answers."""

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
            [len(answer.ids) for answer in answers],
            torch.tensor([answer.weight for answer in answers]),
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
