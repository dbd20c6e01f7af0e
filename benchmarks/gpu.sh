#!/usr/bin/env bash
# Measures this package on a GPU. Each command takes less than ten minutes. See docs/gpu.md.
#
#   benchmarks/gpu.sh check    every backend against float64 NumPy
#   benchmarks/gpu.sh speed    microseconds per step, beside cuDNN, Flax and torch
#   benchmarks/gpu.sh train    tokens/s of the trainer on the built-in text
#   benchmarks/gpu.sh report   one line to paste into an issue, in about two minutes
#   benchmarks/gpu.sh peers    beside other libraries at seven shapes, about 12 minutes
#
# More arguments go to the program, for example: benchmarks/gpu.sh speed --rounds 5
# PYTHON names the interpreter (default: python3).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
command=${1-}
shift || true

peers() { # options of benchmarks.peers
  local out failed=0 name options
  "$python" -c 'import jax; assert jax.default_backend() == "gpu", f"no GPU: {jax.devices()}"' || return
  out=$("$python" -c 'from benchmarks.gpu_record import default_directory as d; print(d())') || return
  mkdir -p "$out"
  for name in bfloat16 tf32 float32; do
    case $name in
      bfloat16) options="--dtype bfloat16" ;;
      tf32) options="--tf32" ;;
      float32) options="" ;;
    esac
    printf '\n=== %s\n' "$name"
    # shellcheck disable=SC2086
    "$python" -m benchmarks.peers $options --json "$out/$name.json" "$@" || failed=1
  done
  return "$failed"
}

case $command in
  check | speed | train | report) exec "$python" -m benchmarks.gpu "$command" "$@" ;;
  peers) peers "$@" ;;
  *) sed -n '2,11s/^# \{0,1\}//p' benchmarks/gpu.sh >&2; exit 2 ;;
esac
