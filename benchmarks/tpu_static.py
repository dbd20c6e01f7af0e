"""Estimates the cost of a time step on TPUs from the compiler's schedules, without a TPU.

    pip install -e '.[tpu-aot]'
    python -m benchmarks.tpu_static [--chips v5e v6e] [--sizes 128,1024 64,512] [--program] [--json FILE]

A bundle is an instruction word of the core, and takes one cycle to issue. Bundles are counted in the
compiler's final schedule, with the bundles of each loop weighted by its trip count. To validate this, each
run first counts the same loop rolled and unrolled, which must agree within a factor of two. The bytes are
the data that a step must move from and to HBM. Neither includes the time that the core waits for data, so the
time in the table is a lower bound: ``max(bundles / clock, bytes / bandwidth)``. For a loop of XLA it is
summed over the operations, which run one after another.

The rows ``jit(lstm)`` are ``jax.jit(lstm)`` and its gradient, as in a user's program, where only the sharding
of the arguments specifies the chip. ``--program`` prints only these rows.

Each kernel is compared with a twin: the same kernel with the same data transfers, but with a maximum over the
pre-activations instead of the gates. The column ``twin`` is the twin's bundles over the kernel's bundles,
which shows how much of the element-wise work overlaps with the matrix unit. ``share`` is
``max(time of the twin, time of the transfers)`` over the time of the kernel. A share above 100 % is a
measurement error, and the exit code is then 1.
"""

import argparse
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Chip:
    """A core, as JAX sees it.

    Attributes:
      topology: Topology name for ``get_topology_desc``.
      accelerator: Value of ``TPU_ACCELERATOR_TYPE``.
      device_kind: The ``device_kind`` of the core.
      ghz: Clock in GHz: peak FLOP/s over the FLOP of a full bundle.
      gbs: HBM bandwidth in GB/s.
    """

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
HEAD = "chip   B     H  backend     pass       bundles   HBM kB       us   twin  share  compile"
PASSES = {  # by name of the kernel: its pass, and the number of bfloat16 arrays [B, H] it moves per step
    "lstm_hs_C_z": ("forward", 4 + 1 + 2 + 4),
    "lstm_hs": ("infer", 5),
    "lstm_dz": ("backward", 4 + 2 + 1 + 4),
}
STEPS = 64  # time steps of the kernels: a few blocks
STEPS_XLA = 1024  # time steps of XLA's loops: arrays [T, ...] must not fit in VMEM


def main(argv: list[str] | None = None) -> int:
    """Compiles all programs, in a process per chip, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chips", nargs="+", default=list(CHIPS), choices=CHIPS)
    parser.add_argument("--sizes", nargs="+", default=[f"{B},{H}" for B, H in SIZES], metavar="B,H")
    parser.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    parser.add_argument("--program", action="store_true", help="only the rows of jit(lstm)")
    parser.add_argument("--child", choices=CHIPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    sizes = [tuple(int(n) for n in size.split(",")) for size in arguments.sizes]
    if arguments.child:
        _measure_chip(arguments.child, sizes, arguments.program)
        return 0
    rows = []
    print(HEAD)
    for chip in arguments.chips:
        for row in _run_child(chip, arguments.sizes, arguments.program):
            rows.append(row)
            print(_line(row), flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)
    invalid = [row for row in rows if max(row.get("share", 0), row.get("twin", 0)) > 1]
    for row in invalid:
        print(f"measurement error, twin or share is above 100 %: {row}", file=sys.stderr)
    return 1 if invalid else 0


def _run_child(chip: str, sizes: list[str], program: bool) -> Iterator[dict]:
    """Measures a chip in a child process, because the environment must be set before jax is imported."""
    command = [sys.executable, "-m", "benchmarks.tpu_static", "--child", chip, "--sizes", *sizes]
    command += ["--program"] * program
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
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            yield from (json.loads(line) for line in child.stdout if line.startswith("{"))
    if child.returncode:
        raise SystemExit(
            f"{chip} failed; if libtpu is not installed, run pip install -e '.[tpu-aot]'"
        )


def _measure_chip(name: str, sizes: list[tuple[int, ...]], program: bool) -> None:
    """Prints the rows of a chip, as one JSON object per line. It runs in the child process."""
    import jax
    import numpy as np
    from jax.experimental import topologies

    chip = CHIPS[name]
    topology = topologies.get_topology_desc(platform="tpu", topology_name=chip.topology)
    mesh = jax.sharding.Mesh(np.array(topology.devices[:1]), ("data",))
    assert topology.devices[0].device_kind == chip.device_kind, topology.devices[0].device_kind
    _check_counting(mesh)
    for B, H in sizes:
        measured = [_programs] if program else [_programs, _kernels, _loops]
        for row in (row for measure in measured for row in measure(chip, mesh, B, H)):
            print(json.dumps({"chip": name, "B": B, "H": H} | row), flush=True)


def _check_counting(mesh) -> None:
    """Checks that the counted bundles of a loop of eight steps, rolled and unrolled, are about equal."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import pallas as pl
    from jax.sharding import NamedSharding, PartitionSpec

    def step(_, h, w):
        r = jnp.dot(h, w[...], preferred_element_type=jnp.float32)
        return jnp.tanh(r).astype(h.dtype)

    def kernel(h, w, out, *, unroll):
        out[...] = jax.lax.fori_loop(0, 8, partial(step, w=w), h[...], unroll=unroll)

    bundles = {}
    h, w = (
        jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec()))
        for s in [(64, 512), (512, 512)]
    )
    for name, unroll in {"rolled": 1, "unrolled": 8}.items():
        body = partial(kernel, unroll=unroll)
        out = jax.ShapeDtypeStruct(h.shape, h.dtype)
        jax.jit(pl.pallas_call(body, out_shape=out, name=name)).lower(h, w).compile()
        bundles[name] = _bundles(name, outermost=1)
    if (
        not 1 / 2 < bundles["rolled"] / bundles["unrolled"] < 2
    ):  # 1 / 8 if the trip count is not found
        raise RuntimeError(
            f"expected about the same number of bundles, got {bundles}; the format of the compiler's "
            "schedules may have changed."
        )


def _problem(mesh, T: int, B: int, H: int, spec):
    """Returns settings, operands, residuals and cotangents in bfloat16, as shapes."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from lstm_jax import LSTMState, init_lstm
    from lstm_jax.backends.problem import Operands, Residuals, Settings

    def array(shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    params = jax.eval_shape(lambda: init_lstm(jax.random.key(0), H, H))
    params = jax.tree.map(lambda a: array(a.shape), params)
    state = LSTMState(array((B, H), jnp.float32), array((B, H)))
    operands = Operands(params, array((T, B, H)), state, state)
    residuals = Residuals(array((T, B, H), jnp.float32), array((T, B, 4 * H)))
    return Settings(spec), operands, residuals, (state, array((T, B, H)))


def _programs(chip: Chip, mesh, B: int, H: int):
    """Yields the rows of the kernels in ``jax.jit(lstm)`` and in its gradient."""
    import jax
    import jax.numpy as jnp

    from lstm_jax import LSTMSpec, lstm
    from lstm_jax.backends import tpu

    settings, operands, _, _ = _problem(mesh, STEPS, B, H, LSTMSpec())
    if tpu.unsupported_reason(settings, operands, chip.device_kind) is not None:
        return
    steps = tpu._choose_plan(operands, tpu.vmem_of(chip.device_kind)).steps

    def loss(params, xs):
        return (lstm(params, xs)[1].astype(jnp.float32) ** 2).sum()

    gradient = jax.grad(loss, argnums=(0, 1))
    for function, kernels in ((lstm, ["lstm_hs"]), (gradient, ["lstm_hs_C_z", "lstm_dz"])):
        start = time.time()
        jax.jit(function).lower(operands.params, operands.xs).compile()
        seconds = time.time() - start
        for kernel in kernels:
            bundles = _bundles(kernel, outermost=STEPS // steps) / STEPS
            streams = PASSES[kernel][1] * B * H * 2
            yield {
                "backend": "jit(lstm)",
                "pass": PASSES[kernel][0],
                "bundles": round(bundles),
                "bytes": streams,
                "us": max(bundles / chip.ghz, streams / chip.gbs) / 1e3,
                "compile_s": seconds,
            }


def _kernels(chip: Chip, mesh, B: int, H: int):
    """Yields the rows of the kernels of the three passes, each compared with its twin."""
    import jax
    import jax.numpy as jnp

    from lstm_jax import LSTMSpec
    from lstm_jax.backends import tpu

    class Twin(LSTMSpec):
        """A cell without gates, which leaves the product and the data transfers."""

        def pointwise(self, params, C, z):
            return C, _largest(*jnp.split(z, 4, axis=-1))

    @jax.custom_jvp
    def _largest(a, b, c, d):
        """Returns the maximum, which cannot be merged into the product. Its tangent is a cheap sum."""
        return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))

    _largest.defjvp(lambda primals, tangents: (_largest(*primals), sum(tangents)))

    problem = _problem(mesh, STEPS, B, H, LSTMSpec())
    reason = tpu.unsupported_reason(*problem[:2], chip.device_kind)
    if reason is not None:
        yield {"backend": "tpu", "pass": "all", "refused": reason}
        return
    plan = tpu._choose_plan(problem[1], tpu.vmem_of(chip.device_kind))
    assert STEPS % plan.steps == 0
    least_twin = {}
    for kernel, (kind, arrays) in PASSES.items():
        bytes_a_step = arrays * B * H * 2
        bundles, seconds = {}, {}
        for spec in (LSTMSpec(), Twin()):
            settings, operands, residuals, cts = _problem(mesh, STEPS, B, H, spec)
            function = getattr(tpu, kind)
            hs = operands.xs
            given = (operands, hs, residuals, cts) if kind == "backward" else (operands,)

            def run(*given, function=function, settings=settings):
                return function(settings, *given, device_kind=chip.device_kind)

            start = time.time()
            jax.jit(run).lower(*given).compile()
            seconds[type(spec)] = time.time() - start
            bundles[type(spec)] = _bundles(kernel, outermost=STEPS // plan.steps) / STEPS
        # The forward twin includes the work of the inference twin, and sometimes has fewer bundles.
        least_twin[kind] = bundles[Twin]
        twin = min(least_twin.values()) if kind == "infer" else bundles[Twin]
        kernel_bundles = bundles[LSTMSpec]
        streams = bytes_a_step / chip.gbs / 1e3
        us = max(kernel_bundles / chip.ghz / 1e3, streams)
        yield {
            "backend": "tpu",
            "pass": kind,
            "bundles": round(kernel_bundles),
            "bytes": bytes_a_step,
            "us": us,
            "twin": twin / kernel_bundles,
            "share": max(twin / chip.ghz / 1e3, streams) / us,
            "compile_s": seconds[LSTMSpec],
        }


def _loops(chip: Chip, mesh, B: int, H: int):
    """Yields the rows of the XLA backends: the cost of the bodies of their while loops."""
    import jax
    import jax.numpy as jnp

    from lstm_jax import LSTMSpec
    from lstm_jax.backends import scan, xla

    _, operands, _, _ = _problem(mesh, STEPS_XLA, B, H, LSTMSpec())
    for backend in (scan, xla):
        settings = _problem(mesh, STEPS_XLA, B, H, LSTMSpec())[0]

        def loss(operands, backend=backend, settings=settings):
            state, hs = backend.unroll(settings, operands)
            return (hs.astype(jnp.float32) ** 2).sum() + state.C.sum()

        def infer(operands, backend=backend, settings=settings):
            return backend.unroll(settings, operands)

        for kind, function in (("infer", infer), ("both", jax.grad(loss))):
            start = time.time()
            text = jax.jit(function).lower(operands).compile().as_text()
            seconds = time.time() - start
            bodies = re.findall(r"body=%?([\w.-]+)", text)
            costs = [_cost_of_body(text, body, chip) for body in bodies]
            yield {
                "backend": backend.__name__.split(".")[-1],
                "pass": kind,
                "bundles": round(sum(c[0] for c in costs)),
                "bytes": sum(c[1] for c in costs),
                "us": sum(c[2] for c in costs),
                "compile_s": seconds,
            }


def _cost_of_body(text: str, body: str, chip: Chip) -> tuple[float, int, float]:
    """Returns bundles, HBM bytes and minimum microseconds of an iteration, summed over its operations."""
    lines = text[text.index(f"\n%{body} (") :].split("\n}\n")[0].splitlines()
    shapes = {}
    bundles, moved, us = 0.0, 0, 0.0
    for line in lines:
        match = re.match(r"\s*(?:ROOT )?%([\w.-]+) = (.*?) ([\w-]+)\((.*)", line)
        if not match:
            continue
        name, result, operation, rest = match.groups()
        shapes[name] = result
        if operation in ("parameter", "get-tuple-element", "tuple", "constant", "bitcast"):
            continue
        read = [shapes.get(n, "") for n in re.findall(r"%([\w.-]+)", rest.split("), ")[0])]
        op_bytes = sum(_hbm_bytes(shape) for shape in (result, *read))
        op_bundles = _bundles(name, outermost=1, missing=0)
        bundles, moved = bundles + op_bundles, moved + op_bytes
        us += max(op_bundles / chip.ghz, op_bytes / chip.gbs) / 1e3
    return bundles, moved, us


def _hbm_bytes(shapes: str) -> int:
    """Returns the bytes of arrays in HBM, without those in VMEM (``S(1)``).

    An array with a time axis counts as one step.
    """
    total = 0
    for kind, dims, layout in re.findall(r"(\w+)\[([\d,]*)\]\{([^}]*)\}", shapes):
        sizes = [int(n) for n in dims.split(",") if n]
        if "S(" in layout or len(sizes) < 2:
            continue
        width = int(re.sub(r"\D", "", kind) or 8) // 8
        count = 1
        for n in sizes[1:] if sizes[0] == STEPS_XLA else sizes:
            count *= n
        total += width * count
    return total


def _bundles(name: str, outermost: int, missing: int | None = None) -> float:
    """Returns the bundles of the operation ``name``, with the bundles of loops weighted by trip counts.

    The schedule marks the loop depth of each bundle, and the exit test of each loop with its trip count. The
    compiler keeps the trip count of a kernel's grid in a register, so it is passed as ``outermost``.
    """
    files = glob.glob(os.path.join(os.environ["DUMP"], f"*-{name}-*-final_bundles.txt"))
    files += glob.glob(os.path.join(os.environ["DUMP"], f"*-{name}.[0-9]*-final_bundles.txt"))
    files = [file for file in files if "schedule-analysis" not in file]
    if not files:
        if missing is None:
            raise RuntimeError(f"expected a schedule of {name} from the compiler, got none.")
        return missing
    trips, counts = [1], [0.0]
    with open(max(files, key=os.path.getmtime)) as file:
        for line in file:
            bundle = re.match(r"\s*0x[0-9a-f]+\s*(?:[A-Z]{2})?\s*:\s*((?:> ?)*)\{", line)
            if not bundle:
                continue
            depth = bundle[1].count(">")
            while depth < len(counts) - 1:
                inner, times = counts.pop(), trips.pop()
                counts[-1] += inner * times
            while depth > len(counts) - 1:
                counts.append(0.0)
                trips.append(outermost if len(counts) == 2 and outermost > 1 else 1)
            counts[-1] += 1
            test = re.search(r"%s\w+, (\d+) /\* loop exit test", line)
            if test and depth and not (depth == 1 and outermost > 1):
                trips[-1] = int(test[1])
    while len(counts) > 1:
        inner, times = counts.pop(), trips.pop()
        counts[-1] += inner * times
    return counts[0]


def _line(row: dict) -> str:
    head = f"{row['chip']:4}{row['B']:4}{row['H']:6}  {row['backend']:11} {row['pass']:9}"
    if "refused" in row:
        return f"{head} {row['refused']}"
    twin, share = (f"{row[k]:6.1%}" if k in row else "     -" for k in ("twin", "share"))
    return (
        f"{head} {row['bundles']:8,} {row['bytes'] / 1e3:8,.0f} {row['us']:8.2f} {twin} {share} "
        f"{row['compile_s']:6.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
