"""``--dry-run``: a report about an experiment, without training or writing."""

import json

import jax

from lstm_jax.training.aot.compiled_step import compile_step
from lstm_jax.training.aot.report import memory_line, parameter_table, state_lines, step_lines
from lstm_jax.training.config import Experiment
from lstm_jax.training.config.json import as_json
from lstm_jax.training.data import make_dataset
from lstm_jax.training.data.outline import shapes_of
from lstm_jax.training.monitoring import console as output
from lstm_jax.training.program import make_program
from lstm_jax.training.start import check


def dry_run(experiment: Experiment) -> None:
    """Prints the resolved experiment, its parameters, and the memory of a training step.

    Raises:
      ConfigError: If the experiment, its data or its run directory is invalid.
    """
    dataset = make_dataset(experiment)
    program = make_program(experiment, dataset, jax.devices())
    check(experiment, dataset)
    output.say(json.dumps(as_json(experiment), indent=2))
    output.say(dataset.summary)
    output.say("\n".join([*state_lines(experiment, program), "", *parameter_table(program), ""]))
    done = compile_step(experiment, program, shapes_of(dataset, experiment))
    output.say("\n".join(step_lines(experiment, program, done)))
    limit = (program.layout.mesh.devices.flat[0].memory_stats() or {}).get("bytes_limit")
    output.say(memory_line(done.memory, "device", limit))
    output.say(
        f"compiled in {done.seconds:.1f} s; nothing was trained or written to {experiment.run_dir}"
    )
