"""Which models a run keeps as the best."""

import numpy as np
import pytest

from lstm_jax.training.config import Train
from lstm_jax.training.kept import Kept
from lstm_jax.training.run import RunFolder

STRICT = False


def test_a_worse_model_does_not_replace_the_best(tmp_path):
    folder = RunFolder(tmp_path)
    kept = Kept(folder, Train(), warn=pytest.fail)
    for step, loss in [(1, 2.0), (2, 1.0), (3, 3.0), (4, 1.0)]:
        kept.offer(step, {"w": np.full(3, loss)}, loss)
    kept.close()
    best = Kept(folder, Train(), warn=pytest.fail).best_model({"w": np.zeros(3)})
    assert (best.step, best.state["w"].tolist()) == (2, [1.0, 1.0, 1.0])
