"""Evaluation of a model on validation and test data."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.text import cut_into_rows
from lstm_jax.training.evaluation import BATCHES_PER_CALL, describe_best, eval_metrics, splits
from tests.training.language_model import DATASET, T, V, evaluate, graphdef_and_params

STRICT = False


def test_the_evaluation_loss_is_the_mean_over_all_tokens():
    length = 2 * BATCHES_PER_CALL * T + 3  # more than two calls of the compiled function
    ids = np.random.default_rng(0).integers(0, V, length)
    graphdef, params = graphdef_and_params()
    sums = evaluate(graphdef, params, cut_into_rows(ids, 1, T))
    _, logits = nnx.merge(graphdef, params)(ids[:-1, None])
    want = optax.softmax_cross_entropy_with_integer_labels(logits[:, 0], jnp.asarray(ids[1:]))
    np.testing.assert_allclose(sums["loss"] / sums["weight"], want.mean(), rtol=1e-5)


def test_an_untrained_model_has_the_loss_of_a_uniform_prediction():
    graphdef, params = graphdef_and_params()
    batches = cut_into_rows(np.random.default_rng(0).integers(0, V, 400), 4, T)
    sums = evaluate(graphdef, params, batches)
    np.testing.assert_allclose(sums["loss"] / sums["weight"], np.log(V), rtol=0.1)


def test_an_interrupted_evaluation_returns_none():
    graphdef, params = graphdef_and_params()
    batches = cut_into_rows(np.arange(3 * BATCHES_PER_CALL * T) % V, 1, T)
    answers = iter([False, True])
    assert evaluate(graphdef, params, batches, should_stop=lambda: next(answers)) is None
    assert next(answers, None) is None  # it was asked after each of two calls, then stopped


def test_eval_metrics_are_means_of_sums():
    sums = {"loss": np.log(8) * 4, "weight": 4.0, "correct": 3.0, "scored": 6.0}
    metrics = eval_metrics(sums, DATASET, "test")
    assert metrics == {
        "test/loss": pytest.approx(np.log(8)), "test/accuracy": 0.5, "test/bits": pytest.approx(3.0),
    }  # fmt: skip
    assert "test/accuracy" not in eval_metrics({"loss": 1.0, "weight": 2.0}, DATASET, "test")


def test_a_split_is_described_with_its_baselines():
    dataset = dataclasses.replace(
        DATASET, test=Batch(1, 1, 1), baselines={"unigram": 2.5}, test_baselines={"unigram": 2.0}
    )
    assert [split.name for split in splits(DATASET)] == ["eval"]
    _, test = splits(dataset)
    assert (test.name, test.batches) == ("test", dataset.test)
    line = describe_best(400, {"test/bits": 1.5, "test/loss": 1.04}, dataset, test)
    assert re.search(r"loss 1\.0400  bits/token 1\.5000 .*unigram\b.* 2\.0000", line)
