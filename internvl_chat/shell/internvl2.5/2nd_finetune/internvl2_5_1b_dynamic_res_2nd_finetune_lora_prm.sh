#!/bin/sh
# Stage 5 on one GPU: dataset JSON + 1B checkpoint -> PRM. Adapters in the language model and the projector are trained.
#
#   sh THIS_SCRIPT
#
# Flags of internvl_chat_finetune.py may follow; they win over what is set here.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)

export GPUS="${GPUS:-1}"
export MODEL_PATH="${MODEL_PATH:-pretrained/InternVL2_5-1B-native}"
export OUTPUT_DIR="${OUTPUT_DIR:-work_dirs/mm_prm_1b_lora}"
export LEARNING_RATE="${LEARNING_RATE:-4e-5}"   # ours, under both presets: adapters start at nothing

exec sh "$HERE/../../prm.sh" --use_llm_lora 16 "$@"
