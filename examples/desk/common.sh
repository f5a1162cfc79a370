# What quickstart.sh and the desk studies have in common: settings of the desk scale and one function per stage.
# To be sourced from the repository's root, in bash.

export MM_PRM_DIE_WITH_PARENT=1 # even kill -9 of the script leaves nothing running
unset PYTHONDONTWRITEBYTECODE    # with it every start compiles torch, transformers and vLLM anew: 10 s
export PORT=${PORT:-8377} PYTHON=$PWD/.venv/bin/python TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
SHELL_DIR=internvl_chat/shell/internvl2.5/2nd_finetune
BASE=examples/desk/base

# How rollouts are drawn at desk scale (the paper's values are the scripts' defaults)
DRAW=(--judge rule --prefix_mode prefill --repetition_penalty 1.0 --max_new_tokens 160 --concurrency 128)

# One tile of 112 pixels per picture
TILES=(--dynamic_image_size False --max_dynamic_patch 1 --use_thumbnail False)

stage() { # "what it does (how long)" file-that-says-it-is-done command...
  local title=$1 result=$2
  shift 2
  if [ -e "$result" ]; then
    echo "== done: $title"
    return
  fi
  echo "== $title"
  "$@"
}

need_study() { # folder of quickstart.sh: what it ends with
  [ -e "$1/report.md" ] || { echo "error: $1 holds no finished study: run quickstart.sh first" >&2; exit 2; }
}

train_policy() { # stage 0: dataset JSON, output folder, flags
  local meta=$1 output=$2
  shift 2
  MODEL_PATH=$BASE META_PATH=$meta OUTPUT_DIR=$output GPUS=1 BATCH_SIZE=32 PER_DEVICE_BATCH_SIZE=32 LEARNING_RATE=2e-3 \
    sh "$SHELL_DIR/internvl2_5_8b_dynamic_res_2nd_finetune_full_policy.sh" "${TILES[@]}" --freeze_backbone False \
    --grad_checkpoint False --save_strategy no --logging_steps 25 --adam_beta2 0.98 --lr_scheduler_type linear "$@"
}

with_server() { # policy, log file, command...
  local policy=$1 log=$2
  shift 2
  echo "== starting the policy server (30 to 60 s)"
  "$PYTHON" data_pipeline/serve_policy.py --model "$policy" --port "$PORT" --log "$log" \
    --max-model-len 512 --limit-mm-per-prompt '{"image": 1, "video": 0}' -- "$@"
}

make_trees() { # stages 1 and 2: seed file, folder, rollouts per node, searches
  "$PYTHON" data_pipeline/process_json.py --input_file "$1" --output_dir "$2/chunks" --num_splits 2
  SPLIT_DIR=$2/chunks OUTPUT_DIR=$2/trees LOG_DIR=$2/logs sh data_pipeline/run_data_pipeline.sh \
    "${DRAW[@]}" --num_rollouts "$3" --max_search_count "$4" --rollout_budget 120
  touch "$2/trees.done"
}

make_rollouts() { # candidates for a seed file: file, output file
  "$PYTHON" eval/generate_rollouts.py --data "$1" --output_file "$2" --model policy --num_rollouts 16 "${DRAW[@]}"
}

make_rows() { # stages 3 and 4: trees, image folder, start of the output's names, flags of traverse.py
  local trees=$1 images=$2 output=$3
  shift 3
  "$PYTHON" data_pipeline/traverse.py --input_dir "$trees" --output_file "${output}_paths.json" "$@"
  "$PYTHON" data_pipeline/prm_data_format.py --input_file "${output}_paths.json" --image_root "$images" \
    --output_file "$output.jsonl" --meta_file "${output}_meta.json" --name "$(basename "$output")"
}

train_prm() { # stage 5: policy, dataset JSON, output folder, epochs, learning rate, flags
  local policy=$1 meta=$2 output=$3 epochs=$4 rate=$5
  shift 5
  MODEL_PATH=$policy META_PATH=$meta OUTPUT_DIR=$output GPUS=1 BATCH_SIZE=32 PER_DEVICE_BATCH_SIZE=32 \
    LEARNING_RATE=$rate EPOCHS=$epochs sh "$SHELL_DIR/internvl2_5_8b_dynamic_res_2nd_finetune_full_prm.sh" \
    "${TILES[@]}" --grad_checkpoint False --save_strategy no --logging_steps 10 --adam_beta2 0.98 "$@"
}
