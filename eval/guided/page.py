"""A search as HTML: its candidates with every step coloured by its score, and the tree that they are paths of.

Whatever a model or a person wrote is text: `spelled` leaves nothing in it that HTML or a template could read.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from guided.methods import Candidate, Steps, StepScore
from mm_prm.selection import aggregate

CSS = """
.search, .search li { font-size: 14px; }
.search .candidate { border: 1px solid #8886; border-radius: 6px; padding: 6px 8px; margin-bottom: 8px; }
.search .chosen { border: 2px solid #1a7f37; }
.search .step { display: block; border-radius: 4px; padding: 2px 6px; margin: 2px 0; }
.search .step { color: #111; white-space: pre-wrap; }
.search .step b { float: right; font-weight: 600; margin-left: 8px; }
.search .note { opacity: 0.75; }
.search ul { list-style: none; margin: 0; padding-left: 14px; border-left: 1px solid #8886; }
.search .left { opacity: 0.55; }
"""
UNSCORED = "#e4e4e4"


def spelled(text: str) -> str:
    """Text for HTML that goes through a template: `<`, `&`, quotes, and what begins an expression there."""
    return html.escape(text).translate({ord(sign): f"&#{ord(sign)};" for sign in "{}$`\\"})


def colour(score: float | None) -> str:
    """Red at 0, yellow in the middle, green at 1; grey without a score."""
    return UNSCORED if score is None else f"hsl({120 * score:.0f} 70% 78%)"


@dataclass
class Seen:
    """What a search has shown so far. candidates: by their steps, in the order in which they appeared; scores: of the
    last step of these steps; final: the candidates with an answer, once the search is over; chosen: the first of the
    best of them."""

    aggregation: str
    candidates: dict[Steps, Candidate] = field(default_factory=dict)
    scores: dict[Steps, float] = field(default_factory=dict)
    final: list[Steps] | None = None
    chosen: Steps | None = None

    def drawn(self, candidates: Sequence[Candidate]) -> None:
        for one in candidates:
            if one.ended or one.steps not in self.candidates:
                self.candidates[one.steps] = one

    def scored(self, candidates: Sequence[Candidate], scores: Sequence[Sequence[StepScore]]) -> None:
        for one, found in zip(candidates, scores, strict=True):
            self.scores |= {one.steps[: at + 1]: step.p for at, step in enumerate(found)}

    def scores_of(self, steps: Steps) -> list[float | None]:
        return [self.scores.get(steps[:length]) for length in range(1, len(steps) + 1)]

    def value(self, steps: Steps) -> float:
        """The aggregation's number, minus infinity while a step has no score."""
        scores = [score for score in self.scores_of(steps) if score is not None]
        return aggregate(self.aggregation, [scores])[0] if len(scores) == len(steps) else -math.inf

    def leaves(self) -> list[Steps]:
        """Texts that have ended, or that none goes on from: the finished ones first, the best ones first."""
        begun = {steps[:length] for steps in self.candidates for length in range(len(steps))}
        shown = [steps for steps, one in self.candidates.items() if steps and (one.ended or steps not in begun)]
        return sorted(shown, key=lambda steps: (self.state(steps) != "chosen", self.state(steps), -self.value(steps)))

    def state(self, steps: Steps) -> str:
        """What has become of a candidate, in words that sort as they are to be shown."""
        if self.final is None:
            return "finished" if self.candidates[steps].ended else "is being written"
        if steps == self.chosen:
            return "chosen"
        return "finished" if steps in self.final else "given up"

    def finish(self, final: Sequence[Steps]) -> None:
        self.final = list(final)
        self.chosen = max(self.final, key=self.value, default=None)


def step_html(text: str, score: float | None) -> str:
    said = "" if score is None else f"<b>{score:.3f}</b>"
    return f'<span class="step" style="background: {colour(score)}">{said}{spelled(text)}</span>'


def candidate_html(seen: Seen, steps: Steps) -> str:
    state, value = seen.state(steps), seen.value(steps)
    answer = seen.candidates[steps].answer
    head = [state, *([f"{seen.aggregation} {value:.3f}"] if value > -math.inf else [])]
    head += [f"answer {answer}"] if answer else []
    rows = "".join(map(step_html, steps, seen.scores_of(steps)))
    kind = {"chosen": " chosen", "given up": " left"}.get(state, "")
    return f'<div class="candidate{kind}"><div class="note">{spelled(", ".join(head))}</div>{rows}</div>'


def candidates_html(seen: Seen) -> str:
    """All texts, the chosen one on top; those that were given up are folded away."""
    leaves = seen.leaves()
    left = [steps for steps in leaves if seen.state(steps) == "given up"]
    shown = "".join(candidate_html(seen, steps) for steps in leaves if steps not in left)
    if left:
        folded = "".join(candidate_html(seen, steps) for steps in left)
        shown += f"<details><summary>{len(left)} given up</summary>{folded}</details>"
    return f'<div class="search">{shown}</div>'


def tree_html(seen: Seen) -> str:
    """The steps as a tree: equal beginnings are drawn once."""
    below: dict[Steps, dict[Steps, None]] = {}
    for steps in seen.candidates:
        for length in range(len(steps)):
            below.setdefault(steps[:length], {})[steps[: length + 1]] = None
    alive = {steps[:length] for steps in seen.final or seen.candidates for length in range(len(steps) + 1)}
    return f'<div class="search">{branches((), below, seen, alive)}</div>'


def branches(root: Steps, below: dict[Steps, dict[Steps, None]], seen: Seen, alive: set[Steps]) -> str:
    rows = []
    for steps in below.get(root, ()):
        kind = "" if steps in alive else ' class="left"'
        rows.append(
            f"<li{kind}>{step_html(steps[-1], seen.scores.get(steps))}{branches(steps, below, seen, alive)}</li>"
        )
    return f"<ul>{''.join(rows)}</ul>" if rows else ""
