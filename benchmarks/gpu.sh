#!/usr/bin/env bash
# What a GPU makes of this project: is it right there, how fast is it, and does a trained PRM come out the same?
#
#   bash benchmarks/gpu.sh                        under 10 minutes on one GPU; results in runs/gpu
#   bash benchmarks/gpu.sh --output_dir DIR       elsewhere
#   bash benchmarks/gpu.sh --tiny                 all of it at toy size, on a CPU: 11 minutes; shows that it runs
#
# Needs torch, transformers, accelerate, peft, timm and safetensors and runs from the checkout as it is, nothing installed.
# Every part is a process with a time limit of its own; one that fails or is cut off costs the others nothing.
# results.json and results.md are written anew after each part. PARTS="packing train_8b" runs some of them.
set -uo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD OUT=runs/gpu TINY=
while [ $# -gt 0 ]; do
  case $1 in
    --tiny) TINY=--tiny ;;
    --output_dir) OUT=${2:?--output_dir needs a folder}; shift ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' benchmarks/gpu.sh; exit ;;
    *) echo "error: $1: gpu.sh takes --tiny and --output_dir alone" >&2; exit 2 ;;
  esac
  shift
done
. mm_prm/find_python.sh
export PYTHONPATH=$ROOT:$ROOT/internvl_chat:$ROOT/internvl_chat/tools:$ROOT/eval/prm:$ROOT/examples/desk:$ROOT/benchmarks
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
mkdir -p "$OUT"
FAILED=0

part() { # name, seconds planned, command...: its log is OUT/name.log, its result OUT/name.json
  local name=$1 planned=$2 started=$SECONDS code=0
  shift 2
  case " ${PARTS:-$name} " in *" $name "*) ;; *) return ;; esac
  rm -f "$OUT/$name.json"
  timeout -k 5 $((LIMIT * planned)) "$@" >"$OUT/$name.log" 2>&1 || code=$?
  [ $code -eq 0 ] || FAILED=1
  echo "$name: $((SECONDS - started)) s of $planned planned, exit code $code"
  "$PYTHON" benchmarks/gpu_report.py --output_dir "$OUT" --part "$name" --exit_code $code --planned "$planned" \
    --seconds $((SECONDS - started)) || FAILED=1
}

check() { # name, seconds planned
  part "$1" "$2" "$PYTHON" benchmarks/gpu_checks.py "$1" --output_dir "$OUT" $TINY
}

bench() { # name, seconds planned, script, flags
  local name=$1 planned=$2 script=$3
  shift 3
  part "$name" "$planned" "$PYTHON" "benchmarks/$script.py" --output_file "$OUT/$name.json" "$@"
}

LIMIT=2 SMALL=1b LARGE=8b ROUNDS=3 WAYS="segments flex_attention"
if [ "$TINY" ]; then
  LIMIT=20 SMALL=tiny LARGE=tiny ROUNDS=1 WAYS=segments # FlexAttention has no backward on a CPU
  export OMP_WAIT_POLICY=PASSIVE # two processes share the cores, and spinning threads would fight for them
fi

# The desk PRM is trained on the CPU meanwhile, to be compared with the GPU's.
case " ${PARTS:-desk} " in
  *" desk "*) CUDA_VISIBLE_DEVICES='' "$PYTHON" benchmarks/gpu_checks.py desk --train_only --output_dir "$OUT" $TINY \
    >"$OUT/desk_cpu.log" 2>&1 & ;;
esac
check packing 30
check rl 30
check attention 50
bench train_8b 60 train_prm --shape "$LARGE" --dtype bfloat16 --attention $WAYS --rounds "$ROUNDS"
bench train_8b_checkpointing 50 train_prm --shape "$LARGE" --dtype bfloat16 --rounds 2 --grad_checkpoint
check profile 30
bench score_8b 50 score_candidates --shape "$LARGE" --dtype bfloat16 --rounds "$ROUNDS"
bench search_8b 40 guided_search prm --shape "$LARGE" --dtype bfloat16
bench rl_8b 50 rl_step update --shape "$LARGE" --dtype bfloat16 --rounds 2 --grad_checkpoint
bench train_1b 30 train_prm --shape "$SMALL" --dtype bfloat16 --attention $WAYS --rounds "$ROUNDS"
bench score_1b 20 score_candidates --shape "$SMALL" --dtype bfloat16 float32 --rounds "$ROUNDS"
wait
check desk 50
check scores 30
check converted 30
echo "results: $OUT/results.md, $OUT/results.json"
exit $FAILED
