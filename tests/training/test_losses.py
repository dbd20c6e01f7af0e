"""Losses, and the count of correct predictions."""

import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.losses import LOSSES, count_correct, is_classification

STRICT = False
T, B, K = 3, 2, 4
OUTPUTS = np.random.default_rng(0).standard_normal((T, B, K)).astype(np.float32)


def test_losses_equal_their_definitions():
    ids = np.random.default_rng(1).integers(0, K, (T, B))
    log_p = OUTPUTS - np.log(np.exp(OUTPUTS).sum(-1, keepdims=True))
    floats = np.random.default_rng(2).standard_normal((T, B, K)).astype(np.float32)
    bits = (floats > 0).astype(np.float32)
    p = 1 / (1 + np.exp(-OUTPUTS))
    expected = {
        "cross_entropy": (ids, -np.take_along_axis(log_p, ids[..., None], -1)[..., 0]),
        "squared_error": (floats, ((OUTPUTS - floats) ** 2).mean(-1)),
        "bernoulli": (bits, -(bits * np.log(p) + (1 - bits) * np.log(1 - p)).sum(-1)),
    }
    assert expected.keys() == LOSSES.keys()
    for name, (targets, losses) in expected.items():
        got = LOSSES[name](jnp.asarray(OUTPUTS), targets)
        np.testing.assert_allclose(got, losses, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (np.zeros((T, B), int), True),
        (np.zeros((T, B)), False),
        (np.zeros((T, B, K), int), False),
        (np.zeros((T, B, K)), False),
    ],
)
def test_targets_of_a_classification_are_ids(targets, expected):
    assert is_classification(jnp.asarray(OUTPUTS), targets) is expected


def test_count_correct_uses_the_scored_predictions():
    targets = OUTPUTS.argmax(-1)
    targets[0, 0] = (targets[0, 0] + 1) % K
    weights, scored = np.ones((T, B)), np.zeros((T, B))
    scored[:2, 0] = 1
    batch = Batch(OUTPUTS, targets, weights)
    assert count_correct(jnp.asarray(OUTPUTS), batch) == (5, 6)
    assert count_correct(jnp.asarray(OUTPUTS), batch._replace(scored=scored)) == (1, 2)
