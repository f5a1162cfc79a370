"""What an unfinished search has drawn and been told so far, so that an interrupted run draws nothing twice.

A search follows from its rollouts and their verdicts alone. So nothing of its state is saved but these, in order;
resuming is running the search again with the recorded ones first, and gives the tree of an undisturbed run.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any

from omegaprm import Search, SearchParams, Steps

from mm_prm.journal import Journal
from mm_prm.judge import Judge
from mm_prm.policy import PolicyClient
from mm_prm.records import Problem


class PartialTree:
    """A search over one problem whose draws and verdicts are kept in a journal.

    run: everything the draws depend on; a journal made with another run is begun anew. every: searches between two
    writes, 0 for none. Journal rows: {"run": ...}, {"draw": [[steps, answer], ...]}, {"verdicts": {answer: right}}
    (null: undecided).
    """

    def __init__(
        self, problem: Problem, policy: PolicyClient, judge: Judge, params: SearchParams, journal: Journal, every: int
    ):
        self.journal, self.every, self.saved_at = journal, every, 0
        self.policy, self.judge = policy.for_problem(problem), judge.for_problem(problem)
        self.search = Search(self.draw, self.judge, params)
        self.recorded: deque[list[tuple[Steps, str | None]]] = deque()
        self.head: list[dict[str, Any]] = []  # the journal's first row while it is not written
        self.unsaved: list[dict[str, Any]] = []
        self.known = 0  # verdicts that the journal holds, the oldest of all

    def resume(self, run: dict[str, Any]) -> None:
        """Take over what the journal holds, if it was made by the same run on the same problem."""
        if self.journal.rows[:1] != [{"run": run}]:
            self.journal.clear()
            self.head = [{"run": run}]
        for row in self.journal.rows:
            if "draw" in row:
                self.recorded.append([(steps, answer) for steps, answer in row["draw"]])
            self.judge.verdicts |= row.get("verdicts", {})
        self.known = len(self.judge.verdicts)
        self.journal.rows = []  # the search will hold what it needs

    async def draw(self, prefix: Steps, n: int) -> list[tuple[Steps, str | None]]:
        """The policy as the search sees it: recorded rollouts first, then fresh ones."""
        if self.recorded:
            self.policy.calls += 1  # the next fresh request gets the seed it would have had
            return self.recorded.popleft()
        if self.every and self.search.searches >= self.saved_at + self.every:
            self.save()
        drawn = [(rollout.steps, rollout.answer) for rollout in await self.policy.draw(prefix, n)]
        self.unsaved.append({"draw": drawn})
        return drawn

    def save(self) -> None:
        """Write what is new since the last time: first the verdicts, then the draws they belong to."""
        new = dict(islice(self.judge.verdicts.items(), self.known, None))
        if new or self.unsaved:
            self.journal.append(*self.head, {"verdicts": new}, *self.unsaved)
            self.head = []
        self.unsaved, self.known, self.saved_at = [], len(self.judge.verdicts), self.search.searches
