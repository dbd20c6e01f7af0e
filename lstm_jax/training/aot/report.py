"""Text reports about a compiled experiment: mesh, parameters, FLOPs, memory and collectives."""

from collections import Counter

import jax

from lstm_jax.training.aot.compiled_step import GIB, UNITS, CompiledStep, Memory, bytes_per_device
from lstm_jax.training.aot.hlo import Collective
from lstm_jax.training.config import Experiment
from lstm_jax.training.program import Program

TIME_LOOP = "(_lstm)"  # part of the ``op_name`` of the loop over time in a layer


def state_lines(experiment: Experiment, program: Program) -> list[str]:
    """Returns lines about the mesh and the memory of the training state."""
    mesh, state = program.layout.mesh, program.state
    parts = {"parameters": state.params, "optimizer state": state.opt_state}
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    axes = " x ".join(f"{name} {n}" for name, n in mesh.shape.items())
    lines = [
        f"mesh: {axes}, parameters {experiment.mesh.parameters}",
        f"{count:,} parameters",
    ]
    for name, part in parts.items():
        whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(part))
        lines.append(f"{name}: {size_of(whole)}, {size_of(bytes_per_device(part))} per device")
    return lines


def parameter_table(program: Program) -> list[str]:
    """Returns a table of the parameters: name, shape, dtype, size, and the mesh axes that shard it."""
    head = ("parameter", "shape", "dtype", "size", "sharded over")
    rows = [head]
    for path, leaf in jax.tree_util.tree_leaves_with_path(program.state.params):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        split = ", ".join("-" if axis is None else _axes(axis) for axis in leaf.sharding.spec)
        whole = all(axis is None for axis in leaf.sharding.spec)
        shape = " x ".join(map(str, leaf.shape))
        rows.append((name, shape, str(leaf.dtype), f"{leaf.size:,}", "" if whole else split))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def step_lines(experiment: Experiment, program: Program, done: CompiledStep) -> list[str]:
    """Returns lines about backends, FLOPs and collectives."""
    layers: dict[tuple[str, str | None], list[str]] = {}
    for name, backend in done.backends.items():
        layers.setdefault(backend, []).append(name)
    lines = [
        f"{', '.join(names)}: {backend}{f' ({reason})' if reason else ''}"
        for (backend, reason), names in layers.items()
    ]
    lines.append(
        f"FLOPs per step, of matrix products: {done.flops:.3g}, "
        f"{done.flops / program.layout.mesh.size:.3g} per device"
    )
    if done.collectives is None:
        return [*lines, "collectives: unknown, as the program was not compiled"]
    return [*lines, *_collectives(done.collectives, experiment.train.steps_per_dispatch)]


def memory_line(memory: Memory, of: str, available: int | None) -> str:
    """Returns a line about the memory of one call of the training step."""
    total = "" if available is None else f" of {size_of(available)}"
    return (
        f"memory per {of}: {size_of(memory.needed)}{total} (arguments {size_of(memory.arguments)}, "
        f"temporaries {size_of(memory.needed - memory.arguments)})"
    )


def _collectives(found: list[Collective], steps: int) -> list[str]:
    """Returns a line for each kind of collective, separately inside and outside time loops."""
    if not found:
        return ["collectives: none"]
    runs: Counter[tuple[str, bool]] = Counter()
    moved: Counter[tuple[str, bool]] = Counter()
    for c in found:
        key = c.kind, in_time_loop(c)
        runs[key] += c.times
        moved[key] += c.times * c.bytes
    least = "" if all(c.exact for c in found) else ", at least"
    return [
        f"collectives per step, counted with the trip counts of their loops{least}:",
        *(
            f"  {kind}: {runs[kind, inside] / steps:,g} of {size_of(moved[kind, inside] / steps)} in total, "
            f"{'inside' if inside else 'outside'} time loops"
            for kind, inside in sorted(runs)
        ),
        f"  inside a time loop: {sum(in_time_loop(c) for c in found) or 'none'}",
    ]


def in_time_loop(c: Collective) -> bool:
    """Returns whether a collective runs in every time step of a layer.

    A loop without a name counts as a time loop.
    """
    return any(TIME_LOOP in loop or not loop for loop in c.loops)


def size_of(n: int | float) -> str:
    """Formats a number of bytes.

    >>> size_of(1.5 * GIB), size_of(2000), size_of(1)
    ('1.50 GiB', '2.0 KiB', '1 B')
    """
    if n < UNITS["K"]:
        return f"{n:.0f} B"
    unit = "GiB" if n >= GIB else "MiB" if n >= UNITS["M"] else "KiB"
    return f"{n / UNITS[unit[0]]:,.{2 if unit == 'GiB' else 1}f} {unit}"


def _axes(axis: str | tuple[str, ...]) -> str:
    return axis if isinstance(axis, str) else "+".join(axis)
