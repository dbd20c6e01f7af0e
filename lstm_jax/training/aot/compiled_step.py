"""Compilation of the training step without running it, and its memory, FLOPs and collectives."""

import re
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from lstm_jax.modules import layer_names
from lstm_jax.training.aot.hlo import Collective, collectives
from lstm_jax.training.config import Experiment
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.jaxprs import matmul_flops, recurrences
from lstm_jax.training.parallel.layout import with_shardings
from lstm_jax.training.program import Program, trace

GIB = 2**30
UNITS = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


class Memory(NamedTuple):
    """Memory of a call of the program, in bytes per device.

    Attributes:
      arguments: Size of the training state and the batches.
      needed: Peak memory.
      available: Memory of the device. None if the compiler does not report it.
    """

    arguments: int
    needed: int
    available: int | None = None


@dataclass(frozen=True)
class CompiledStep:
    """Properties of a compiled training step.

    Attributes:
      memory: Memory per device.
      flops: FLOPs of the matrix products of one step, summed over all devices.
      backends: ``(backend, reason)`` by layer and direction. The reason is None for a kernel.
      collectives: Collectives of one call of ``train.steps_per_dispatch`` steps. None if the program does
        not fit into memory, so that the compiler reports no program.
      seconds: Time to trace and compile.
    """

    memory: Memory
    flops: int
    backends: dict[str, tuple[str, str | None]]
    collectives: list[Collective] | None
    seconds: float


def compile_step(experiment: Experiment, program: Program, batches: Batch | None) -> CompiledStep:
    """Compiles the training step for the devices of the program.

    Args:
      experiment: The experiment.
      program: The functions of the experiment.
      batches: Shapes and dtypes of the batches of one call. None if batches are generated on the device.
    """
    started = time.monotonic()
    mesh = program.layout.mesh
    device = mesh.devices.flat[0]
    if batches is not None:
        batches = with_shardings(batches, program.layout.batches(batches))
    traced = trace(program, batches)
    with jax.set_mesh(mesh):
        memory, sent = _compiled(
            traced, device.platform, bytes_per_device((program.state, batches))
        )
    model = experiment.model
    ran = recurrences(traced.jaxpr, device.platform, device.device_kind)
    return CompiledStep(
        memory=memory,
        flops=matmul_flops(traced.jaxpr) // experiment.train.steps_per_dispatch,
        backends=dict(zip(layer_names(model.num_layers, model.bidirectional), ran, strict=False)),
        collectives=sent,
        seconds=time.monotonic() - started,
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
    """Returns the memory of a compiled program.

    The TPU compiler reports the peak. On other platforms, the result is the sum of arguments, outputs that
    do not alias arguments, and temporaries.
    """
    m = compiled.memory_analysis()
    outputs = m.output_size_in_bytes - m.alias_size_in_bytes
    together = m.argument_size_in_bytes + outputs + m.temp_size_in_bytes
    peak = m.peak_memory_in_bytes if platform == "tpu" else together
    return Memory(m.argument_size_in_bytes, peak)


def memory_of_error(message: str, arguments: int) -> Memory | None:
    """Parses the memory from an out-of-memory error of the compiler. Returns None for other errors.

    The message says "temporaries", but the number includes the arguments.

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


def bytes_per_device(tree: Any) -> int:
    """Returns the size of a tree of sharded arrays or ``ShapeDtypeStruct``, in bytes per device."""

    def size(leaf: Any) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape)
        return int(jax.ShapeDtypeStruct(shape, leaf.dtype).size) * leaf.dtype.itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))
