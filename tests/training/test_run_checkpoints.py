"""Which checkpoints a run keeps."""

import numpy as np
import pytest

from lstm_jax.training.config import Train
from lstm_jax.training.run import RunFolder
from lstm_jax.training.run_checkpoints import RunCheckpoints, Start

STRICT = False


def opened(folder, step=0, state=None, **changes):
    start = Start(step, state, [], np.inf, {}, [])
    return RunCheckpoints(folder, start, Train(**changes), pytest.fail)


def test_a_worse_model_does_not_replace_the_best(tmp_path):
    checkpoints = opened(RunFolder(tmp_path))
    for step, loss in [(1, 2.0), (2, 1.0), (3, 3.0), (4, 1.0)]:
        checkpoints.offer(step, {"w": np.full(3, loss)}, loss)
    best = checkpoints.best_model({"w": np.zeros(3)})
    checkpoints.close()
    assert (best.step, best.state["w"].tolist()) == (2, [1.0, 1.0, 1.0])
