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
SCORED=${SCORED:-$OUTPUT_DIR/$(basename "$CHECKPOINT")_scored.json}
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
TEXT=${TEXT:-training}                          # what the PRM reads; released: exactly as in the released evaluation
# STEP_SEPARATOR, where set (empty, too), stands between <prm> and the next step in place of that of TEXT

HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(dirname "$HERE")
. "$ROOT/mm_prm/find_python.sh"

whole_path() { # of a file or folder, links resolved; a name that is neither stays as it is
  realpath -e -- "$1" 2>/dev/null || echo "$1"
}

# A note beside a file says what it was made for
note() { # FILE WHAT
  mkdir -p "$(dirname "$1")"
  printf '%s\n' "$2" >"$1.made_for"             # echo would read \n
}

holds_candidates() { # FILE: the first line of a partial file says how they are drawn
  case $1 in
    *.partial.jsonl) [ -e "$1" ] && [ "$(wc -l <"$1")" -gt 1 ] ;;
    *) [ -e "$1" ] ;;
  esac
}

made_for() { # FILE WHAT: whether the note says so; a file without one is trusted
  [ ! -e "$1.made_for" ] || [ "$(cat "$1.made_for")" = "$2" ]
}

[ -f "$CHECKPOINT/config.json" ] || fail "$CHECKPOINT: no checkpoint there (config.json is missing)"
if [ -f "$DATASET" ]; then
  BENCHMARK=seed DATA=$DATASET
else
  BENCHMARK=$DATASET
  [ "$DATASET" != seed ] && "$PYTHON" "$HERE/benchmarks.py" --list | cut -d: -f1 | grep -Fx -e "$DATASET" >/dev/null ||
    fail "$DATASET: no such file, and no benchmark's name"
fi

if [ -f "$DATASET" ] && grep -q '"solutions_splits"' "$DATASET"; then
  [ $# -eq 0 ] || fail "$DATASET holds candidates already: $* would change nothing"
  ROLLOUTS=$DATASET
else
  DRAWN_FROM="$BENCHMARK $(whole_path "$DATA")"
  DRAWN_BY="$DRAWN_FROM $(whole_path "$POLICY_MODEL") $POLICY_NAME $*"
  for made in "$ROLLOUTS" "$ROLLOUTS.partial.jsonl"; do
    [ -z "$POLICY_MODEL$POLICY_ENDPOINT" ] || ! holds_candidates "$made" || made_for "$ROLLOUTS" "$DRAWN_BY" ||
      fail "$made was drawn by another policy or with other flags: repeat them, set OUTPUT_DIR, or remove it"
  done
fi
if [ -e "$ROLLOUTS" ]; then
  [ "$ROLLOUTS" = "$DATASET" ] || [ ! -f "$DATASET" ] || [ ! "$DATASET" -nt "$ROLLOUTS" ] ||
    fail "$DATASET is newer than its candidates in $ROLLOUTS: remove them, or set OUTPUT_DIR"
  [ "$ROLLOUTS" = "$DATASET" ] || echo "reusing the candidates in $ROLLOUTS"
  if [ -e "$ROLLOUTS.made_for" ] && [ "$ROLLOUTS" != "$DATASET" ]; then
    case $(cat "$ROLLOUTS.made_for") in
      "$DRAWN_FROM "*) ;;
      *) fail "$ROLLOUTS was drawn for another dataset: set OUTPUT_DIR, or remove it" ;;
    esac
  fi
  [ $# -eq 0 ] || { [ -n "$POLICY_MODEL$POLICY_ENDPOINT" ] && [ -e "$ROLLOUTS.made_for" ]; } ||
    fail "the candidates are drawn already: $* would change nothing"
else
  [ -n "$POLICY_MODEL$POLICY_ENDPOINT" ] || fail "set POLICY_MODEL (checkpoint) or POLICY_ENDPOINT (running server)"
  case " $* " in
    *" --download "*) ;;
    *) [ -e "$DATA" ] || fail "DATA=$DATA: not there; put the benchmark's files there, or add --download" ;;
  esac
  note "$ROLLOUTS" "$DRAWN_BY"
  [ ! -e "$DATA" ] || set -- --data "$DATA" "$@"
  set -- "$PYTHON" "$HERE/generate_rollouts.py" --benchmark "$BENCHMARK" \
    --output_file "$ROLLOUTS" --model "$POLICY_NAME" "$@"
  if [ -n "$POLICY_ENDPOINT" ]; then
    "$@"
  else
    check_first "$@"
    # shellcheck disable=SC2086  # VLLM_ARGS is a list of flags
    "$PYTHON" "$HERE/../data_pipeline/serve_policy.py" --model "$POLICY_MODEL" --name "$POLICY_NAME" --port "$PORT" \
      --log "$ROLLOUTS.server.log" $VLLM_ARGS -- "$@"
  fi
fi

[ ! "$SCORED" -ef "$ROLLOUTS" ] || fail "SCORED=$SCORED is the file of the candidates: set OUTPUT_DIR"
SCORED_BY="$(whole_path "$CHECKPOINT") $TEXT ${STEP_SEPARATOR-of $TEXT} $(whole_path "$IMAGE_ROOT") $(whole_path "$ROLLOUTS") $(cksum <"$ROLLOUTS")"
if [ "$SCORED" -nt "$CHECKPOINT/config.json" ] && [ -e "$SCORED.made_for" ] && made_for "$SCORED" "$SCORED_BY"; then
  echo "reusing the scores in $SCORED"
else
  set -- "$HERE/prm/evaluate_prm.py" --checkpoint "$CHECKPOINT" --input_file "$ROLLOUTS" --output_file "$SCORED" \
    --text "$TEXT" ${STEP_SEPARATOR+--step_separator "$STEP_SEPARATOR"} ${IMAGE_ROOT:+--image_root "$IMAGE_ROOT"}
  [ "$GPUS" = 1 ] || set -- -m torch.distributed.run --standalone --nproc_per_node "$GPUS" "$@"
  mkdir -p "$(dirname "$SCORED")"
  "$PYTHON" "$@"
  note "$SCORED" "$SCORED_BY"
fi
exec "$PYTHON" "$HERE/prm/extract_calculate.py" --input_file "$SCORED" \
  ${SCORE:+--output_file "$SCORE"} ${SELECT_ON:+--select_on "$SELECT_ON"}
