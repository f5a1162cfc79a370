"""Stage 7 with servers that keep what they computed with old weights: the control of rl.sh's study, and a mistake.

    python examples/desk/rl_without_resets.py ...   # flags of internvl_chat_rl.py

The prefix cache is emptied before training, and not when new weights come
later; the bound on the difference of served and trained log-probabilities,
which would stop such a run, is lifted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from internvl.rl import sync
from internvl.train import internvl_chat_rl

from mm_prm import cli

careful = sync.reload
seen: set[str] = set()


async def careless(url: str, folder: str | Path) -> None:
    """The first sync clears away what another run has left."""
    await careful(url, folder, without={"/reset_prefix_cache"} if url in seen else ())
    seen.add(url)


sync.reload = careless  # type: ignore[assignment]

if __name__ == "__main__":
    sys.argv += ["--max_mismatch", "1e9"]
    cli.run(internvl_chat_rl.main)
