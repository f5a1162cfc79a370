#!/bin/sh
# Stage 5: dataset JSON + checkpoint -> PRM. Language model and projector are trained, the vision tower is frozen.
#
#   GPUS=8 sh THIS_SCRIPT
#
# The paper's PRM starts from MM-Policy, which has 8B parameters; the released script for it bears this name.
# Flags of internvl_chat_finetune.py may follow; they win over what is set here.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)

# A 38B checkpoint has 38.4B parameters, of which 32.8B are trained: 2 bytes for each weight, and for each trained one 2 of
# gradient and 12 of optimizer. GB per GPU: ZeRO-1 on 8 takes 2 x 38.4 + 2 x 32.8 + 12 x 32.8 / 8 = 192, ZeRO-3 on 8
# (2 x 38.4 + 14 x 32.8) / 8 = 67, on 16 it takes 34; activations come on top. For the 8B policy ZERO_STAGE=1 is enough.
export GPUS="${GPUS:-8}"
export ZERO_STAGE="${ZERO_STAGE:-3}"
export MODEL_PATH="${MODEL_PATH:-work_dirs/mm_policy}"
export OUTPUT_DIR="${OUTPUT_DIR:-work_dirs/mm_prm}"

exec sh "$HERE/../../prm.sh" "$@"
