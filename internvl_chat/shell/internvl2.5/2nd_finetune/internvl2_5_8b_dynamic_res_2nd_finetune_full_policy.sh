#!/bin/sh
# Stage 0: solutions JSONL + dataset JSON -> MM-Policy, the paper's settings (8B, 1 epoch, batch 128, vision frozen).
#
#   MODEL_PATH=pretrained/InternVL2_5-8B-native META_PATH=internvl_chat/shell/data/policy.json GPUS=8 sh THIS_SCRIPT
#
# Flags of internvl_chat_finetune.py may follow; they win over what is set here.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)

# Hardware
export GPUS="${GPUS:-8}"
export BATCH_SIZE="${BATCH_SIZE:-128}"
export PER_DEVICE_BATCH_SIZE="${PER_DEVICE_BATCH_SIZE:-1}"

# Data and checkpoints
export MODEL_PATH="${MODEL_PATH:-pretrained/InternVL2_5-8B-native}"
export META_PATH="${META_PATH:-$HERE/../../data/policy.json}"
export OUTPUT_DIR="${OUTPUT_DIR:-work_dirs/mm_policy}"

exec sh "$HERE/../../launch.sh" --objective sft --freeze_backbone True \
  --dynamic_image_size True --max_dynamic_patch 6 --use_thumbnail True --max_seq_length 8192 \
  --learning_rate "${LEARNING_RATE:-4e-5}" --num_train_epochs "${EPOCHS:-1}" "$@"
