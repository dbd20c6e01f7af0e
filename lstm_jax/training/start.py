"""Steps before training: validation, and initialization or restoration of a run."""

import math
from collections.abc import Sequence
from typing import Any

import jax

from lstm_jax.training.checkpointing.run_checkpoints import RunCheckpoints, Start, restore
from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.config.json import differences
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.hooks import default_hooks
from lstm_jax.training.monitoring import console
from lstm_jax.training.monitoring.lines import values
from lstm_jax.training.monitoring.progress import Progress
from lstm_jax.training.monitoring.trackers import check_trackers
from lstm_jax.training.optimizer import make_schedule
from lstm_jax.training.parallel import processes
from lstm_jax.training.program import Program
from lstm_jax.training.run import Hook, Run
from lstm_jax.training.run_dir import RunDir

SAME_METRICS = (
    "workdir", "data.path", "log.tensorboard", "log.wandb", "log.profile", "train.keep_last",
    "train.keep_best", "train.patience",
)  # fmt: skip
"""Fields that do not affect the metrics and models of any step."""


def check(config: Experiment, dataset: Dataset) -> None:
    """Checks that the experiment fits its data and its run directory. Writes nothing.

    Raises:
      ConfigError: If the model or the prompt does not fit the data, or the run directory belongs to
        another experiment or to other data.
    """
    if config.model.bidirectional and dataset.predicts_next:
        raise ConfigError(
            "model.bidirectional must be False for a dataset that predicts the next step, got True: a "
            "model that reads backward sees the next step."
        )
    vocabulary, prompt = dataset.vocabulary, config.sample.prompt
    if vocabulary is not None and not len(vocabulary.encode(prompt)):
        raise ConfigError(
            f"sample.prompt must contain at least one {vocabulary.unit}, got {prompt!r}."
        )
    check_trackers(config.log)
    run_dir = RunDir(config.run_dir)
    run_dir.check(config)
    run_dir.model_files.check_data(dataset.fingerprint(), vocabulary)


def restore_or_initialize(
    config: Experiment,
    dataset: Dataset,
    program: Program,
    run_dir: RunDir,
    hooks: Sequence[Hook] | None,
) -> Run:
    """Restores a run from its latest checkpoint, or initializes it.

    Nothing in the directory is changed before the checkpoint is restored.

    Raises:
      ConfigError: If no checkpoint can be restored although some exist, or the directory cannot be
        written.
      RunError: If the checkpoint does not match the model, or the disk is full.
    """
    progress = Progress(config.train.steps, silent=not processes.is_first())

    def warn(text: str) -> None:
        progress.say(f"warning: {text}", "yellow")
        run_dir.event(0, text)

    start = restore(run_dir, program.init(), config.train.steps_per_dispatch)
    is_evaluated = _is_evaluated(config, run_dir, start)
    if start.step and not run_dir.model_files.is_readable():
        start.warnings.append(
            f"{run_dir.file('task.json')} is missing or corrupt: cannot check that the data is the same "
            "as in the earlier steps"
        )
    processes.wait_for_all("the checkpoints were read")
    # The directory is unchanged up to this point.
    before = run_dir.start(config)
    run_dir.model_files.write(program.sizes, dataset.fingerprint(), dataset.vocabulary, warn)
    # With other settings, training may not reproduce the metrics and models of later steps.
    reproducible = before is None or set(differences(before, config)) <= set(SAME_METRICS)
    checkpoints = RunCheckpoints(run_dir, start, config.train, reproducible, warn)
    run_dir.truncate(start.step, is_evaluated, reproducible, warn)
    run_dir.write_settings(config)
    for warning in start.warnings:
        warn(warning)
    processes.wait_for_all("the directory was truncated")
    changes = []
    if before is not None:
        changes = list(differences(before, config).values())
        if program.schedule is not None:
            changes += _change_of_learning_rate(before, config, start.step)
    run_dir.event(start.step, "; ".join(["resumed" if start.step else "started", *changes]))
    for change in changes:
        progress.say(f"changed: {change}")
    if config.mesh.data is None and program.layout.mesh.size < jax.device_count():
        progress.say(
            f"using {program.layout.mesh.size} of {jax.device_count()} devices, the largest number that "
            f"divides data.batch_size {config.data.batch_size}"
        )
    return Run(
        config=config,
        dataset=dataset,
        program=program,
        run_dir=run_dir,
        checkpoints=checkpoints,
        hooks=default_hooks(config) if hooks is None else hooks,
        progress=progress,
        state=start.state,
        step=start.step,
        pending=start.pending,
        history=run_dir.metrics(),
        is_evaluated=is_evaluated,
    )


def print_result(run_dir: RunDir, result: dict[str, Any]) -> None:
    """Prints the result of a complete run in the first process."""
    if run_dir.writes:
        metrics = values(result["metrics"], result["metric"], "eval")
        console.say(
            f"{run_dir.path} is complete. Best checkpoint: step {result['step']:,}  eval  {metrics}. "
            "Raise --train.steps to continue, or choose another directory with --workdir."
        )


def warn(text: str) -> None:
    """Prints a warning to stderr, before a ``Run`` exists."""
    console.print_error(f"warning: {text}")


def _is_evaluated(config: Experiment, run_dir: RunDir, start: Start) -> bool:
    """Returns False if the evaluation at the restored step must be repeated.

    A signal or a kill may have interrupted the evaluation, or its model may be lost although it is the
    best so far.
    """
    run, step = config.train, start.step
    if not step or (step % run.eval_every and step < run.steps):
        return True
    lines = [line for line in run_dir.metrics() if line["step"] == step]
    losses = [line["eval/loss"] for line in lines if "eval/loss" in line]
    return bool(losses) and not losses[-1] < start.best_loss


def _change_of_learning_rate(before: Experiment, now: Experiment, step: int) -> list[str]:
    """Returns a sentence if the schedule has another learning rate at a step than before.

    Args:
      before: The experiment with which the run was last started.
      now: The experiment.
      step: The step from which the run resumes.
    """
    old, new = (float(make_schedule(e.optimizer, e.train)(step)) for e in (before, now))
    if not step or math.isclose(old, new, rel_tol=1e-3):
        return []
    change = f"the learning rate at step {step:,} was {old:.3g}, now {new:.3g}"
    decays = now.optimizer.schedule in ("cosine", "linear")
    if decays and not now.optimizer.decay_steps and before.train.steps != now.train.steps:
        end = before.optimizer.decay_steps or before.train.steps
        change += (
            f", as the schedule ends at train.steps; --optimizer.decay-steps {end} keeps the old "
            f"schedule, with a learning rate of 0 from step {end:,} on"
        )
    return [change]
