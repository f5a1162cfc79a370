#!/bin/sh
# Stage 5: dataset JSON + 8B checkpoint -> PRM. Language model and projector are trained, the vision tower is frozen.
#
#   GPUS=8 sh THIS_SCRIPT
#
# Flags of internvl_chat_finetune.py may follow; they win over what is set here.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)

# ZeRO-1 on 8 GPUs takes 2 x 8.1 + 2 x 7.8 + 12 x 7.8 / 8 = 44 GB per GPU; activations come on top.
export GPUS="${GPUS:-8}"
export MODEL_PATH="${MODEL_PATH:-work_dirs/mm_policy}"
export OUTPUT_DIR="${OUTPUT_DIR:-work_dirs/mm_prm_8b}"

exec sh "$HERE/../../prm.sh" "$@"
