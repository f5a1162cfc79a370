#!/bin/sh
# Start the fine-tune script under torchrun on this node's GPUs, or on its CPU when it has none. Called by the scripts in
# 2nd_finetune, which set the variables below; flags are passed through and win over what is set here.
set -eu

: "${MODEL_PATH:?}" "${META_PATH:?}" "${OUTPUT_DIR:?}" "${GPUS:?}" "${BATCH_SIZE:?}" "${PER_DEVICE_BATCH_SIZE:?}"
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}                       # 0 to NNODES - 1
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}           # host of rank 0, the same on every node
MASTER_PORT=${MASTER_PORT:-29500}
ZERO_STAGE=${ZERO_STAGE:-1}                     # 1 shares out the optimizer's state, 3 gradients and weights as well
CHAT=$(cd "$(dirname "$0")/.." && pwd)
ROOT=$(dirname "$CHAT")
. "$ROOT/mm_prm/find_python.sh"

fail() {
  echo "error: $*" >&2
  exit 2
}

check_number() { # NAME VALUE
  case $2 in
    '' | 0* | *[!0-9]*) fail "$1=$2: must be a whole number of at least 1" ;;
  esac
}

gpus_here() {
  found=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU') || found=0
  if [ "$found" -gt 0 ] && [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    found=$(echo "$CUDA_VISIBLE_DEVICES" | tr , '\n' | grep -c '^[^-]') || found=0   # -1 hides them all
  fi
  echo "$found"
}

check_number GPUS "$GPUS"
check_number NNODES "$NNODES"
check_number BATCH_SIZE "$BATCH_SIZE"
check_number PER_DEVICE_BATCH_SIZE "$PER_DEVICE_BATCH_SIZE"
check_number MASTER_PORT "$MASTER_PORT"
[ "$NODE_RANK" -ge 0 ] 2>/dev/null && [ "$NODE_RANK" -lt "$NNODES" ] 2>/dev/null ||
  fail "NODE_RANK=$NODE_RANK: must be a number from 0 to NNODES - 1 (NNODES=$NNODES)"
case "$ZERO_STAGE $*" in
  3\ *--use_llm_lora*) fail "ZERO_STAGE=3: adapters cannot be merged into weights that are spread over GPUs, use 1" ;;
  1\ * | 3\ *) ;;
  *) fail "ZERO_STAGE=$ZERO_STAGE: must be 1 or 3" ;;
esac
[ -f "$MODEL_PATH/config.json" ] || fail "MODEL_PATH=$MODEL_PATH: no checkpoint there (config.json is missing)"
[ -f "$META_PATH" ] || fail "META_PATH=$META_PATH: no such dataset file"

FOUND=$(gpus_here)
if [ "$FOUND" -gt 0 ]; then
  [ "$GPUS" -le "$FOUND" ] || fail "GPUS=$GPUS: this machine lets us use $FOUND"
  LAUNCHER=torchrun
  set -- --deepspeed "$CHAT/zero_stage${ZERO_STAGE}_config.json" --dataloader_num_workers 4 "$@"
else
  GPUS=${CPU_PROCESSES:-1} NNODES=1 LAUNCHER=torchrun
  check_number CPU_PROCESSES "$GPUS"
  case "$GPUS $*" in
    1\ *--deepspeed*) ENGINE=DeepSpeed; export DS_ACCELERATOR=cpu ;;
    *--deepspeed*) fail "CPU_PROCESSES=$GPUS: accelerate runs DeepSpeed on a CPU in one process only" ;;
    1\ *) ENGINE="plain torch" LAUNCHER= ;;
    *) ENGINE=gloo; set -- --use_cpu True --ddp_backend gloo "$@" ;;
  esac
  echo "no GPU found: training on the CPU, processes: $GPUS, $ENGINE"
fi

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
[ "$LAUNCHER" ] || exec "$PYTHON" "$@"
exec "$PYTHON" -m torch.distributed.run --nnodes "$NNODES" --node_rank "$NODE_RANK" --nproc_per_node "$GPUS" \
  --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" "$@"
