"""What a time step costs on TPUs, from the schedules of the real compiler, without a TPU.

    pip install -e '.[tpu-aot]'
    python -m benchmarks.tpu_static [--chips v5e v6e] [--sizes 128,1024 64,512] [--json FILE]

A bundle is one instruction word of the core and takes one cycle to issue. Bundles are counted in
the final schedule that the compiler writes, each loop's weighted by its trip count; the bytes are
those that a step must move from and to HBM. Neither says how long the core waits for data that is
late: a time from this table is a lower bound, ``max(bundles / clock, bytes / bandwidth)``, summed
over the operations of a loop that XLA runs one after another.

The twin is the same kernel, same streams, with the gates taken out: its map is a maximum over the
pre-activations. ``twin`` is the twin's bundles over the kernel's: how much of the element-wise work is
hidden behind the matrix unit. ``share`` is ``max(twin, the streams)`` over the kernel's time. A share
above 100 % would be an error of measurement, and exits 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """A core as JAX sees it; ``ghz`` is peak FLOP/s over the FLOP of a full bundle."""

    topology: str
    accelerator: str
    device_kind: str
    ghz: float
    gbs: float


CHIPS = {
    "v4": Chip("v4:2x2x1", "v4-8", "TPU v4", 1.05, 1228 / 2),
    "v5e": Chip("v5e:2x2", "v5litepod-4", "TPU v5 lite", 1.5, 819),
    "v5p": Chip("v5p:2x2x1", "v5p-8", "TPU v5", 1.75, 2765 / 2),
    "v6e": Chip("v6e:2x2", "v6e-4", "TPU v6 lite", 1.75, 1640),
    "v7x": Chip("tpu7x:2x2x1", "tpu7x-8", "TPU7x", 2.2, 7380 / 2),
}
SIZES = [(128, 1024), (64, 512)]
STEPS = 64  # of the kernels: a few blocks of time
STEPS_XLA = 1024  # of XLA's loops: long enough that nothing of [T, ...] fits in VMEM


def main(argv: list[str] | None = None) -> int:
    """Compiles everything, a process a chip, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chips", nargs="+", default=list(CHIPS), choices=CHIPS)
    parser.add_argument("--sizes", nargs="+", default=[f"{B},{H}" for B, H in SIZES], metavar="B,H")
    parser.add_argument("--json", help="also write every figure here")
    parser.add_argument("--child", choices=CHIPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    sizes = [tuple(int(n) for n in size.split(",")) for size in arguments.sizes]
    if arguments.child:
        _measure_chip(arguments.child, sizes)
        return 0
    rows = [row for chip in arguments.chips for row in _run_child(chip, arguments.sizes)]
    _print(rows)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)
    impossible = [row for row in rows if max(row.get("share", 0), row.get("twin", 0)) > 1]
    for row in impossible:
        print(f"above 100 %, so measured wrongly: {row}", file=sys.stderr)
    return 1 if impossible else 0


def _run_child(chip: str, sizes: list[str]) -> list[dict]:
    """Environment variables must be there before jax is imported, and differ from chip to chip."""
    with tempfile.TemporaryDirectory() as dump:
        flags = "--xla_jf_dump_hlo_text=true --xla_jf_dump_llo_text=true"
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": CHIPS[chip].accelerator,
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={dump} {flags}",
            "DUMP": dump,
        }
        command = [
            sys.executable,
            "-m",
            "benchmarks.tpu_static",
            "--child",
            chip,
            "--sizes",
            *sizes,
        ]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{chip} failed; is libtpu there? pip install -e '.[tpu-aot]'")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _measure_chip(name: str, sizes: list[tuple[int, ...]]) -> None:
    """In the child: one JSON object a line."""
    import jax
    import numpy as np
    from jax.experimental import topologies

    chip = CHIPS[name]
    topology = topologies.get_topology_desc(platform="tpu", topology_name=chip.topology)
    mesh = jax.sharding.Mesh(np.array(topology.devices[:1]), ("data",))
    assert topology.devices[0].device_kind == chip.device_kind, topology.devices[0].device_kind
    for B, H in sizes:
        for row in (*_kernels(chip, mesh, B, H), *_loops(chip, mesh, B, H)):
            print(json.dumps({"chip": name, "B": B, "H": H} | row), flush=True)


def _problem(mesh, T: int, B: int, H: int, spec):
    """Settings, operands, saved arrays and cotangents, as shapes, in bfloat16."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from lstm_jax import LSTMState, init_lstm
    from lstm_jax.backends.problem import Operands, Saved, Settings

    def of(shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    params = jax.eval_shape(lambda: init_lstm(jax.random.key(0), H, H))
    params = jax.tree.map(lambda a: of(a.shape), params)
    state = LSTMState(of((B, H), jnp.float32), of((B, H)))
    operands = Operands(params, of((T, B, H)), state, state)
    saved = Saved(of((T, B, H), jnp.float32), of((T, B, 4 * H)))
    return Settings(spec), operands, saved, (state, of((T, B, H)))


def _kernels(chip: Chip, mesh, B: int, H: int):
    """Rows of the kernel's three passes, each beside its twin."""
    import jax
    import jax.numpy as jnp

    from lstm_jax import LSTMSpec
    from lstm_jax.backends import pallas_tpu

    class Twin(LSTMSpec):
        """No gates: what is left is the product and the streams."""

        def pointwise(self, params, C, z):
            return C, jnp.max(jnp.stack(jnp.split(z, 4, axis=-1)), axis=0)

    reason = pallas_tpu.why_not(*_problem(mesh, STEPS, B, H, LSTMSpec())[:2], chip.device_kind)
    if reason is not None:
        yield {"backend": "pallas_tpu", "pass": "all", "refused": reason}
        return
    H_bytes = B * H * 2
    passes = {  # kernel's name, bytes a step
        "infer": ("lstm_hs", 5 * H_bytes),
        "forward": ("lstm_hs_C_z", (4 + 1 + 2 + 4) * H_bytes),
        "backward": ("lstm_dz", (4 + 2 + 1 + 4) * H_bytes),
    }
    for kind, (kernel, bytes_a_step) in passes.items():
        bundles, seconds = {}, {}
        for spec in (LSTMSpec(), Twin()):
            settings, operands, saved, cts = _problem(mesh, STEPS, B, H, spec)
            function = getattr(pallas_tpu, kind)
            hs = operands.xs
            given = (operands, hs, saved, cts) if kind == "backward" else (operands,)

            def run(*given, function=function, settings=settings):
                return function(settings, *given, device_kind=chip.device_kind)

            if kind == "backward" and isinstance(spec, Twin):
                run = _twin_of_backward(run)
            start = time.time()
            compiled = jax.jit(run).lower(*given).compile()
            seconds[type(spec)] = time.time() - start
            bundles[type(spec)] = _bundles_of_kernel(kernel, compiled.as_text()) / STEPS
        mine, twin = bundles[LSTMSpec], bundles[Twin]
        streams = bytes_a_step / chip.gbs / 1e3
        us = max(mine / chip.ghz / 1e3, streams)
        yield {
            "backend": "pallas_tpu",
            "pass": kind,
            "bundles": round(mine),
            "bytes": bytes_a_step,
            "us": us,
            "twin": twin / mine,
            "share": max(twin / chip.ghz / 1e3, streams) / us,
            "compile_s": seconds[LSTMSpec],
        }


def _print(rows: list[dict]) -> None:
    print("chip   B     H  backend     pass       bundles   HBM kB       us   twin  share  compile")
    for row in rows:
        head = f"{row['chip']:4}{row['B']:4}{row['H']:6}  {row['backend']:11} {row['pass']:9}"
        if "refused" in row:
            print(f"{head} {row['refused']}")
            continue
        twin, share = (f"{row[k]:6.1%}" if k in row else "     -" for k in ("twin", "share"))
        print(
            f"{head} {row['bundles']:8,} {row['bytes'] / 1e3:8,.0f} {row['us']:8.2f} {twin} {share} "
            f"{row['compile_s']:6.1f} s"
        )
