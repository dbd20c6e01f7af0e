"""The training step, compiled but not run: its memory, its work, what its devices send each other."""

import re
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from lstm_jax.modules import layer_names
from lstm_jax.training.aot.hlo import Collective, collectives
from lstm_jax.training.aot.traced import matmul_flops, recurrences
from lstm_jax.training.config import Experiment
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.parallel.layout import with_shardings
from lstm_jax.training.program import Program

GIB = 2**30
UNITS = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


class Memory(NamedTuple):
    """Bytes that a call of the program needs on each device.

    Attributes:
      arguments: the training state and the batches.
      needed: all of it at its peak.
      available: what there is, where the compiler says it.
    """

    arguments: int
    needed: int
    available: int | None = None


@dataclass(frozen=True)
class Rehearsal:
    """What is known of a training step without running it.

    Attributes:
      memory: on each device.
      flops: of the matrix products of a step, on all devices.
      backends: of each layer and direction: the backend, and why it is not a kernel.
      collectives: of a call, which may be several steps; None if there is no program.
      seconds: to trace and compile it.
    """

    memory: Memory
    flops: int
    backends: dict[str, tuple[str, str | None]]
    collectives: list[Collective] | None
    seconds: float


def rehearse(experiment: Experiment, program: Program, batches: Batch | None) -> Rehearsal:
    """Compiles the training step for the program's devices."""
    began = time.monotonic()
    mesh = program.layout.mesh
    device = mesh.devices.flat[0]
    if batches is not None:
        batches = with_shardings(batches, program.layout.batches(batches))
    with jax.set_mesh(mesh):
        traced = program.train_steps.trace(program.state, batches)  # type: ignore[attr-defined]
        memory, sent = _compiled(traced, device.platform, bytes_a_device((program.state, batches)))
    model = experiment.model
    ran = recurrences(traced.jaxpr, device.platform, device.device_kind)
    return Rehearsal(
        memory=memory,
        flops=matmul_flops(traced.jaxpr) // experiment.train.steps_per_dispatch,
        backends=dict(zip(layer_names(model.num_layers, model.bidirectional), ran, strict=False)),
        collectives=sent,
        seconds=time.monotonic() - began,
    )


def _compiled(traced: Any, platform: str, arguments: int) -> tuple[Memory, list[Collective] | None]:
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        memory = memory_of_error(str(error), arguments)
        if memory is None:
            raise
        return memory, None
    return memory_of(compiled, platform), collectives(compiled.as_text())


def memory_of(compiled: Any, platform: str) -> Memory:
    """Of a program that fits: its arguments, outputs not written over these, and temporaries.

    TPUs' compiler says how much that is at its peak, others only what all temporaries take together.
    """
    m = compiled.memory_analysis()
    outputs = m.output_size_in_bytes - m.alias_size_in_bytes
    together = m.argument_size_in_bytes + outputs + m.temp_size_in_bytes
    peak = m.peak_memory_in_bytes if platform == "tpu" else together
    return Memory(m.argument_size_in_bytes, peak)


def memory_of_error(message: str, arguments: int) -> Memory | None:
    """Of a program that the compiler refused for its memory, or None if that was not why.

    The compiler speaks of temporaries, and means the arguments too.

    >>> text = "RESOURCE_EXHAUSTED: ... for HLO temporaries (17.50G) exceeds available HBM (15.75G)."
    >>> memory = memory_of_error(text, arguments=2 * GIB)
    >>> memory.needed / GIB, memory.available / GIB
    (17.5, 15.75)
    """
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    said = re.search(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)", message)
    if said is None:
        return None
    needed, available = (
        int(float(number) * UNITS[unit]) for number, unit in (said.groups()[:2], said.groups()[2:])
    )
    return Memory(arguments, max(needed, arguments), available)


def bytes_a_device(tree: Any) -> int:
    """What arrays of these shapes and shardings take on each device."""

    def size(leaf: Any) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape)
        return int(jax.ShapeDtypeStruct(shape, leaf.dtype).size) * leaf.dtype.itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))
