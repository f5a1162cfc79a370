#!/bin/sh
# Stage 5: dataset JSON + policy checkpoint -> PRM. Language model and projector are trained, the vision tower is frozen.
#
#   MODEL_PATH=work_dirs/mm_policy META_PATH=internvl_chat/shell/data/prm.json GPUS=8 sh THIS_SCRIPT
#
# Flags of internvl_chat_finetune.py may follow; they win over what is set here.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)

# Hardware
export GPUS="${GPUS:-8}"
export BATCH_SIZE="${BATCH_SIZE:-512}"
export PER_DEVICE_BATCH_SIZE="${PER_DEVICE_BATCH_SIZE:-1}"

# Data and checkpoints
export MODEL_PATH="${MODEL_PATH:-work_dirs/mm_policy}"
export META_PATH="${META_PATH:-$HERE/../../data/prm.json}"
export OUTPUT_DIR="${OUTPUT_DIR:-work_dirs/mm_prm}"

# The paper's text and the released script differ
PRESET=${PRESET:-paper}
case $PRESET in
  paper) LEARNING_RATE=${LEARNING_RATE:-4e-6} EPOCHS=${EPOCHS:-1} ;;
  released) LEARNING_RATE=${LEARNING_RATE:-2e-6} EPOCHS=${EPOCHS:-3} ;;
  *) echo "error: PRESET=$PRESET: must be paper or released" >&2; exit 2 ;;
esac

exec sh "$HERE/../../launch.sh" --objective prm --freeze_backbone True \
  --dynamic_image_size True --max_dynamic_patch 6 --use_thumbnail True --max_seq_length 8192 --grad_checkpoint True \
  --learning_rate "$LEARNING_RATE" --num_train_epochs "$EPOCHS" "$@"
