"""TensorBoard and Weights & Biases: their packages."""

import importlib.machinery
import importlib.util

import pytest

from lstm_jax.training.config import ConfigError, Log
from lstm_jax.training.loop import fit
from tests.training.runs import (
    small_config,
)

STRICT = False


@pytest.mark.parametrize(
    ("log", "package"), [(Log(tensorboard=True), "tensorboardX"), (Log(wandb="p"), "wandb")]
)
def test_a_missing_package_is_an_error_before_anything_is_written(
    tmp_path, monkeypatch, log, package
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    experiment = small_config(tmp_path, log=log)
    with pytest.raises(ConfigError, match=rf"log\.\w+\W.*\b{package}\b"):
        fit(experiment)
    assert not experiment.run_dir.exists()
