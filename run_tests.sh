#!/usr/bin/env bash
# Install what is missing, then run ruff, mypy, the fast tests and the slow ones (a real policy server, the small study).
#
#   bash run_tests.sh           everything, 6 to 20 minutes on 2 CPU cores
#   bash run_tests.sh --fast    the fast tests alone, one to four minutes
set -euo pipefail
cd "$(dirname "$0")"
case ${1:-} in
  '' | --fast) ;;
  -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' run_tests.sh; exit ;;
  *) echo "error: $1: run_tests.sh takes --fast alone" >&2; exit 2 ;;
esac
bash install.sh
unset PYTHONDONTWRITEBYTECODE # with it every process compiles torch, transformers and vLLM anew
export HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/python -m pytest -q -n 3 -m "not slow" # two cores, one of three waits for a server or a clock
[ "${1:-}" = --fast ] || # files whole: their tests share a server
  .venv/bin/python -m pytest -q -m slow --dist loadfile --no-loadscope-reorder --durations=12
