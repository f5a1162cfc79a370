#!/bin/sh
# Checkpoint + dataset -> rollouts, step scores, Best-of-N table. What is done is skipped.
#
#   POLICY_MODEL=work_dirs/mm_policy sh eval/evaluate.sh work_dirs/mm_prm k12_prm
#
# DATASET is a benchmark's name (python eval/benchmarks.py --list), a seed-format file, or a rollouts file (then no policy
# is needed). Flags of generate_rollouts.py may follow.
set -eu

[ $# -ge 2 ] || { echo "usage: sh eval/evaluate.sh CHECKPOINT DATASET [flags of generate_rollouts.py]" >&2; exit 2; }
CHECKPOINT=$1
DATASET=$2
shift 2

DATA=${DATA:-data/$DATASET}                     # folder of a benchmark's published files; not needed with --download
OUTPUT_DIR=${OUTPUT_DIR:-outputs/eval/$(basename "$DATASET" .json)}   # set it for another policy or other flags
ROLLOUTS=${ROLLOUTS:-$OUTPUT_DIR/rollouts.json}
SCORE=${SCORE:-}                                # where the metrics go; default: beside the scores
SELECT_ON=${SELECT_ON:-}                        # score file of a dev split that fixes the aggregation

# Policy: a checkpoint to serve here, or the endpoints (URL[,URL]) of servers that run already
POLICY_MODEL=${POLICY_MODEL:-}
export POLICY_ENDPOINT="${POLICY_ENDPOINT:-}"   # the launcher sets it for the servers it starts
POLICY_NAME=${POLICY_NAME:-policy}
PORT=${PORT:-8000}
VLLM_ARGS=${VLLM_ARGS:-}

# Scoring
GPUS=${GPUS:-1}                                 # processes that share the problems, one GPU each
IMAGE_ROOT=${IMAGE_ROOT:-}                      # of relative image paths; default: the rollouts' folder
STEP_SEPARATOR=${STEP_SEPARATOR-\\n\\n}         # between <prm> and the next step; empty: the released evaluation's

PYTHON=${PYTHON:-python}
HERE=$(cd "$(dirname "$0")" && pwd)

fail() {
  echo "error: $*" >&2
  exit 2
}

made_for() { # FILE WHAT: whether the file was made for what its note says; a file without a note is trusted
  [ ! -e "$1.made_for" ] || [ "$(cat "$1.made_for")" = "$2" ]
}

[ -f "$CHECKPOINT/config.json" ] || fail "$CHECKPOINT: no checkpoint there (config.json is missing)"
if [ -f "$DATASET" ]; then
  BENCHMARK=seed DATA=$DATASET
else
  "$PYTHON" "$HERE/benchmarks.py" --list | grep -q "^$DATASET: " || fail "$DATASET: no such file, and no benchmark's name"
  BENCHMARK=$DATASET
fi

DRAWN_BY="$BENCHMARK $DATA $POLICY_MODEL $POLICY_ENDPOINT $POLICY_NAME $*"
if [ -f "$DATASET" ] && grep -q '"solutions_splits"' "$DATASET"; then
  ROLLOUTS=$DATASET
elif [ "$ROLLOUTS" -nt "$DATA" ] || { [ -f "$ROLLOUTS" ] && [ ! -e "$DATA" ]; }; then
  [ -z "$POLICY_MODEL$POLICY_ENDPOINT" ] || made_for "$ROLLOUTS" "$DRAWN_BY" ||
    fail "$ROLLOUTS was drawn by another policy or with other flags: set OUTPUT_DIR"
  echo "reusing the candidates in $ROLLOUTS"
else
  rm -f "$ROLLOUTS"                             # made from an older version of the dataset, if it is there at all
  mkdir -p "$OUTPUT_DIR"
  printf "%s\n" "$DRAWN_BY" >"$ROLLOUTS.made_for"
  [ ! -e "$DATA" ] || set -- --data "$DATA" "$@"
  set -- "$PYTHON" "$HERE/generate_rollouts.py" --benchmark "$BENCHMARK" \
    --output_file "$ROLLOUTS" --model "$POLICY_NAME" "$@"
  if [ -n "$POLICY_ENDPOINT" ]; then
    "$@"
  else
    [ -n "$POLICY_MODEL" ] || fail "set POLICY_MODEL (checkpoint) or POLICY_ENDPOINT (running server)"
    # shellcheck disable=SC2086  # VLLM_ARGS is a list of flags
    "$PYTHON" "$HERE/../data_pipeline/serve_policy.py" --model "$POLICY_MODEL" --name "$POLICY_NAME" --port "$PORT" \
      --log "$OUTPUT_DIR/policy_server.log" $VLLM_ARGS -- "$@"
  fi
fi

SCORED=${SCORED:-$OUTPUT_DIR/$(basename "$CHECKPOINT")_scored.json}
SCORED_BY="$(cd "$CHECKPOINT" && pwd) $STEP_SEPARATOR $(cd "$(dirname "$ROLLOUTS")" && pwd)/$(basename "$ROLLOUTS")"
if [ "$SCORED" -nt "$ROLLOUTS" ] && [ "$SCORED" -nt "$CHECKPOINT/config.json" ] && made_for "$SCORED" "$SCORED_BY"; then
  echo "reusing the scores in $SCORED"
else
  rm -f "$SCORED"
  set -- "$HERE/prm/evaluate_prm.py" --checkpoint "$CHECKPOINT" --input_file "$ROLLOUTS" --output_file "$SCORED" \
    --step_separator "$STEP_SEPARATOR" ${IMAGE_ROOT:+--image_root "$IMAGE_ROOT"}
  [ "$GPUS" = 1 ] || set -- -m torch.distributed.run --nproc_per_node "$GPUS" "$@"
  mkdir -p "$(dirname "$SCORED")"
  printf "%s\n" "$SCORED_BY" >"$SCORED.made_for"  # echo would read \n
  "$PYTHON" "$@"
fi
exec "$PYTHON" "$HERE/prm/extract_calculate.py" --input_file "$SCORED" \
  ${SCORE:+--output_file "$SCORE"} ${SELECT_ON:+--select_on "$SELECT_ON"}
