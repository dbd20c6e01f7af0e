"""``--compile-for``: the training step, compiled for a TPU slice on a machine that has none."""

import importlib.util
import logging
import multiprocessing
import os
import sys
from typing import Any

from lstm_jax.training.aot.slices import KNOWN, Slice
from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.monitoring import console as output


def compile_for(experiment: Experiment, wanted: Slice) -> int:
    """Compiles and reports, in a process of its own: some of its environment is read with jax's import.

    Returns:
      0; 1 if it does not fit; 2 if there is no such program, as stderr says.

    Raises:
      ConfigError: if there is no compiler for TPUs.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "--compile-for: needs libtpu, the compiler for TPUs (not a TPU): pip install "
            "'lstm-jax[tpu-aot]'."
        )
    before = dict(os.environ)
    os.environ.update(wanted.environment())
    try:
        child = multiprocessing.get_context("spawn").Process(
            target=_child, args=(experiment, wanted), daemon=True
        )
        child.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    child.join()
    code = child.exitcode or 0
    if code < 0:
        output.complain(
            f"error: the compiler was ended by signal {-code}; 9 comes of too little memory on this "
            "machine."
        )
    return 1 if code < 0 else code


def _child(experiment: Experiment, wanted: Slice) -> None:
    try:
        sys.exit(_report(experiment, wanted))
    except ConfigError as error:
        output.complain(f"error: {error}")
        sys.exit(2)


def _report(experiment: Experiment, wanted: Slice) -> int:
    """Compiles and prints; 1 if it does not fit."""
    from lstm_jax.training.aot.rehearsal import GIB, rehearse
    from lstm_jax.training.aot.report import introduce, memory_line, size_of, work
    from lstm_jax.training.data.outline import outline
    from lstm_jax.training.program import make_program

    logging.getLogger("lstm_jax").setLevel(logging.ERROR)  # which backend runs is said below
    devices = _devices(wanted)
    dataset, batches = outline(experiment)
    program = make_program(experiment, dataset, devices)
    output.say(
        f"{experiment.name} on {wanted.name}: {wanted.chips} chips, {devices[0].device_kind}"
    )
    output.say(dataset.summary)
    output.say("\n".join(introduce(experiment, program)))
    done = rehearse(experiment, program, batches)
    output.say("\n".join(work(experiment, program, done)))
    available = done.memory.available or int(wanted.chip.gib * GIB)
    output.say(memory_line(done.memory, wanted.chip.device, available))
    output.say(f"compiled in {done.seconds:.0f} s")
    left = available - done.memory.needed
    if left < 0:
        output.say(f"does not fit: {size_of(-left)} too much")
        return 1
    output.say(f"fits: {size_of(left)} left")
    return 0


def _devices(wanted: Slice) -> list[Any]:
    import jax
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(**wanted.topology()).devices
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"--compile-for: there is no slice {wanted.name!r} ({error}); known are {KNOWN}."
        ) from error
