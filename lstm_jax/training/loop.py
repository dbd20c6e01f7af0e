"""``fit`` and the training loop."""

import time
from collections.abc import Sequence

import jax
import optax

from lstm_jax.training.config import Experiment
from lstm_jax.training.data import make_dataset
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.losses import Loss
from lstm_jax.training.parallel import processes
from lstm_jax.training.program import ModelOrFunction, make_program
from lstm_jax.training.run import Hook, Run
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.signals import on_signals
from lstm_jax.training.start import check, print_result, restore_or_initialize, warn


def fit(
    config: Experiment,
    *,
    dataset: Dataset | None = None,
    model: ModelOrFunction | None = None,
    loss: Loss | None = None,
    optimizer: optax.GradientTransformation | None = None,
    hooks: Sequence[Hook] | None = None,
) -> dict[str, float] | None:
    """Trains a model in the run directory of an experiment, or resumes an interrupted run.

    The same call resumes an interrupted run. It returns the metrics of a complete run without changing
    anything. A change in the code of ``dataset``, ``model``, ``loss`` or ``optimizer`` is not detected,
    unless arrays have other shapes.

    Args:
      config: The experiment.
      dataset: Batches, validation data and the sizes of the model. None builds ``config.data``.
      model: An NNX module with the call signature of :class:`~lstm_jax.training.model.SequenceModel`, or
        a function from the ``Partition`` of its LSTM layers (None on one device) to such a module. None
        builds ``config.model``.
      loss: ``(outputs [T, B, K], targets) -> losses [T, B]``. None is the loss of the dataset.
      optimizer: An Optax optimizer. None builds ``config.optimizer``.
      hooks: Callbacks. None is :func:`~lstm_jax.training.hooks.default_hooks`.

    Returns:
      The metrics of the best model: ``eval/...``, and ``test/...`` if the dataset has a test set. None if
      a signal stopped training.

    Raises:
      ConfigError: If the data or the run directory is invalid. Nothing has been written.
      RunError: If training diverges, or the run directory cannot be written.
    """
    started = time.monotonic()
    processes.start(config.mesh)
    if dataset is None:
        dataset = make_dataset(config)
    program = make_program(
        config, dataset, jax.devices(), model=model, loss=loss, optimizer=optimizer
    )
    check(config, dataset)
    run_dir = RunDir(config.run_dir, writes=processes.is_first())
    result = run_dir.result(config, same_data=True)  # check has compared the data
    processes.wait_for_all("the directory was checked")
    if result is not None:
        print_result(run_dir, result)
        return dict(result["metrics"])
    with run_dir.locked(warn), jax.set_mesh(program.layout.mesh):
        run = restore_or_initialize(config, dataset, program, run_dir, hooks)
        with on_signals() as run.signal:
            with run.closing():
                metrics = run.report() if train(run) else None
            run.finish(metrics, time.monotonic() - started)
    return metrics


def train(run: Run) -> bool:
    """Trains to the last step. Returns False if a signal stopped training, else True."""
    every = run.config.train
    if not run.is_evaluated and not run.evaluate():  # an interrupted evaluation is repeated
        return False
    for step, batches in run.batches():
        run.train_steps(batches)
        last = step == every.steps
        if step % every.log_every == 0 or last:
            run.log()
        stop = run.should_stop()
        if (step % every.eval_every == 0 or last) and not stop:
            run.evaluate()
            last, stop = last or run.is_stopped_early, run.is_interrupted()
        if step % every.checkpoint_every == 0 or last or stop:
            run.save()
            stop = stop or run.is_interrupted()
        if stop:
            return False
        if last:
            break
    return True
