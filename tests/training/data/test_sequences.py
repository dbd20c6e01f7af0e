import numpy as np
import pytest

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.sequences import (
    batches_in_order,
    from_sequences,
    last_step_weights,
    repeat_over_time,
    shuffled_batches,
    split_validation,
    stack,
)

STRICT = False


def test_shuffled_batches_hold_every_sequence_once_per_epoch():
    numbers = Batch(np.arange(10)[:, None], np.arange(10)[:, None], np.ones((10, 1)))
    rows = np.arange(4)
    batch = shuffled_batches(numbers, batch_size=4, seed=0)
    seen = stack([batch(step, rows) for step in range(5)]).inputs.ravel()  # two epochs
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    again = shuffled_batches(numbers, batch_size=4, seed=0)(3, rows)
    assert (again.inputs.ravel() == seen[12:16]).all()
    assert (shuffled_batches(numbers, 4, seed=1)(0, rows).inputs.ravel() != seen[:4]).any()


@pytest.mark.parametrize("N", [1, 7, 8, 9, 60])
def test_batches_in_order_weigh_each_sequence_once(N):
    numbers, ones = np.arange(N)[:, None], np.ones((N, 1), np.float32)
    batches = batches_in_order(Batch(numbers, numbers, ones, np.ones(N, int), ones), batch_size=8)
    for weights in (batches.weights, batches.scored):
        assert batches.inputs[weights == 1].tolist() == list(range(N))
    assert batches.lengths.shape == (-(-N // 8), min(N, 8))


def test_the_validation_set_is_disjoint():
    train, validation = split_validation(100)
    assert sorted([*train, *validation]) == list(range(100))
    assert len(validation) == 10


def labelled(N, T=5, **changes):
    labels, lengths = np.arange(N) % 3, np.arange(N) % T + 1
    inputs = np.arange(N * T * 2, dtype=np.float32).reshape(N, T, 2)
    weights = last_step_weights(lengths, T)
    return Batch(inputs, repeat_over_time(labels, T), weights, lengths)._replace(**changes)


def dataset_of(train, eval, **options):
    known = {"loss": "cross_entropy", "metric": "accuracy", "output_size": 3, "batch_size": 4}
    return from_sequences(train, eval, **known | options)


def test_a_dataset_of_own_sequences():
    dataset = dataset_of(labelled(20), labelled(6), test=labelled(3), baselines={"guess": 0.3})
    assert (dataset.input_size, dataset.vocabulary_size, dataset.output_size) == (2, 0, 3)
    assert dataset.batch(2, np.array([1, 3])).inputs.shape == (5, 2, 2)
    assert dataset.eval.inputs.shape == (2, 5, 4, 2)
    assert (dataset.eval.weights.sum(), dataset.test.weights.sum()) == (6, 3)
    assert dataset.baselines == {"guess": 0.3}
    assert "20 sequences" in dataset.summary


def test_the_fingerprint_is_that_of_the_sequences():
    prints = {
        name: dataset_of(*sets, **options).fingerprint()
        for name, sets, options in [
            ("dataset", (labelled(20), labelled(6)), {}),
            ("in other batches", (labelled(20), labelled(6)), {"eval_batch_size": 5, "seed": 1}),
            ("other training", (labelled(19), labelled(6)), {}),
            ("other validation", (labelled(20), labelled(7)), {}),
            ("with a test", (labelled(20), labelled(6)), {"test": labelled(2)}),
        ]
    }
    assert prints["dataset"] == prints["in other batches"]
    assert len(set(prints.values())) == 4


def test_token_ids_give_the_vocabulary_size():
    ids = [Batch(np.full((4, 3), n), np.zeros((4, 3), int), np.ones((4, 3))) for n in (2, 6)]
    assert dataset_of(*ids).vocabulary_size == 7


@pytest.mark.parametrize(
    ("eval", "options", "names"),
    [
        (labelled(6, inputs=np.zeros((6, 5))), {}, r"eval\.inputs\b.*float64 \(6, 5\)"),
        (labelled(6, inputs=np.zeros((6, 5, 3))), {}, r"eval\.inputs\b.*\(6, 5, 3\)"),
        (labelled(6, weights=np.ones((6, 1))), {}, r"eval\.weights\b.*\(6, 5\).*\(6, 1\)"),
        (labelled(6, weights=None), {}, r"eval\.weights\b.*\(6, 5\).*\(\)"),
        (labelled(6, lengths=np.full(6, 6)), {}, r"eval\.lengths\b.*\b1\b.*\b5\b.*\b6\b"),
        (labelled(6, lengths=np.zeros(6, int)), {}, r"eval\.lengths\b.*\b1\b.*\b5\b.*\b0\b"),
        (labelled(6), {"output_size": 2}, r"train\.targets\b.*\b0\b.*\b1\b.*\b0\b.*\b2\b"),
        (labelled(6), {"loss": "squared_error"}, r"train\.targets\b.*\(20, 5, 3\).*\(20, 5\)"),
        (labelled(6, targets=np.zeros((6, 5))), {}, r"eval\.targets\b.*float64"),
    ],
)
def test_sequences_that_do_not_fit(eval, options, names):
    with pytest.raises(ValueError, match=names):
        dataset_of(labelled(20), eval, **options)
