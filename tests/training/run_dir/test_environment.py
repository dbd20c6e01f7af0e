"""Versions, machine and commit of a run."""

import json

import jax
import numpy as np

from lstm_jax.training.run_dir.environment import environment

STRICT = False


def test_the_environment_holds_versions_and_devices():
    found = json.loads(json.dumps(environment()))
    assert found["packages"]["jax"] == jax.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert len(found["devices"]) == jax.device_count()
