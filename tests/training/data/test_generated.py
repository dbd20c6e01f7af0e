import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.generated import REBER
from tests.training.data.build import build

STRICT = False


def generated(name, T, B=64):
    dataset = build(Data(task=name, sequence_length=T, batch_size=B, eval_sequences=500), seed=0)
    return dataset, jax.tree.map(np.asarray, dataset.generate(jax.random.key(1)))


def test_adding_predicts_the_sum_of_the_marked_values():
    dataset, batch = generated("adding", 30)
    values, marked = np.moveaxis(batch.inputs, -1, 0)
    assert (marked[:15].sum(0) == 1).all()
    assert (marked[15:].sum(0) == 1).all()
    np.testing.assert_allclose(batch.targets[-1, :, 0], (values * marked).sum(0), rtol=1e-6)
    assert batch.weights.sum(0).tolist() == batch.weights[-1].tolist() == [1] * 64
    np.testing.assert_allclose(dataset.baselines["predict-the-mean baseline"], 1 / 6, rtol=0.1)


def test_copy_repeats_the_first_tokens():
    dataset, batch = generated("copy", 20)
    assert batch.inputs.shape == (40, 64)
    assert (batch.targets[-10:] == batch.inputs[:10]).all()
    assert set(np.unique(batch.inputs[:10])) == set(range(1, 9))
    assert (batch.inputs[29] == 9).all()
    assert (batch.inputs == 9).sum() == 64
    assert not batch.targets[:30].any()
    assert (batch.scored == (batch.targets > 0)).all()
    np.testing.assert_allclose(
        dataset.baselines["memoryless baseline"], 10 * np.log(8) / 40, rtol=1e-6
    )


def test_temporal_order_predicts_the_order_of_two_tokens():
    _, batch = generated("temporal_order", 110)
    for b, n in enumerate(batch.lengths):
        ids = batch.inputs[:, b]
        assert 100 <= n <= 110
        assert (ids[0], ids[n - 1]) == (6, 7)
        (places,) = np.nonzero(np.isin(ids, (4, 5)))
        assert 10 <= places[0] <= 20
        assert 50 <= places[1] <= 60
        assert len(places) == 2
        assert batch.targets[n - 1, b] == 2 * (ids[places[0]] - 4) + ids[places[1]] - 4
        assert batch.weights[:, b].sum() == batch.weights[n - 1, b] == 1
    assert set(np.unique(batch.targets)) == {0, 1, 2, 3}


def legal(word):
    """Reber's grammar, as a set of states walked by hand."""
    edges = {
        (0, "B"): 1, (1, "T"): 2, (1, "P"): 3, (2, "S"): 2, (2, "X"): 4, (3, "T"): 3, (3, "V"): 5,
        (4, "X"): 3, (4, "S"): 6, (5, "P"): 4, (5, "V"): 6, (6, "E"): 7,
    }  # fmt: skip
    state = 0
    for symbol in word:
        state = edges.get((state, symbol), -1)
    return state == 7


def test_reber_words_follow_the_grammar():
    _, batch = generated("reber", 60, B=200)
    complete = 0
    for b, n in enumerate(batch.lengths):
        word = "".join(REBER[i] for i in [*batch.inputs[:n, b], batch.targets[n - 1, b]])
        assert (batch.inputs[1:n, b] == batch.targets[: n - 1, b]).all()
        assert batch.weights[:, b].tolist() == [1] * n + [0] * (60 - n)
        if n == 60:  # cut
            assert not batch.scored[:, b].any()
            continue
        complete += 1
        assert word[0] + word[-1] == "BE"
        assert word[1] == word[-2]
        assert word[1] in "TP"
        assert legal(word[2:-2]), word
        assert batch.scored[:, b].sum() == batch.scored[n - 2, b] == 1
        assert REBER[batch.targets[n - 2, b]] == word[1]
    assert complete > 190
    assert len({tuple(batch.inputs[:, b]) for b in range(200)}) > 50


@pytest.mark.parametrize("name", ["adding", "copy", "temporal_order", "reber"])
def test_generated_tasks_depend_on_the_seed_and_validate_on_new_sequences(name):
    data = Data(task=name, sequence_length=40, batch_size=4, eval_sequences=4)
    first, again, other = (build(data, seed=s) for s in (0, 0, 1))
    assert (first.eval.inputs == again.eval.inputs).all()
    assert (first.eval.inputs != other.eval.inputs).any()
    step = first.generate(jax.random.fold_in(jax.random.key(0), 0))
    assert (jnp.asarray(first.eval.inputs[0]) != step.inputs).any()


@pytest.mark.parametrize(("name", "T"), [("adding", 1), ("temporal_order", 19), ("reber", 11)])
def test_sequences_too_short_for_the_task(name, T):
    with pytest.raises(ConfigError, match=rf"data\.sequence_length.*\b{T + 1}\b.*\b{T}\b"):
        build(Data(task=name, sequence_length=T), seed=0)
