"""What a problem's search has cost, in the units in which searches are compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Accounts:
    """policy_tokens: drawn, kept or not; prm_tokens: that the PRM computed; prm_tokens_anew: that it would have
    computed if every text it was asked for had been scored whole; pictures: that it encoded; seconds: from the
    problem's first request to its last, other problems in flight beside it."""

    policy_tokens: int = 0
    prm_tokens: int = 0
    prm_tokens_anew: int = 0
    pictures: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"seconds": round(self.seconds, 3)}


def totals(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The accounts of some problems, added up."""
    return {name: sum(row[name] for row in rows) for name in Accounts.__dataclass_fields__}
