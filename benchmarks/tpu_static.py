"""What a time step costs on TPUs, from the schedules of the real compiler, without a TPU.

    pip install -e '.[tpu-aot]'
    python -m benchmarks.tpu_static [--chips v5e v6e] [--sizes 128,1024 64,512] [--program] [--json FILE]

A bundle is one instruction word of the core and takes one cycle to issue. Bundles are counted in
the final schedule that the compiler writes, each loop's weighted by its trip count: each run first
counts one loop rolled and unrolled, which must agree within a factor of two. The bytes are those
that a step must move from and to HBM. Neither says how long the core waits for data that is late: a
time from this table is a lower bound, ``max(bundles / clock, bytes / bandwidth)``, summed over the
operations of a loop that XLA runs one after another.

The rows ``jit(lstm)`` are the program that a user writes, ``jax.jit(lstm)`` and its gradient, with nothing
but the sharding of its arguments to say which chip it is for. With ``--program`` there are no other rows.

The twin is the same kernel, same streams, with the gates taken out: its map is a maximum over the
pre-activations. ``twin`` is the twin's bundles over the kernel's: how much of the element-wise work is
hidden behind the matrix unit. ``share`` is ``max(twin, the streams)`` over the kernel's time. A share
above 100 % would be an error of measurement, and exits 1.
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
HEAD = "chip   B     H  backend     pass       bundles   HBM kB       us   twin  share  compile"
PASSES = {  # the kernel's name: its pass, and how many bfloat16 arrays [B, H] it streams per step
    "lstm_hs_C_z": ("forward", 4 + 1 + 2 + 4),
    "lstm_hs": ("infer", 5),
    "lstm_dz": ("backward", 4 + 2 + 1 + 4),
}
STEPS = 64  # of the kernels: a few blocks of time
STEPS_XLA = 1024  # of XLA's loops: long enough that nothing of [T, ...] fits in VMEM


def main(argv: list[str] | None = None) -> int:
    """Compiles everything, a process a chip, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chips", nargs="+", default=list(CHIPS), choices=CHIPS)
    parser.add_argument("--sizes", nargs="+", default=[f"{B},{H}" for B, H in SIZES], metavar="B,H")
    parser.add_argument("--json", help="also write every figure here")
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
    impossible = [row for row in rows if max(row.get("share", 0), row.get("twin", 0)) > 1]
    for row in impossible:
        print(f"above 100 %, so measured wrongly: {row}", file=sys.stderr)
    return 1 if impossible else 0


def _run_child(chip: str, sizes: list[str], program: bool) -> Iterator[dict]:
    """Environment variables must be there before jax is imported, and differ from chip to chip."""
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
        raise SystemExit(f"{chip} failed; is libtpu there? pip install -e '.[tpu-aot]'")


def _measure_chip(name: str, sizes: list[tuple[int, ...]], program: bool) -> None:
    """In the child: one JSON object a line."""
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
    """The same eight steps, rolled and unrolled, are about as many bundles by our count."""
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
    if not 1 / 2 < bundles["rolled"] / bundles["unrolled"] < 2:  # counted once it would be 1 / 8
        raise RuntimeError(
            f"loops are counted wrongly, {bundles}: has the compiler's text changed?"
        )


def _problem(mesh, T: int, B: int, H: int, spec):
    """Settings, operands, saved arrays and cotangents, as shapes, in bfloat16."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from lstm_jax import LSTMState, init_lstm
    from lstm_jax.backends.problem import Operands, Residuals, Settings

    def of(shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    params = jax.eval_shape(lambda: init_lstm(jax.random.key(0), H, H))
    params = jax.tree.map(lambda a: of(a.shape), params)
    state = LSTMState(of((B, H), jnp.float32), of((B, H)))
    operands = Operands(params, of((T, B, H)), state, state)
    saved = Residuals(of((T, B, H), jnp.float32), of((T, B, 4 * H)))
    return Settings(spec), operands, saved, (state, of((T, B, H)))


def _programs(chip: Chip, mesh, B: int, H: int):
    """Rows of the kernels in ``jax.jit(lstm)`` and in its gradient."""
    import jax
    import jax.numpy as jnp

    from lstm_jax import LSTMSpec, lstm
    from lstm_jax.backends import tpu

    settings, operands, _, _ = _problem(mesh, STEPS, B, H, LSTMSpec())
    if tpu.unsupported_reason(settings, operands, chip.device_kind) is not None:
        return
    steps = tpu._plan(operands, tpu.vmem_of(chip.device_kind)).steps

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
    """Rows of the kernel's three passes, each beside its twin."""
    import jax
    import jax.numpy as jnp

    from lstm_jax import LSTMSpec
    from lstm_jax.backends import tpu

    class Twin(LSTMSpec):
        """No gates: what is left is the product and the streams."""

        def pointwise(self, params, C, z):
            return C, _largest(*jnp.split(z, 4, axis=-1))

    @jax.custom_jvp
    def _largest(a, b, c, d):
        """A maximum cannot be merged into the product; its tangent here is a sum, which is cheap."""
        return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))

    _largest.defjvp(lambda primals, tangents: (_largest(*primals), sum(tangents)))

    problem = _problem(mesh, STEPS, B, H, LSTMSpec())
    reason = tpu.unsupported_reason(*problem[:2], chip.device_kind)
    if reason is not None:
        yield {"backend": "tpu", "pass": "all", "refused": reason}
        return
    plan = tpu._plan(problem[1], tpu.vmem_of(chip.device_kind))
    assert STEPS % plan.steps == 0
    least_twin = {}
    for kernel, (kind, arrays) in PASSES.items():
        bytes_a_step = arrays * B * H * 2
        bundles, seconds = {}, {}
        for spec in (LSTMSpec(), Twin()):
            settings, operands, saved, cts = _problem(mesh, STEPS, B, H, spec)
            function = getattr(tpu, kind)
            hs = operands.xs
            given = (operands, hs, saved, cts) if kind == "backward" else (operands,)

            def run(*given, function=function, settings=settings):
                return function(settings, *given, device_kind=chip.device_kind)

            start = time.time()
            jax.jit(run).lower(*given).compile()
            seconds[type(spec)] = time.time() - start
            bundles[type(spec)] = _bundles(kernel, outermost=STEPS // plan.steps) / STEPS
        # That of the forward pass does all that inference has to do, and now and then in less.
        least_twin[kind] = bundles[Twin]
        twin = min(least_twin.values()) if kind == "infer" else bundles[Twin]
        mine = bundles[LSTMSpec]
        streams = bytes_a_step / chip.gbs / 1e3
        us = max(mine / chip.ghz / 1e3, streams)
        yield {
            "backend": "tpu",
            "pass": kind,
            "bundles": round(mine),
            "bytes": bytes_a_step,
            "us": us,
            "twin": twin / mine,
            "share": max(twin / chip.ghz / 1e3, streams) / us,
            "compile_s": seconds[LSTMSpec],
        }


def _loops(chip: Chip, mesh, B: int, H: int):
    """Rows of the XLA backends: what stands in the body of their while loops."""
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
    """Bundles, HBM bytes and least microseconds of one iteration: its operations in a row."""
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
        here = sum(_hbm_bytes(shape) for shape in (result, *read))
        issued = _bundles(name, outermost=1, missing=0)
        bundles, moved = bundles + issued, moved + here
        us += max(issued / chip.ghz, here / chip.gbs) / 1e3
    return bundles, moved, us


def _hbm_bytes(shapes: str) -> int:
    """Of arrays that are not in VMEM, ``S(1)``; of those with a time axis one step."""
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
    """Bundles that the operation ``name`` issues, each loop's weighted by its trip count.

    The schedule marks how deep in loops a bundle stands, and the test a loop is left by. ``outermost``
    is the trip count of a kernel's grid, which the compiler keeps in a register.
    """
    files = glob.glob(os.path.join(os.environ["DUMP"], f"*-{name}-*-final_bundles.txt"))
    files += glob.glob(os.path.join(os.environ["DUMP"], f"*-{name}.[0-9]*-final_bundles.txt"))
    files = [file for file in files if "schedule-analysis" not in file]
    if not files:
        if missing is None:
            raise RuntimeError(f"the compiler wrote no schedule of {name}")
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
