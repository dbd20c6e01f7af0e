"""Checkpoints that a run keeps, and those that it is resumed from."""

import numpy as np
import pytest

from lstm_jax.training.checkpointing.checkpoints import steps_in
from lstm_jax.training.checkpointing.run_checkpoints import RunCheckpoints, Start
from lstm_jax.training.config import Train
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.train_state import TrainState

STRICT = False


def open_checkpoints(run_dir, step=0, state=None, **changes):
    """Returns the checkpoints of a run directory, to continue from a step."""
    start = Start(step, state, [], np.inf, {}, [])
    return RunCheckpoints(run_dir, start, Train(**changes), True, pytest.fail)


def test_a_worse_model_does_not_replace_the_best(tmp_path):
    checkpoints = open_checkpoints(RunDir(tmp_path))
    for step, loss in [(1, 2.0), (2, 1.0), (3, 3.0), (4, 1.0)]:
        checkpoints.save_if_best(step, {"w": np.full(3, loss)}, loss)
    best = checkpoints.best_model({"w": np.zeros(3)})
    checkpoints.close()
    assert (best.step, best.state["w"].tolist()) == (2, [1.0, 1.0, 1.0])


def test_every_checkpoint_keeps_its_best_model(tmp_path):
    """Includes the checkpoint that becomes the oldest when the latest is complete."""
    checkpoints = open_checkpoints(RunDir(tmp_path), keep_last=2, keep_best=2)
    losses = {10: 5.0, 20: 4.0, 30: 2.0, 40: 3.0, 50: 1.5, 60: 1.0}
    for step, loss in losses.items():
        params = {"w": np.full(3, loss)}
        checkpoints.save_if_best(step, params, loss)
        if step % 20 == 0:
            checkpoints.save(step, TrainState(np.int32(step), params, (), ()), {})
    checkpoints.close()
    assert steps_in(tmp_path / "checkpoints") == [60, 40]
    assert steps_in(tmp_path / "best") == [60, 50, 30]
