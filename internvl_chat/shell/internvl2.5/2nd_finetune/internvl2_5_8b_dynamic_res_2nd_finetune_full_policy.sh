#!/bin/sh
# Stage 0: solutions JSONL + dataset JSON -> MM-Policy, the paper's settings (8B, 1 epoch, batch 128, vision frozen).
#
#   GPUS=8 sh THIS_SCRIPT
#
# Flags of internvl_chat_finetune.py may follow; they win over what is set here.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)

export GPUS="${GPUS:-8}"
export BATCH_SIZE="${BATCH_SIZE:-128}"
export PER_DEVICE_BATCH_SIZE="${PER_DEVICE_BATCH_SIZE:-1}"
export MODEL_PATH="${MODEL_PATH:-pretrained/InternVL2_5-8B-native}"
export META_PATH="${META_PATH:-$HERE/../../data/policy.json}"
export OUTPUT_DIR="${OUTPUT_DIR:-work_dirs/mm_policy}"

exec sh "$HERE/../../launch.sh" --objective sft --grad_checkpoint True \
  --learning_rate "${LEARNING_RATE:-4e-5}" --num_train_epochs "${EPOCHS:-1}" "$@"
