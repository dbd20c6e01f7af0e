"""Counts GPU kernel launches per time step in programs compiled for an NVIDIA H100, without a GPU.

    pip install -e '.[gpu-aot]'          # in a virtual environment of its own
    python -m benchmarks.gpu_static [--sizes 16,256 64,512] [--dtypes bfloat16] [--programs jit] [--json FILE]

At the sizes of most LSTMs a GPU spends its time on starting kernels, so their number is what to reduce.
The launches are read from the thunk sequence that XLA writes: every kernel and every memcpy in the body of a
time loop, divided by the time steps per iteration. A loop of known length does not run its condition. Time
steps that XLA runs before or after the loop are counted as launches outside the loops. A dynamic memcpy has
an address that depends on the time step. It keeps XLA from capturing the whole loop as one CUDA graph.

The table has one row per compiled program, for sequences of 128 steps whose features are as many as the
hidden units:

- ``jit``: ``jax.jit(lstm)``, and its loss and gradient with respect to the weights and the inputs.
- ``graphs``: the same as ``jit`` with the compiler options that capture whole loops as CUDA graphs.
- ``vmap``: the same as ``jit`` with ``jax.vmap`` over 4 inputs that share the weights.
- ``trainer``: the training step of ``configs/char_lm.py``, on one GPU and on eight.

"a + b" is the forward loop and the backward loop. "host" is the number of loops whose iterations the host
starts, without loops inside other loops: 0 if each is part of a CUDA graph. Nothing is timed.
Without a GPU XLA cannot autotune, so on a GPU it may choose other kernels for the matrix products.
"""

import argparse
import importlib.util
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.gpu_speed import LOOP_GRAPHS
from lstm_jax import init_lstm, lstm
from lstm_jax.training.aot.hlo import collectives

TARGET = Path(__file__).with_name("h100.txtpb")
T = 128
SIZES = [(B, H) for B in (16, 64) for H in (256, 512, 1024)]
DTYPES = ["bfloat16", "float32"]
EXAMPLES = 4
COUNTS = ("launches", "memcpys", "dynamic_memcpys")
MIB = 2**20
PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
INSTALL = (
    "Compiling for a GPU needs JAX's CUDA plugin, but no GPU. Run `pip install 'lstm-jax[gpu-aot]'` in a "
    "virtual environment of its own."
)
HEAD = (
    f"{'program':8} {'pass':18} {'T':>4} {'B':>3} {'H':>5}  {'dtype':9} {'launches per step':22} "
    f"{'memcpys':8} {'dynamic':8} {'host':>4} {'outside':>7} {'MiB':>7} {'compile s':>9}"
)


@dataclass
class Loop:
    """A ``while`` of XLA.

    Attributes:
      name: Name of its HLO instruction.
      launches: Kernels and memcpys in its body.
      memcpys: Memcpys in its body.
      dynamic_memcpys: Memcpys in its body to or from an address that depends on the iteration.
      around: The loop whose body contains it.
    """

    name: str
    launches: int = 0
    memcpys: int = 0
    dynamic_memcpys: int = 0
    around: "Loop | None" = None


def main(argv: list[str] | None = None) -> int:
    """Compiles the programs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=[f"{B},{H}" for B, H in SIZES], metavar="B,H")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=PROGRAMS)
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    arguments = parser.parse_args(argv)
    if not is_installed():
        print(INSTALL, file=sys.stderr)
        return 2
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # a cached program writes no thunks
    jax.config.update("jax_disable_most_optimizations", False)
    sizes = [tuple(map(int, size.split(","))) for size in arguments.sizes]
    shapes = [(B, H, dtype) for dtype in arguments.dtypes for B, H in sizes]
    rows = []
    print(HEAD)
    for program in arguments.programs:
        for row in PROGRAMS[program](shapes):
            rows.append({"program": program} | row)
            print(_line(rows[-1]), flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def is_installed() -> bool:
    """Returns whether a CUDA plugin of JAX is installed. Its compiler needs no GPU."""
    if importlib.util.find_spec("jax_plugins") is None:
        return False
    return any(importlib.util.find_spec(name) is not None for name in PLUGINS)


def devices(count: int = 1) -> list[Any]:
    """Returns the H100s of one host, as devices to compile for."""
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name="h100",
        target_config=TARGET.read_text(encoding="utf-8"),
        topology=f"1x1x{count}",
    )
    return list(topology.devices)


def measure_lstm(
    B: int,
    H: int,
    dtype: str,
    examples: int | None = None,
    compiler_options: dict[str, str] | None = None,
) -> Iterator[dict]:
    """Compiles ``lstm`` and its gradient.

    Args:
      B: Batch size.
      H: Hidden units, and features of the inputs.
      dtype: Dtype of the weights and the inputs.
      examples: Size of the leading axis of the inputs that ``jax.vmap`` maps. By default it is absent.
      compiler_options: Options of XLA.

    Yields:
      A row of the table for the forward pass, then one for the forward and backward pass.
    """
    sharding = NamedSharding(Mesh(np.array(devices()), ("data",)), PartitionSpec())

    def abstract(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    params = jax.eval_shape(lambda: init_lstm(jax.random.key(0), H, H))
    params = jax.tree.map(lambda p: abstract(p.shape), params)
    xs = abstract((T, B, H) if examples is None else (examples, T, B, H))
    forward = lstm if examples is None else jax.vmap(lstm, in_axes=(None, 0))

    def loss(params: Any, xs: jax.Array) -> jax.Array:
        return (forward(params, xs)[1].astype(jnp.float32) ** 2).sum()

    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    shape = {"T": T, "B": B, "H": H, "dtype": dtype}
    for name, function in (("forward", forward), ("forward + backward", gradient)):
        lower = lambda function=function: jax.jit(function).lower(params, xs)  # noqa: E731
        yield {"pass": name} | shape | measure(lower, T, compiler_options)


def measure_trainer(count: int = 1) -> dict:
    """Compiles the training step of ``configs/char_lm.py`` for some GPUs. Returns its row of the table."""
    from configs.char_lm import config
    from lstm_jax.training.data.outline import outline
    from lstm_jax.training.parallel.layout import with_shardings
    from lstm_jax.training.program import make_program

    dataset, batches = outline(config)
    program = make_program(config, dataset, devices(count))
    batches = with_shardings(batches, program.layout.batches(batches))
    steps = config.data.sequence_length
    shape = {"T": steps, "B": config.data.batch_size, "H": config.model.hidden_size}
    with jax.set_mesh(program.layout.mesh):
        counts = measure(lambda: program.train_steps.lower(program.state, batches), steps)
    name = "training step" if count == 1 else f"the same on {count}"
    return {"pass": name, "dtype": str(config.model.dtype)} | shape | counts


def measure(
    lower: Callable[[], Any], steps: int, compiler_options: dict[str, str] | None = None
) -> dict:
    """Compiles a program and counts its launches.

    Args:
      lower: Returns the lowered program.
      steps: Time steps of its sequences.
      compiler_options: Options of XLA.

    Returns:
      Launches per time step, each time loop in the order in which they run, launches outside these loops,
      the number of loops whose iterations the host starts, MiB of temporaries, and seconds to trace and
      compile.

    Raises:
      RuntimeError: If XLA's output is not as expected.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        options = (compiler_options or {}) | {"xla_dump_to": folder}
        compiled = lower().compile(compiler_options=options)
        seconds = time.monotonic() - start
        thunks = _only(folder, "*.thunk_sequence.txt")
        metadata = _only(folder, "*.thunk_metadata.txt")
        with_graphs = _only(folder, "*.thunk_sequence_after_thunk_passes.txt")
    hlo = compiled.as_text()
    parsed = parse_loops(thunks, metadata)
    loops, outside = [], 0
    for loop in parsed:
        if loop.name and not any(other.around is loop for other in parsed):
            loops.append(in_time(loop, steps, hlo))
        elif not any(other.around is loop and in_blocks(other, steps, hlo) for other in parsed):
            outside += loop.launches
    if not loops:
        raise RuntimeError("The program has no loop over time.")
    return {
        "launches_per_step": sum(loop["launches"] / loop["steps"] for loop in loops),
        "loops": loops,
        "launches_outside": outside,
        "host_loops": len(re.findall(r"^\d+: kWhile", with_graphs, re.MULTILINE)),
        "temporaries_mib": compiled.memory_analysis().temp_size_in_bytes / MIB,
        "compile_s": seconds,
        "collectives": [vars(collective) for collective in collectives(hlo)],
    }


def in_time(loop: Loop, steps: int, hlo: str) -> dict:
    """The counts of a time loop: per iteration, with its share of the loop over blocks of time around it."""
    iterations = trip_count(loop, hlo)
    if iterations > steps:
        raise RuntimeError(f"{loop.name} is not a loop over {steps} time steps.")
    counts = {name: getattr(loop, name) for name in COUNTS}
    if in_blocks(loop, steps, hlo):
        blocks = trip_count(loop.around, hlo)
        counts["launches"] += loop.around.launches / iterations
        iterations *= blocks
    # Rounded down: the remaining steps run outside the loop.
    return {"steps": steps // iterations} | counts


def in_blocks(loop: Loop, steps: int, hlo: str) -> bool:
    """Whether the loop around it is one over blocks of time: both together are at most all steps."""
    if loop.around is None or not loop.around.name:
        return False
    return trip_count(loop, hlo) * trip_count(loop.around, hlo) <= steps


def trip_count(loop: Loop, hlo: str) -> int:
    """How often its body runs."""
    found = re.search(rf'%{re.escape(loop.name)} = .*"known_trip_count":{{"n":"(\d+)"', hlo)
    if found is None:
        raise RuntimeError(f"{loop.name} runs for a number of iterations that XLA does not know.")
    return int(found[1])


def parse_loops(thunks: str, metadata: str) -> list[Loop]:
    """Counts the launches in each loop of a thunk sequence.

    Args:
      thunks: XLA's thunk sequence. A line that is followed by deeper lines contains these thunks, and any
        other line is one launch.
      metadata: XLA's names of the thunks by their ids.

    Returns:
      The loops in the order in which they start, after a ``Loop`` without a name that holds the launches
      outside all loops. Launches of an inner loop do not count for the loops around it.
    """
    found = re.findall(r'profile_annotation: "(.*)"\s+thunk_id: (\d+)', metadata)
    names = {int(number): name for name, number in found}
    lines = re.findall(r"^( *)(?:(\d+): (k\w+)|(condition|body):)", thunks, re.MULTILINE)
    depths = [len(indent) for indent, _, kind, _ in lines if kind] + [0]
    loops = [Loop("")]
    around = [(-1, loops[0])]  # the loops around a line, with their indentation
    in_condition, before = False, ""
    n = 0
    for indent, number, kind, part in lines:
        if part:
            in_condition = part == "condition"
            continue
        n += 1
        if in_condition:
            continue
        while len(indent) <= around[-1][0]:
            around.pop()
        loop = around[-1][1]
        if kind == "kWhile":
            loops.append(Loop(names[int(number)], around=loop))
            around.append((len(indent), loops[-1]))
        elif depths[n] <= len(indent) and not kind.endswith("Done"):
            loop.launches += 1
            loop.memcpys += "Copy" in kind
            loop.dynamic_memcpys += "Copy" in kind and before == "kDynamicSliceFusion"
        before = kind
    return loops


def _only(folder: str, pattern: str) -> str:
    """The contents of the only file of this name."""
    files = list(Path(folder).glob(pattern))
    if len(files) != 1:
        raise RuntimeError(f"Expected one file {pattern} in XLA's output, got {len(files)}.")
    return files[0].read_text(encoding="utf-8")


def _line(row: dict) -> str:
    """A row of the table as text."""
    launches = f"{row['launches_per_step']:.2f}"
    if len(row["loops"]) > 1:
        parts = (f"{loop['launches'] / loop['steps']:.2f}" for loop in row["loops"])
        launches += f" = {' + '.join(parts)}"
    memcpys, dynamic = (" + ".join(str(loop[c]) for loop in row["loops"]) for c in COUNTS[1:])
    return (
        f"{row['program']:8} {row['pass']:18} {row['T']:4} {row['B']:3} {row['H']:5}  "
        f"{row['dtype']:9} {launches:22} {memcpys:8} {dynamic:8} {row['host_loops']:4} "
        f"{row['launches_outside']:7} {row['temporaries_mib']:7.1f} {row['compile_s']:9.1f}"
    )


PROGRAMS: dict[str, Callable[[list[tuple[int, int, str]]], Iterator[dict]]] = {
    "jit": lambda shapes: (row for shape in shapes for row in measure_lstm(*shape)),
    "graphs": lambda shapes: (
        row for shape in shapes for row in measure_lstm(*shape, compiler_options=LOOP_GRAPHS)
    ),
    "vmap": lambda shapes: (row for shape in shapes for row in measure_lstm(*shape, EXAMPLES)),
    "trainer": lambda _: (measure_trainer(count) for count in (1, 8)),
}

if __name__ == "__main__":
    sys.exit(main())
