"""``--compile-for``: compiles the training step for a TPU slice, on a machine without TPUs."""

import importlib.util
import logging
import multiprocessing
import os
import sys
from typing import Any

from lstm_jax.training.aot.slices import KNOWN, Slice
from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.monitoring import console as output


def compile_for(experiment: Experiment, tpu_slice: Slice) -> int:
    """Compiles the training step for a TPU slice and prints a report.

    The compiler runs in a new process, because JAX reads some environment variables when it is imported.

    Returns:
      The exit code: 0 if the program fits into memory, 1 if it does not, 2 after a ``ConfigError``.

    Raises:
      ConfigError: If libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "--compile-for requires libtpu, the compiler for TPUs (no TPU is required): pip install "
            "'lstm-jax[tpu-aot]'."
        )
    before = dict(os.environ)
    os.environ.update(tpu_slice.environment())
    try:
        child = multiprocessing.get_context("spawn").Process(
            target=_child, args=(experiment, tpu_slice), daemon=True
        )
        child.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    child.join()
    code = child.exitcode or 0
    if code < 0:
        output.print_error(
            f"error: the compiler was killed by signal {-code}. Signal 9 usually means that this machine "
            "ran out of memory."
        )
    return 1 if code < 0 else code


def _child(experiment: Experiment, tpu_slice: Slice) -> None:
    try:
        sys.exit(_report(experiment, tpu_slice))
    except ConfigError as error:
        output.print_error(f"error: {error}")
        sys.exit(2)


def _report(experiment: Experiment, tpu_slice: Slice) -> int:
    """Compiles and prints a report. Returns 1 if the program does not fit into memory."""
    from lstm_jax.training.aot.compiled_step import GIB, compile_step
    from lstm_jax.training.aot.report import memory_line, size_of, state_lines, step_lines
    from lstm_jax.training.data.outline import outline
    from lstm_jax.training.program import make_program

    logging.getLogger("lstm_jax").setLevel(logging.ERROR)  # the backend is printed below
    devices = _devices(tpu_slice)
    dataset, batches = outline(experiment)
    program = make_program(experiment, dataset, devices)
    output.say(
        f"{experiment.name} on {tpu_slice.name}: {tpu_slice.chips} chips, {devices[0].device_kind}"
    )
    output.say(dataset.summary)
    output.say("\n".join(state_lines(experiment, program)))
    done = compile_step(experiment, program, batches)
    output.say("\n".join(step_lines(experiment, program, done)))
    available = done.memory.available or int(tpu_slice.chip.gib * GIB)
    output.say(memory_line(done.memory, tpu_slice.chip.device, available))
    output.say(f"compiled in {done.seconds:.0f} s")
    left = available - done.memory.needed
    if left < 0:
        output.say(f"does not fit: {size_of(-left)} too large")
        return 1
    output.say(f"fits: {size_of(left)} left")
    return 0


def _devices(tpu_slice: Slice) -> list[Any]:
    import jax
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(**tpu_slice.topology()).devices
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"--compile-for must be a TPU slice such as {KNOWN}, got {tpu_slice.name!r} ({error})."
        ) from error
