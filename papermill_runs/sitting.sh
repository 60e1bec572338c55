#!/usr/bin/env bash
# Works off the queue for some minutes, on a bare machine: book/rerun.md, "A machine for ten minutes".
#
#   papermill_runs/sitting.sh MINUTES OUT [QUEUE]
#
# It needs Python with jax, flax, optax, orbax-checkpoint, numpy, scipy, pandas and tqdm, and nothing installed of
# this repository. Files of at most 16 MiB are left in the folder OUT; `plasticity merge OUT` takes them home.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
# An accelerator may round the factors of a product to ten bits. Here, as on a CPU, they keep all of theirs.
export JAX_DEFAULT_MATMUL_PRECISION="${JAX_DEFAULT_MATMUL_PRECISION:-highest}"
# Compiled programs are kept: several runs of the queue share them, and so do sittings on one machine.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/_build/compiled}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.1}"
exec "${PYTHON:-python3}" -m plasticity.cli sitting "$1" "$2" --queue "${3:-papermill_runs/queue.txt}"
