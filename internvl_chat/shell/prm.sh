#!/bin/sh
# What all PRM scripts share. Called by the scripts in 2nd_finetune, which name the checkpoint to start from.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)

# A path is one solution with its labels. Several in a micro-batch: those of one problem share their picture and prefixes.
export BATCH_SIZE="${BATCH_SIZE:-512}"
export PER_DEVICE_BATCH_SIZE="${PER_DEVICE_BATCH_SIZE:-16}"
export META_PATH="${META_PATH:-$HERE/data/prm.json}"

# The paper's text and the released script differ
PRESET=${PRESET:-paper}
case $PRESET in
  paper) LEARNING_RATE=${LEARNING_RATE:-4e-6} EPOCHS=${EPOCHS:-1} ;;
  released) LEARNING_RATE=${LEARNING_RATE:-2e-6} EPOCHS=${EPOCHS:-3} ;;
  *) echo "error: PRESET=$PRESET: must be paper or released" >&2; exit 2 ;;
esac

exec sh "$HERE/launch.sh" --objective prm --grad_checkpoint True \
  --learning_rate "$LEARNING_RATE" --num_train_epochs "$EPOCHS" "$@"
