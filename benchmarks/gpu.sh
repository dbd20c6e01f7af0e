#!/usr/bin/env bash
# The tables of benchmarks/README.md for an NVIDIA GPU: one JSON a table in $1 (default: gpu/).
# More arguments go to benchmarks.peers, for example: benchmarks/gpu.sh gpu --repeats 5
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-gpu}
shift || true
mkdir -p "$out"
python=${PYTHON:-python3}
"$python" -c 'import jax; assert jax.default_backend() == "gpu", f"no GPU: {jax.devices()}"' || exit 1

failed=0
table() { # name of the JSON, XLA flags, arguments
  local name=$1 flags=$2
  shift 2
  printf '\n=== %s\n' "$name"
  XLA_FLAGS="${XLA_FLAGS:-} $flags" "$python" -m benchmarks.peers --json "$out/$name.json" "$@" || failed=1
}

for loops in plain graphs; do
  flags=$([ "$loops" = graphs ] && echo --xla_gpu_enable_command_buffer=+WHILE)
  table "float32-$loops" "$flags" "$@"
  table "tf32-$loops" "$flags" --tf32 "$@"
  table "bfloat16-$loops" "$flags" --dtype bfloat16 "$@"
done
exit $failed
