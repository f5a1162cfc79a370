#!/bin/sh
# Start the fine-tune script under torchrun on this node's GPUs, or on its CPU when it has none. Called by the scripts in
# 2nd_finetune, which set the variables below; flags are passed through and win over what is set here.
set -eu

: "${MODEL_PATH:?}" "${META_PATH:?}" "${OUTPUT_DIR:?}" "${GPUS:?}" "${BATCH_SIZE:?}" "${PER_DEVICE_BATCH_SIZE:?}"
CHAT=$(cd "$(dirname "$0")/.." && pwd)
ROOT=$(dirname "$CHAT")
. "$CHAT/shell/processes.sh"

check_number BATCH_SIZE "$BATCH_SIZE"
check_number PER_DEVICE_BATCH_SIZE "$PER_DEVICE_BATCH_SIZE"
case "$ZERO_STAGE $*" in
  3\ *--use_llm_lora*) fail "ZERO_STAGE=3: adapters cannot be merged into weights that are spread over GPUs, use 1" ;;
esac
[ -f "$META_PATH" ] || fail "META_PATH=$META_PATH: no such dataset file"
case $ENGINE in
  GPU) set -- --deepspeed "$CHAT/zero_stage${ZERO_STAGE}_config.json" --dataloader_num_workers 4 "$@" ;;
  gloo) set -- --use_cpu True --ddp_backend gloo "$@" ;;
esac

WORLD=$((GPUS * NNODES))
ACCUMULATION=$((BATCH_SIZE / (PER_DEVICE_BATCH_SIZE * WORLD)))
[ $((ACCUMULATION * PER_DEVICE_BATCH_SIZE * WORLD)) -eq "$BATCH_SIZE" ] ||
  fail "BATCH_SIZE=$BATCH_SIZE is not a multiple of PER_DEVICE_BATCH_SIZE=$PER_DEVICE_BATCH_SIZE x $WORLD processes"
echo "batch $BATCH_SIZE = $PER_DEVICE_BATCH_SIZE per process x $WORLD processes x $ACCUMULATION accumulation steps"

# Curves: tensorboard --logdir "$OUTPUT_DIR/runs"
set -- "$CHAT/internvl/train/internvl_chat_finetune.py" \
  --model_name_or_path "$MODEL_PATH" --meta_path "$META_PATH" --output_dir "$OUTPUT_DIR" \
  --freeze_backbone True --dynamic_image_size True --max_dynamic_patch 6 --use_thumbnail True --max_seq_length 8192 \
  --per_device_train_batch_size "$PER_DEVICE_BATCH_SIZE" --gradient_accumulation_steps "$ACCUMULATION" \
  --logging_steps 1 --save_steps 200 --save_total_limit 1 --report_to tensorboard "$@"
start_processes "$@"
