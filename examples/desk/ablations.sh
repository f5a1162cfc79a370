#!/usr/bin/env bash
# The paper's ablations, and a few of our own, at desk scale: five training seeds each, the aggregation fixed on a dev split,
# tested on problems that no other part of the study has seen.
#
#   bash quickstart.sh && bash examples/desk/ablations.sh      two hours on 2 CPU cores after quickstart.sh
#
# Starts from the policy and the trees in runs/desk, writes to runs/desk_ablations: run it again after an interruption.
# ablations.py turns the scores into docs/desk_study.md's tables and figures.
set -euo pipefail
cd "$(dirname "$0")/../.."
source examples/desk/common.sh

STUDY=${STUDY:-runs/desk} RUN=${RUN:-runs/desk_ablations}
SEEDS=${SEEDS:-0 1 2 3 4} EPOCHS=2
JOBS=${JOBS:-2} # trainings side by side, one core each
DATA=$RUN/data  # dev.json and test.json, drawn with a seed of their own
ANNOTATE=$STUDY/data/annotate.json
SELF=examples/desk/ablations.sh

# name: policy whose trees and candidates it takes | trees | flags of traverse.py | learning rate
CONFIGS="
rollouts       slips60 slips60     5e-4   --labels_from rollouts
rollouts_hard  slips60 slips60     5e-4   --labels_from rollouts --labels hard
edges          slips60 slips60     5e-4   --labels_from edges
edges_hard     slips60 slips60     5e-4   --labels_from edges --labels hard
edges_step     slips60 slips60     5e-4   --labels_from edges --spelling step
lr_1e-4        slips60 slips60     1e-4   --labels_from rollouts
lr_2e-3        slips60 slips60     2e-3   --labels_from rollouts
nodes_4        slips60 slips60_4   5e-4   --labels_from rollouts
nodes_16       slips60 slips60_16  5e-4   --labels_from rollouts
problems_50    slips60 first_50    5e-4   --labels_from rollouts
problems_150   slips60 first_150   5e-4   --labels_from rollouts
slips45        slips45 slips45     5e-4   --labels_from rollouts
slips30        slips30 slips30     5e-4   --labels_from rollouts
"

config() { # field of a config: 2 policy, 3 trees, 4 rate, 5- flags
  echo "$CONFIGS" | tr -s ' ' | grep "^$1 " | cut -d' ' -f"$2"
}

side_by_side() { # run this script with each line of the input as arguments
  OMP_NUM_THREADS=1 xargs -P "$JOBS" -L 1 bash $SELF "$@"
}

prepare_policy() { # the study's own, or one taught by a teacher that slips less often
  local name=$1 slips=$2
  stage "$name: problems and teacher" "$RUN/$name/data/sft_meta.json" "$PYTHON" examples/desk/make_problems.py \
    --output_dir "$RUN/$name/data" --slip_rate "$slips"
  stage "$name: the policy (90 s)" "$RUN/$name/policy/train_results.json" \
    train_policy "$RUN/$name/data/sft_meta.json" "$RUN/$name/policy"
}

draw_candidates() { # of one policy, with its server; called back beside it, as is draw_trees
  for split in dev test; do
    stage "$1: candidates for $split" "$RUN/$1/$split.json" make_rollouts "$DATA/$split.json" "$RUN/$1/$split.json"
  done
}

draw_trees() {
  if [ "$1" = slips60 ]; then # 12,000 and 42,000 rollouts in all; the study's 8 x 6: 31,000
    stage "4 rollouts per node (4 minutes)" "$RUN/slips60_4/trees.done" make_trees "$ANNOTATE" "$RUN/slips60_4" 4 12
    stage "16 rollouts per node (4 minutes)" "$RUN/slips60_16/trees.done" make_trees "$ANNOTATE" "$RUN/slips60_16" 16 3
  else
    stage "$1: trees (4 minutes)" "$RUN/$1/trees.done" make_trees "$ANNOTATE" "$RUN/$1" 8 6
  fi
}

first_trees() { # the trees of the first so many problems, by the hash in their names
  mkdir -p "$RUN/first_$1/trees"
  (cd "$RUN/slips60/trees" && printf '%s\n' *.json) | head -n "$1" |
    while read -r name; do ln -sf "../../slips60/trees/$name" "$RUN/first_$1/trees/"; done
  touch "$RUN/first_$1/trees.done"
}

parts() { # the candidates a config's PRM is scored on: its policy's, and for some another policy's
  echo "$(config "$1" 2)/dev $(config "$1" 2)/test"
  case $1 in
    rollouts) echo "slips45/test slips30/test" ;;
    slips*) echo "slips60/test" ;;
  esac
}

one() { # train and score one config with one seed
  local name=$1 seed=$2 prm=$RUN/prms/$1-$2 policy
  policy=$(config "$name" 2)
  [ ! -e "$RUN/scored/$name-$seed.json" ] || return 0
  [ -e "$prm/train_results.json" ] || train_prm "$RUN/$policy/policy" "$RUN/rows/${name}_meta.json" "$prm" \
    $EPOCHS "$(config "$name" 4)" --seed "$seed" --report_to none
  "$PYTHON" eval/prm/evaluate_prm.py --checkpoint "$prm" --input_file "$RUN/candidates/$name.json" \
    --output_file "$RUN/scored/$name-$seed.json"
  rm -rf "$prm"
}

case ${1:-} in
  --policy)
    prepare_policy "$2" "$3"
    exit ;;
  --draw_candidates | --draw_trees)
    "${1#--}" "$2"
    touch "$RUN/$2/${1#--}.done"
    exit ;;
  --one)
    exec 3>&2 >"$RUN/logs/$2-$3.log" 2>&1
    trap 'echo "error: $1, seed $2: see $RUN/logs/$1-$2.log" >&3' ERR
    set -E -- "$2" "$3"
    one "$1" "$2"
    echo "== $1, seed $2" >&3
    exit ;;
esac

need_study "$STUDY"
mkdir -p "$RUN/logs" "$RUN/rows"
stage "dev and test problems of their own" "$DATA/test.json" "$PYTHON" examples/desk/make_problems.py \
  --output_dir "$DATA" --seed 1 --train 0 --annotate 0 --dev 100 --test 300
mkdir -p "$RUN/slips60"
for part in policy trees; do ln -sfn "$(realpath "$STUDY/$part")" "$RUN/slips60/$part"; done
for size in 50 150; do first_trees $size; done
printf '%s\n' "slips45 0.45" "slips30 0.3" | side_by_side --policy

with_servers() { # what to draw from all three policies
  for name in slips60 slips45 slips30; do
    stage "$name: $1" "$RUN/$name/$1.done" \
      with_server "$RUN/$name/policy" "$RUN/logs/server_$name.log" bash $SELF "--$1" "$name"
  done
}

train_and_score() { # configs
  local name seed
  for name in "$@"; do
    # shellcheck disable=SC2046  # flags and parts
    stage "$name: labelled paths" "$RUN/rows/${name}_meta.json" \
      make_rows "$RUN/$(config "$name" 3)/trees" "$STUDY/data" "$RUN/rows/$name" $(config "$name" 5-)
    # shellcheck disable=SC2046
    stage "$name: its candidates in one file" "$RUN/candidates/$name.json" "$PYTHON" examples/desk/ablations.py \
      --run_dir "$RUN" --join $(parts "$name") --output_file "$RUN/candidates/$name.json"
  done
  for seed in $SEEDS; do
    for name in "$@"; do echo "$name $seed"; done
  done | side_by_side --one
}

with_servers draw_candidates
train_and_score rollouts edges rollouts_hard edges_hard edges_step lr_1e-4 lr_2e-3 problems_50 problems_150
with_servers draw_trees
train_and_score nodes_4 nodes_16 slips45 slips30
"$PYTHON" examples/desk/ablations.py --run_dir "$RUN"
