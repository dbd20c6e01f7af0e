"""Hyperparameter search: Optuna samples the overrides of the runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from lstm_jax.training.config import ConfigError, Range
from lstm_jax.training.sweeps.child import Children
from lstm_jax.training.sweeps.sweep import PENDING, TABLE, Sweep

STUDY = "optuna.db"


def search(sweep: Sweep, space: dict[str, Any], trials: int, children: Children) -> None:
    """Runs trials until ``trials`` have finished. Interrupted trials are resumed first.

    Args:
      sweep: The runs and their directory.
      space: A dict of field names to a ``Range`` or a list of values.
      trials: The total number of trials, including earlier calls.
      children: Runs the trials.

    Raises:
      ConfigError: If Optuna is not installed, or the study was started with another search space.
    """
    optuna = _optuna()
    if not (sweep.folder / TABLE).exists():
        sweep.write()  # creates the directory
    space = {name: _distribution(optuna.distributions, of) for name, of in space.items()}
    with _study(optuna, sweep) as study:
        before = study.get_trials(deepcopy=False)
        # With the same seed, a resumed search would sample the first points again.
        study.sampler = optuna.samplers.TPESampler(seed=sweep.base.seed + len(before))
        failed = optuna.trial.TrialState.FAIL
        for trial in before:
            if trial.params.keys() == space.keys():  # otherwise it was interrupted during sampling
                run = sweep.add(trial.params)
                if trial.state == failed and run.status == PENDING:
                    run.status = "failed"
        sweep.write()
        sweep.print_counts(trials)
        for trial in before:
            if not trial.state.is_finished():
                _run(study, trial.number, trial.params, sweep, children, failed)
        for _ in range(len(before), trials):
            if not children.stopped:
                trial = _ask(study, space)
                _run(study, trial.number, trial.params, sweep, children, failed)


@contextmanager
def _study(optuna: ModuleType, sweep: Sweep) -> Iterator[Any]:
    """Opens the study in the directory of a sweep, and closes its database on exit."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{sweep.folder / STUDY}")
    try:
        yield optuna.create_study(study_name=sweep.base.name, storage=storage, load_if_exists=True)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _run(
    study: Any, number: int, params: dict[str, Any], sweep: Sweep, children: Children, failed: Any
) -> None:
    """Runs a trial and reports its loss to Optuna. A stopped trial is resumed by the next call."""
    run = sweep.add(params)
    sweep.run(run, children)
    if run.status == "complete":
        study.tell(number, run.loss())
    elif not children.stopped:
        study.tell(number, state=failed)


def _ask(study: Any, space: dict[str, Any]) -> Any:
    try:
        return study.ask(space)
    except ValueError as error:
        raise ConfigError(
            f"search must be the search space that the study was started with ({error}); restore it, or "
            "choose another directory with --workdir."
        ) from error


def _distribution(of: ModuleType, values: Any) -> Any:
    if not isinstance(values, Range):
        return of.CategoricalDistribution(list(values))
    whole = isinstance(values.low, int) and isinstance(values.high, int)
    number = of.IntDistribution if whole else of.FloatDistribution
    return number(values.low, values.high, log=values.log)


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "--search requires Optuna, which is not installed: pip install -e '.[search]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
