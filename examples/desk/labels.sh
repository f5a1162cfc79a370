#!/usr/bin/env bash
# What do labels buy, and at what cost? Kinds of labels, numbers of rollouts and wordings, at desk scale: docs/desk_labels.md.
#
#   bash examples/desk/labels.sh      about ten hours on 2 CPU cores; resumable: run it again after an interruption
#
# Policies that say a step in one way, in 10 and in 100; trees and plain rollouts of each, twice; PRMs with different labels,
# five times each (training seeds 0 to 2 on the first set of rollouts, 3 and 4 on the second; three of these where the
# policy is not the one of 100 wordings), all with as many training steps. One policy is finished before the next begins.
# ALL="k100 k1" and ROWS="edges plain8" limit it to some policies and PRMs. A PRM and its scores are removed once measured.
# labels_study.py makes the tables from what is there: Best-of-16 with the rule fixed on dev, and the F1 of finding the
# first wrong step with the threshold fixed on dev, whose truth the generator knows.
set -euo pipefail
cd "$(dirname "$0")/../.."
source examples/desk/common.sh

RUN=${RUN:-runs/desk_labels} JOBS=${JOBS:-2} STEPS=${STEPS:-150}
DRAW+=(--max_new_tokens 256)
DATA=$RUN/data       # pictures and problems of all wordings
BASE=$RUN/base/model # examples/desk/base that has learnt 100 wordings: where all policies start
SELF=examples/desk/labels.sh

# Policy: wordings, how often its teacher slips
POLICIES="
k100     100 0.6
k1       1   0.6
k10      10  0.6
slips30  100 0.3
"

ALL=${ALL:-$(echo "$POLICIES" | awk 'NF { print $1 }') rl}

# Sets of rollouts: problems, rollouts of a state, searches
SETS="
trees       200 8    6
plain2      200 2    0
plain4      200 4    0
plain8      200 8    0
plain16     200 16   0
plain32     200 32   0
plain4x400  400 4    0
plain2x800  800 2    0
plain4-16   200 4:16 0
trees4-16   200 4:16 6
"

# PRM: its rollouts, the loss, flags of traverse.py
PRMS="
edges           trees       soft          --labels_from edges
rollouts        trees       soft          --labels_from rollouts
outcome         trees       soft          --labels_from outcome
own             trees       soft          --labels_from rollout_outcome
plain8          plain8      soft          --labels_from rollout_outcome
plain2          plain2      soft          --labels_from rollout_outcome
plain4          plain4      soft          --labels_from rollout_outcome
plain16         plain16     soft          --labels_from rollout_outcome
plain32         plain32     soft          --labels_from rollout_outcome
plain4x400      plain4x400  soft          --labels_from rollout_outcome
plain2x800      plain2x800  soft          --labels_from rollout_outcome
plain4-16       plain4-16   soft          --labels_from rollout_outcome
trees4-16       trees4-16   soft          --labels_from rollouts
mix             mix         soft          --labels_from outcome
edges_step      trees       soft          --labels_from edges --spelling step
hard            trees       soft          --labels_from rollouts --labels hard
binomial        trees       binomial      --labels_from rollouts
beta_binomial   trees       beta_binomial --labels_from rollouts
guarded         trees       soft          --labels_from rollouts --merge guarded
guarded8        plain8      soft          --labels_from rollouts --merge guarded
hidden          trees       soft          --labels_from rollouts --merge hidden
"
CORNERS="edges rollouts plain8"  # of all policies but k100, which has everything
RUNS=${RUNS:-0-0 1-3 0-1 1-4 0-2} # set of rollouts - training seed

field() { # table, name, number of the field (2- for the rest)
  echo "$1" | tr -s ' ' | grep "^$2 " | cut -d' ' -f"$3"
}

names() { echo "$1" | awk 'NF { print $1 }'; }

prms_of() { # a policy's rows
  local rows=$CORNERS
  [ "$1" != k100 ] || rows=$(names "$PRMS")
  echo "${ROWS:-$rows}" | tr ' ' '\n'
}

runs_of() { if [ "$1" = k100 ]; then echo "$RUNS"; else echo "$RUNS" | cut -d' ' -f1-3; fi; }

sets_of() { # the rollouts that a policy's PRMs need
  prms_of "$1" | while read -r prm; do field "$PRMS" "$prm" 2; done | sed 's/^mix$/plain8/' | sort -u
}

# ---------------------------------------------------------------- policies and rollouts

make_base() {
  stage "base: solutions in 100 wordings" "$RUN/base/data/sft_meta.json" "$PYTHON" examples/desk/make_problems.py \
    --output_dir "$RUN/base/data" --annotate 0 --dev 0 --test 0 --train 8400 --solutions 4 --wordings 100 --slip_rate 0.45
  stage "base: it learns them (25 minutes)" "$BASE/train_results.json" \
    "$PYTHON" internvl_chat/internvl/train/internvl_chat_finetune.py --objective sft --model_name_or_path examples/desk/base \
    --meta_path "$RUN/base/data/sft_meta.json" --output_dir "$BASE" "${TILES[@]}" --freeze_backbone True \
    --pack_problems True --per_device_train_batch_size 16 --max_steps 3000 --learning_rate 1.5e-3 --warmup_steps 50 \
    --lr_scheduler_type constant_with_warmup --optim adamw_torch_fused --adam_beta2 0.98 --save_steps 500 \
    --save_total_limit 1 --logging_steps 50 --report_to none
}

make_policy() {
  local name=$1 wordings slips
  [ "$name" != rl ] || { make_rl_policy; return; }
  read -r wordings slips <<<"$(field "$POLICIES" "$name" 2-)"
  stage "$name: its teacher's solutions" "$RUN/$name/data/sft_meta.json" "$PYTHON" examples/desk/make_problems.py \
    --output_dir "$RUN/$name/data" --annotate 0 --dev 0 --test 0 --train 2000 --solutions 4 --wordings "$wordings" \
    --slip_rate "$slips"
  stage "$name: the policy (2 to 5 minutes)" "$RUN/$name/policy/train_results.json" \
    train_policy "$RUN/$name/data/sft_meta.json" "$RUN/$name/policy" --freeze_backbone True --pack_problems True
}

make_rl_policy() { # k100's, made better by stage 7
  MODEL_PATH=$RUN/k100/policy SEED_FILE=$DATA/annotate.json OUTPUT_DIR=$RUN/rl/policy GPUS=1 CONTEXT=640 PROMPTS=16 \
    UPDATES=4 LEARNING_RATE=2e-4 VLLM_ARGS='--limit-mm-per-prompt {"image":1,"video":0}' \
    stage "rl: the policy (8 minutes)" "$RUN/rl/policy/train_results.json" \
    sh internvl_chat/shell/internvl2.5/rl/internvl2_5_8b_cpgd.sh --steps 12 --lr_scheduler_type constant --judge rule \
    --max_new_tokens 256 --row_prompts 4 --freeze_mlp False --grad_checkpoint False
}

draw_set() { # policy, set, which of the two
  local problems rollouts searches folder=$RUN/$1/$2-$3 began=$SECONDS
  read -r problems rollouts searches <<<"$(field "$SETS" "$2" 2-)"
  "$PYTHON" data_pipeline/run_data_pipeline.py --input_file "$DATA/first_$problems.json" --output_dir "$folder/trees" \
    --model policy "${DRAW[@]}" --num_rollouts "$rollouts" --max_search_count "$searches" --rollout_budget 120 --seed "$3"
  "$PYTHON" examples/desk/labels_sets.py account "$folder" --seconds $((SECONDS - began))
}

draw() { # everything of one policy, beside its server
  local split which name
  for split in dev test; do
    stage "$1: candidates for $split" "$RUN/$1/$split.json" make_rollouts "$DATA/$split.json" "$RUN/$1/$split.json"
  done
  for which in 0 1; do
    for name in $(sets_of "$1"); do
      stage "$1: rollouts $name, $which" "$RUN/$1/$name-$which/account.json" draw_set "$1" "$name" "$which"
    done
  done
}

mix() { # trees of the first 50 problems, plain rollouts of the others
  local which folder
  for which in 0 1; do
    folder=$RUN/k100/mix-$which
    stage "the mix, $which" "$folder/account.json" "$PYTHON" examples/desk/labels_sets.py mix "$folder" \
      "$RUN/k100/trees-$which" "$RUN/k100/plain8-$which"
  done
}

# ---------------------------------------------------------------- PRMs

one() { # policy, PRM, set of rollouts, training seed
  local policy=$1 name=$2 rows=$RUN/$1/rows/$2-$3 prm=$RUN/$1/prms/$2-$4 measured=$RUN/$1/measured/$2-$4.json flags more=()
  [ ! -e "$measured" ] || return 0
  flags=$(field "$PRMS" "$name" 4-)
  case $flags in *hidden*) more=(--policy "$RUN/$policy/policy") ;; esac
  # shellcheck disable=SC2086  # a list of flags
  [ -e "${rows}_meta.json" ] || make_rows "$RUN/$policy/$(field "$PRMS" "$name" 2)-$3/trees" "$DATA" "$rows" $flags "${more[@]}"
  [ -e "$prm/train_results.json" ] || train_prm "$RUN/$policy/policy" "${rows}_meta.json" "$prm" 1 1e-3 \
    --max_steps "$STEPS" --per_device_train_batch_size 16 --seed "$4" --report_to none --label_loss "$(field "$PRMS" "$name" 3)"
  "$PYTHON" eval/prm/evaluate_prm.py --checkpoint "$prm" --input_file "$RUN/$policy/candidates.json" \
    --output_file "$prm/scored.json"
  "$PYTHON" examples/desk/labels_measure.py "$prm/scored.json" "$measured"
  rm -rf "$prm"
}

prms_left() { # of a policy: one line for each, the first seed of all before the second of any
  local run prm
  for run in $(runs_of "$1"); do
    for prm in $(prms_of "$1"); do
      [ -e "$RUN/$1/measured/$prm-${run#*-}.json" ] || echo "$1 $prm ${run%-*} ${run#*-}"
    done
  done
}

case ${1:-} in
  '') ;;
  -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$SELF"; exit ;;
  --draw) draw "$2"; exit ;;
  --one)
    mkdir -p "$RUN/logs"
    one "${@:2}" >"$RUN/logs/$2-$3-$5.log" 2>&1 || { echo "error: $2 $3, seed $5: see $RUN/logs/$2-$3-$5.log" >&2; exit 1; }
    echo "== $2: $3, seed $5"
    exit ;;
  *) echo "error: $1: labels.sh takes no arguments" >&2; exit 2 ;;
esac

bash install.sh
mkdir -p "$RUN/logs"
stage "problems with pictures" "$DATA/sft_meta.json" "$PYTHON" examples/desk/make_problems.py --output_dir "$DATA" \
  --seed 0 --train 6 --annotate 800 --dev 100 --test 200
for problems in 200 400 800; do
  stage "the first $problems" "$DATA/first_$problems.json" "$PYTHON" examples/desk/labels_sets.py first \
    "$problems" "$DATA/annotate.json" "$DATA/first_$problems.json"
done
make_base
for policy in $ALL; do
  make_policy "$policy"
  mkdir -p "$RUN/$policy/rows" "$RUN/$policy/measured"
  stage "$policy: drawing" "$RUN/$policy/drawn.done" with_server "$RUN/$policy/policy" "$RUN/logs/server_$policy.log" \
    bash $SELF --draw "$policy"
  [ "$policy" != k100 ] || [[ " ${ROWS:-mix} " != *" mix "* ]] || mix
  touch "$RUN/$policy/drawn.done"
  stage "$policy: its candidates with the truth of their steps" "$RUN/$policy/candidates.json" \
    "$PYTHON" examples/desk/labels_sets.py join "$RUN/$policy" "$DATA"
  prms_left "$policy" | OMP_NUM_THREADS=1 xargs -r -P "$JOBS" -L 1 bash $SELF --one || true
done
"$PYTHON" examples/desk/labels_study.py --run_dir "$RUN"
left=$(for policy in $ALL; do prms_left "$policy"; done)
[ -z "$left" ] || { echo "$(echo "$left" | wc -l) PRMs are left: run again to go on" >&2; exit 3; }
