"""What is known of an experiment before it trains, in lines for people."""

from collections import Counter

import jax

from lstm_jax.training.aot.hlo import Collective
from lstm_jax.training.aot.rehearsal import GIB, UNITS, Memory, Rehearsal, bytes_a_device
from lstm_jax.training.config import Experiment
from lstm_jax.training.program import Program

TIME_LOOP = "(_lstm)"  # in the names of a layer's own loops


def introduce(experiment: Experiment, program: Program) -> list[str]:
    """How the devices share the work, and what the state takes."""
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
        lines.append(f"{name}: {size_of(whole)}, {size_of(bytes_a_device(part))} a device")
    return lines


def table(program: Program) -> list[str]:
    """A row a parameter: name, shape, dtype, number, and how it lies on the mesh."""
    head = ("parameter", "shape", "dtype", "number", "split over")
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


def work(experiment: Experiment, program: Program, done: Rehearsal) -> list[str]:
    """Backends, FLOPs, collectives."""
    layers: dict[tuple[str, str | None], list[str]] = {}
    for name, backend in done.backends.items():
        layers.setdefault(backend, []).append(name)
    lines = [
        f"{', '.join(names)}: {backend}{f' ({reason})' if reason else ''}"
        for (backend, reason), names in layers.items()
    ]
    lines.append(
        f"FLOPs a step, of matrix products: {done.flops:.3g}, {done.flops / program.layout.mesh.size:.3g} "
        "a device"
    )
    if done.collectives is None:
        return [*lines, "collectives: there is no program to read them from"]
    return [*lines, *_collectives(done.collectives, experiment.train.steps_per_dispatch)]


def memory_line(memory: Memory, of: str, available: int | None) -> str:
    """What a call of the training step needs."""
    there = "" if available is None else f" of {size_of(available)}"
    return (
        f"memory a {of}: {size_of(memory.needed)}{there} (arguments {size_of(memory.arguments)}, "
        f"temporaries {size_of(memory.needed - memory.arguments)})"
    )


def _collectives(found: list[Collective], steps: int) -> list[str]:
    """A line a kind and place: how many, and how many bytes, in one step of so many in a call."""
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
        f"collectives a step, as often as their loops run{least}:",
        *(
            f"  {kind}: {runs[kind, inside] / steps:,g} of {size_of(moved[kind, inside] / steps)} in all, "
            f"{'inside' if inside else 'outside'} time loops"
            for kind, inside in sorted(runs)
        ),
        f"  inside a time loop: {sum(in_time_loop(c) for c in found) or 'none'}",
    ]


def in_time_loop(c: Collective) -> bool:
    """Whether it runs at every time step of a layer; a loop without a name may be one."""
    return any(TIME_LOOP in loop or not loop for loop in c.loops)


def size_of(n: int | float) -> str:
    """Bytes for people.

    >>> size_of(1.5 * GIB), size_of(2000), size_of(1)
    ('1.50 GiB', '2.0 KiB', '1 B')
    """
    if n < UNITS["K"]:
        return f"{n:.0f} B"
    unit = "GiB" if n >= GIB else "MiB" if n >= UNITS["M"] else "KiB"
    return f"{n / UNITS[unit[0]]:,.{2 if unit == 'GiB' else 1}f} {unit}"


def _axes(axis: str | tuple[str, ...]) -> str:
    return axis if isinstance(axis, str) else "+".join(axis)
