"""A PRM that scores: P(Yes) after every step of candidates, what they share computed once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from mm_prm.cpu import Threads
from mm_prm.packing import Packed, common_length
from mm_prm.prm_format import STEP_SEPARATOR, Encoded, Encoder, prm_text, process_text
from mm_prm.prm_model import image_tiles, load_model, load_processor, row_tensors, yes_no_ids

# Tokens of one forward pass. GPU: two problems of 16 candidates at the paper's lengths; CPU: what its caches hold.
BATCH_TOKENS = {"cuda": 16384, "cpu": 4096}


@dataclass
class Piece:
    """Candidates of one problem that are scored in one go. sequences: one for each candidate that has steps;
    pixel_values: [tiles, 3, height, width], None without images; tokens: at most, once packed."""

    sequences: list[Encoded]
    pixel_values: Tensor | None
    tokens: int


@dataclass
class Prm:
    """A loaded PRM. separator, closes_user: of the text it reads (PrmText); batch_tokens: of one forward pass."""

    model: InternVLForConditionalGeneration
    processor: Any
    separator: str
    batch_tokens: int
    closes_user: bool = True

    @classmethod
    def load(
        cls,
        checkpoint: str,
        separator: str = STEP_SEPARATOR,
        batch_tokens: int | None = None,
        dtype: str | None = None,
        closes_user: bool = True,
    ) -> Prm:
        """batch_tokens: BATCH_TOKENS, dtype: bfloat16 on a GPU and float32 on a CPU unless given. Of several GPUs
        LOCAL_RANK chooses."""
        gpu = torch.cuda.is_available()
        batch_tokens = batch_tokens or BATCH_TOKENS["cuda" if gpu else "cpu"]
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if gpu else "cpu"
        kind = getattr(torch, dtype or ("bfloat16" if gpu else "float32"))
        model, processor = load_model(checkpoint, kind).to(device).eval(), load_processor(checkpoint)
        if (objective := getattr(model.config, "objective", "prm")) != "prm":  # what the fine-tune script wrote there
            print(f"warning: {checkpoint} was trained with --objective {objective}: no PRM", file=sys.stderr)
        return cls(model, processor, separator, batch_tokens, closes_user)

    def __post_init__(self) -> None:
        self.encoder, self.threads = Encoder(self.processor.tokenizer), Threads()

    def score(self, question: str, images: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """P(Yes) after every step of every candidate: one list per candidate, one number in 0..1 per step.

        Image, question and common steps are computed once; a candidate without steps gets an empty list.
        """
        return next(self.score_each([(candidates, self.pieces(question, images, candidates))]))

    def score_each(
        self, problems: Iterable[tuple[Sequence[Sequence[str]], list[Piece]]]
    ) -> Iterator[list[list[float]]]:
        """`score` for one problem after the other, several in a forward pass. problems: candidates and their pieces."""
        waiting: list[tuple[Sequence[Sequence[str]], list[Piece]]] = []
        tokens = 0
        for candidates, pieces in problems:
            size = sum(piece.tokens for piece in pieces)
            if waiting and tokens + size > self.batch_tokens:
                yield from self._score(waiting)
                waiting, tokens = [], 0
            waiting.append((candidates, pieces))
            tokens += size
        yield from self._score(waiting)

    def _score(self, problems: list[tuple[Sequence[Sequence[str]], list[Piece]]]) -> Iterator[list[list[float]]]:
        """A problem of several pieces comes alone: it fills more than one forward pass."""
        pieces = [piece for _, of_problem in problems for piece in of_problem]
        passes = [pieces] if len(pieces) <= len(problems) else [[piece] for piece in pieces]
        scores = iter([score for together in passes if together for score in self.forward(together)])
        for candidates, _ in problems:
            yield [[next(scores) for _ in steps] for steps in candidates]

    def pieces(self, question: str, images: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[Piece]:
        """The problem, read and tokenised; several pieces only when its candidates outgrow batch_tokens."""
        if not any(candidates):
            return []
        pixel_values, image_tokens = image_tiles(self.processor, images)
        texts = [prm_text(question, process_text(list(steps), self.separator)) for steps in candidates if steps]
        sequences = [self.encoder.prm(text, image_tokens, self.closes_user) for text in texts]
        shared = min(common_length(sequences[0].input_ids, other.input_ids) for other in sequences)
        pieces: list[Piece] = []
        for sequence in sequences:
            own = len(sequence.input_ids) - shared
            if not pieces or pieces[-1].tokens + own > self.batch_tokens:
                pieces.append(Piece([], pixel_values, shared))
            pieces[-1].sequences.append(sequence)
            pieces[-1].tokens += own
        return pieces

    @torch.no_grad()
    def forward(self, pieces: Sequence[Piece]) -> list[float]:
        """P(Yes) at every marker of every sequence, in their order, from one packed row."""
        self.threads.adjust()
        row, device = Packed(), self.model.device
        for piece in pieces:
            row.add(piece.sequences)
        batch = row_tensors(row, [piece.pixel_values for piece in pieces if piece.pixel_values is not None])
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        logits = self.model(**batch, vocabulary=yes_no_ids(self.processor.tokenizer).to(device))  # [labels, 2]
        # In double precision: near 1 odds differ where float32 probabilities do not.
        return logits.double().softmax(-1)[:, 0].tolist()
