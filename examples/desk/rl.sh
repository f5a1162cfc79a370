#!/usr/bin/env bash
# Stage 7 at desk scale: the desk policy, made better by rule-based reinforcement learning on problems it has not seen.
#
#   bash examples/desk/rl.sh --quick   CPGD, 12 rollouts of 16 prompts x 8 answers: 3 to 6 minutes on 2 CPU cores
#   bash examples/desk/rl.sh           the study of docs/desk_rl.md: 87 runs, three to five hours, after quickstart.sh
#
# --quick: the policy is that of quickstart.sh (runs/desk/policy) if it is there, else it is made here first. The last line
# is `pass@1 A -> B %, mismatch M`, on 150 held-out problems; the exit code is 1 when B is below 75, or, on a CPU, M above
# 1e-4.
#
# The study: LANES (2) servers and runs side by side, one core each. rl_study.py holds the criterion of collapse and makes
# tables and figures of what is finished. For machines without a GPU. Run either again after an interruption: what is
# finished is not done again.
set -euo pipefail
cd "$(dirname "$0")/../.."
case ${1:-} in
  '' | --quick | --lane) ;;
  -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' examples/desk/rl.sh; exit ;;
  *) echo "error: $1: rl.sh takes --quick alone" >&2; exit 2 ;;
esac
source examples/desk/common.sh

RUN=${DESK_RUN:-runs/desk_rl}
DATA=$RUN/data
STUDY=${STUDY:-runs/desk}
POLICY=$STUDY/policy PRM=$STUDY/prm_plain
LANES=${LANES:-2}
SCRIPT=internvl_chat/internvl/train/internvl_chat_rl.py

prepare() {
  bash install.sh
  mkdir -p "$RUN/logs"
  stage "making problems with pictures (10 s)" "$DATA/sft_meta.json" "$PYTHON" examples/desk/make_problems.py \
    --output_dir "$DATA" --train 4000 --solutions 2 --annotate 400 --dev 150 --test 100
}

# ---------------------------------------------------------------- one run

quick() {
  if [ ! -e "$POLICY/train_results.json" ]; then
    POLICY=$RUN/policy
    stage "stage 0: fine-tuning MM-Policy on the teacher's solutions (90 s)" "$POLICY/train_results.json" \
      train_policy "$DATA/sft_meta.json" "$POLICY"
  fi
  local bound=(--max_mismatch 1e-4) # of float32; a GPU trains in bfloat16
  ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || bound=()
  MODEL_PATH=$POLICY SEED_FILE=$DATA/annotate.json OUTPUT_DIR=$RUN/cpgd GPUS=1 CONTEXT=512 PROMPTS=16 UPDATES=4 \
    LEARNING_RATE=2e-4 VLLM_ARGS='--limit-mm-per-prompt {"image":1,"video":0}' \
    stage "stage 7: 12 rollouts of CPGD (2 to 3 minutes)" "$RUN/cpgd/train_results.json" \
    sh internvl_chat/shell/internvl2.5/rl/internvl2_5_8b_cpgd.sh --eval_file "$DATA/dev.json" --steps 12 --eval_every 6 \
    --lr_scheduler_type constant --max_new_tokens 160 --row_prompts 4 --freeze_mlp False --grad_checkpoint False \
    --judge rule "${bound[@]}"
  "$PYTHON" examples/desk/rl_report.py --run_dir "$RUN/cpgd" --least 75
}

# ---------------------------------------------------------------- the study

list_runs() { # in the order in which they are done: name, script, seed file, flags
  local seed algorithm rate mode
  for seed in 0 1 2; do # all algorithms at the good rate
    for algorithm in cpgd grpo grpo_dual_clip rloo reinforce_plus_plus cpg cpgd_released pgd pg; do
      echo "${algorithm}_2e-4_$seed $SCRIPT annotate --algorithm $algorithm --learning_rate 2e-4 --seed $seed"
    done
  done
  for seed in 0 1 2 3 4; do # stability: the edge, and two more seeds of the good rate
    for rate in 1e-3 2e-4; do
      for algorithm in grpo grpo_dual_clip rloo reinforce_plus_plus cpg cpgd; do
        echo "${algorithm}_${rate}_$seed $SCRIPT annotate --algorithm $algorithm --learning_rate $rate --seed $seed"
      done
    done
  done
  for seed in 0 1 2; do # the PRM as a reward; `none` is the cpgd above
    for mode in drop delta min mean; do
      echo "cpgd_${mode}_$seed $SCRIPT annotate --algorithm cpgd --learning_rate 2e-4 --seed $seed --prm $PRM --prm_mode $mode"
    done
  done
  for seed in 0 1 2; do # the control: few problems, so that prompts come again, with the caches emptied and not
    echo "with_resets_$seed $SCRIPT few --algorithm cpgd --learning_rate 2e-4 --seed $seed"
    echo "without_resets_$seed examples/desk/rl_without_resets.py few --algorithm cpgd --learning_rate 2e-4 --seed $seed"
  done
}

train() { # name, script, seed file, flags: 12 rollouts, 8 optimizer steps each, at a constant rate
  local output=$RUN/runs/$1 script=$2 seeds=$DATA/$3.json errors=$RUN/logs/$1.err
  shift 3
  if "$PYTHON" "$script" --model_name_or_path "$POLICY" --seed_file "$seeds" --output_dir "$output" --judge rule \
    --eval_file "$DATA/dev.json" --eval_rollouts 2 --eval_every 3 --steps 12 --save_every 12 --prompts 16 \
    --updates_per_rollout 8 --row_prompts 2 --lr_scheduler_type constant --max_new_tokens 160 "$@" 2>"$errors"; then
    rm -rf "$output"/checkpoint-*
  else # a policy that has run away ends its run, and is a result; anything else is tried again
    tail -n 1 "$errors"
    grep -E 'gradient is not finite|does not serve the weights' "$errors" >"$RUN/stopped.tmp.$$" || return 1
    mv "$RUN/stopped.tmp.$$" "$output/stopped.txt"
  fi
}

load() { # a checkpoint into this lane's server
  "$PYTHON" examples/desk/rl_study.py --load "$1" --policy_endpoint "$POLICY_ENDPOINT"
}

score() { # name of the candidates, PRM, output file
  "$PYTHON" eval/prm/evaluate_prm.py --checkpoint "$2" --input_file "$RUN/candidates/$1.json" --output_file "$3"
}

candidates() { # name, checkpoint, PRM: 16 for every test problem, scored
  load "$2" && make_rollouts "$DATA/test.json" "$RUN/candidates/$1.json" &&
    score "$1" "$3" "$RUN/scored/$1.json"
}

circle() { # name, checkpoint: trees of a trained policy, a PRM from them, its own candidates scored by it
  local folder=$RUN/circle/$1
  load "$2" && stage "its trees" "$folder/trees.done" make_trees "$DATA/annotate.json" "$folder" 8 6 &&
    stage "its labelled paths" "$folder/prm_meta.json" \
      make_rows "$folder/trees" "$DATA" "$folder/prm" --labels_from rollouts &&
    stage "its PRM" "$folder/prm/train_results.json" train_prm "$2" "$folder/prm_meta.json" "$folder/prm" 4 5e-4 &&
    score "$1" "$folder/prm" "$RUN/scored/$1_own.json"
}

lane() { # its number: the runs whose turn it is, one after the other, beside its own server
  local name flags runs=$RUN/runs
  [ "$1" != 0 ] || stage "candidates of the first policy" "$RUN/scored/first.json" candidates first "$POLICY" "$PRM"
  while read -r name flags <&3; do
    [ ! -e "$runs/$name/stopped.txt" ] || continue
    # shellcheck disable=SC2086  # a list of flags
    stage "$name" "$runs/$name/train_results.json" train "$name" $flags ||
      { echo "$name: exit code $?, left for the next call"; continue; }
    [ ! -e "$runs/$name/stopped.txt" ] || continue
    case $name in
      *_2e-4_[012] | cpgd_[dm]*_[012]) # not the edge, not the control
        stage "candidates of $name" "$RUN/scored/$name.json" candidates "$name" "$runs/$name" "$PRM" ||
          { echo "candidates of $name: exit code $?, left for the next call"; continue; } ;;
    esac
    case $name in
      cpgd_2e-4_[012])
        stage "the circle of $name" "$RUN/scored/${name}_own.json" circle "$name" "$runs/$name" ||
          echo "the circle of $name: exit code $?, left for the next call" ;;
    esac
  done 3< <(list_runs | awk -v lane="$1" -v lanes="$LANES" '!seen[$0]++ && n++ % lanes == lane')
}

serve_lane() { # its number: this script again, beside a server that takes new weights (as internvl_chat/shell/rl.sh)
  export OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_SERVER_DEV_MODE=1
  exec "$PYTHON" data_pipeline/serve_policy.py --model "$POLICY" --port $((PORT + $1)) --log "$RUN/logs/server_$1.log" \
    --max-model-len 512 --dtype float32 --limit-mm-per-prompt '{"image": 1, "video": 0}' \
    --worker-extension-cls internvl.rl.sync.WeightLoader --logprobs-mode processed_logprobs \
    -- bash examples/desk/rl.sh --lane "$1" </dev/null >>"$RUN/logs/lane_$1.log" 2>&1
}

study() {
  need_study "$STUDY"
  mkdir -p "$RUN/candidates" "$RUN/scored"
  stage "32 of the problems, for the control" "$DATA/few.json" "$PYTHON" -c '
import json, sys
json.dump(json.load(open(sys.argv[1]))[:32], open(sys.argv[2], "w"))' "$DATA/annotate.json" "$DATA/few.json"
  local number lanes=()
  for number in $(seq 0 $((LANES - 1))); do
    serve_lane "$number" &
    lanes+=($!)
    echo "== lane $number: $RUN/logs/lane_$number.log"
  done
  trap 'kill "${lanes[@]}" 2>/dev/null' EXIT
  wait "${lanes[@]}" || true
  "$PYTHON" examples/desk/rl_study.py --run_dir "$RUN"
  local left=0 name
  while read -r name _; do
    [ -e "$RUN/runs/$name/train_results.json" ] || [ -e "$RUN/runs/$name/stopped.txt" ] || left=$((left + 1))
  done < <(list_runs | sort -u)
  [ $left -eq 0 ] || { echo "$left runs are left: run again to go on" >&2; exit 3; }
}

case ${1:-} in
  --quick) prepare; quick ;;
  --lane) lane "$2" ;;
  *) prepare; study ;;
esac
