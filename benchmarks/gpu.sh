#!/usr/bin/env bash
# The tables of benchmarks/README.md for an NVIDIA GPU: one JSON and one text a table in $1 (default: gpu/).
# More arguments go to benchmarks.peers, for example: benchmarks/gpu.sh gpu --repeats 5
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-gpu}
shift || true
mkdir -p "$out"
python=${PYTHON:-python3}
"$python" -c 'import jax; assert jax.default_backend() == "gpu", f"no GPU: {jax.devices()}"' || exit 1

failed=0
table() { # name, arguments
  local name=$1
  shift
  printf '\n=== %s\n' "$name"
  "$python" -m benchmarks.peers --json "$out/$name.json" "$@" | tee "$out/$name.txt" || failed=1
}

table bfloat16 --dtype bfloat16 "$@"
table tf32 --tf32 "$@"
table float32 "$@"
exit $failed
