# Sourced by launch.sh and rl.sh, with CHAT and ROOT set and their flags as "$@": which processes train, and on what. Sets
# GPUS (processes of this node), NNODES and ENGINE (GPU, or on a machine without one: plain torch, gloo, DeepSpeed).
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}                       # 0 to NNODES - 1
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}           # host of rank 0, the same on every node
MASTER_PORT=${MASTER_PORT:-29500}
ZERO_STAGE=${ZERO_STAGE:-1}                     # 1 shares out the optimizer's state, 3 gradients and weights as well
. "$ROOT/mm_prm/find_python.sh"

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

start_processes() { # script and its flags
  [ "$ENGINE" != "plain torch" ] || exec "$PYTHON" "$@"
  exec "$PYTHON" -m torch.distributed.run --nnodes "$NNODES" --node_rank "$NODE_RANK" --nproc_per_node "$GPUS" \
    --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" "$@"
}

check_number GPUS "$GPUS"
check_number NNODES "$NNODES"
check_number MASTER_PORT "$MASTER_PORT"
check_node
case $ZERO_STAGE in
  1 | 3) ;;
  *) fail "ZERO_STAGE=$ZERO_STAGE: must be 1 or 3" ;;
esac
[ -f "$MODEL_PATH/config.json" ] || fail "MODEL_PATH=$MODEL_PATH: no checkpoint there (config.json is missing)"

ENGINE=GPU FOUND=$(gpus_here)
if [ "$FOUND" -gt 0 ]; then
  [ "$GPUS" -le "$FOUND" ] || fail "GPUS=$GPUS: this machine lets us use $FOUND"
else
  GPUS=${CPU_PROCESSES:-1} NNODES=1
  check_number CPU_PROCESSES "$GPUS"
  case "$GPUS $*" in
    1\ *--deepspeed*) ENGINE=DeepSpeed; export DS_ACCELERATOR=cpu ;;
    *--deepspeed*) fail "CPU_PROCESSES=$GPUS: accelerate runs DeepSpeed on a CPU in one process only" ;;
    1\ *) ENGINE="plain torch" ;;
    *) ENGINE=gloo ;;
  esac
  echo "no GPU found: training on the CPU, processes: $GPUS, $ENGINE"
fi
