#!/usr/bin/env bash
# Install what is missing, then run ruff, mypy, the fast tests and the slow ones (a real policy server, the small study).
#
#   bash run_tests.sh           everything, about 15 minutes on 2 CPU cores
#   bash run_tests.sh --fast    the fast tests alone, one to two minutes
set -euo pipefail
cd "$(dirname "$0")"
bash install.sh
export HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/python -m pytest -q -m "not slow"
[ "${1:-}" = --fast ] || .venv/bin/python -m pytest -q -n 0 -m slow --durations=5 # each takes both cores
