"""Stage 7 with servers that keep what they computed with old weights: the control of rl.sh's study, and a mistake.

    python examples/desk/rl_without_resets.py ...   # flags of internvl_chat_rl.py

The prefix cache is not emptied when new weights come, and the bound on the
difference of served and trained log-probabilities, which would stop such a
run, is lifted.
"""

from __future__ import annotations

import sys
from functools import partial

from internvl.rl import sync
from internvl.train import internvl_chat_rl

from mm_prm import cli

sync.reload = partial(sync.reload, without={"/reset_prefix_cache"})

if __name__ == "__main__":
    sys.argv += ["--max_mismatch", "1e9"]
    cli.run(internvl_chat_rl.main)
