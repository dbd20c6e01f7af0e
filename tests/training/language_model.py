"""A small language model and its compiled functions, for tests of parts of the trainer."""

import jax.numpy as jnp
import numpy as np
import optax

from lstm_jax.training import config
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.evaluation import make_evaluate
from lstm_jax.training.losses import LOSSES
from lstm_jax.training.model import Sizes, make_model, merge, split
from lstm_jax.training.parallel.layout import Layout
from lstm_jax.training.train_state import TrainState
from lstm_jax.training.train_step import make_train_steps

V, B, T = 7, 4, 8
"""Vocabulary size, batch size and sequence length."""
SIZES = Sizes(V, 0, V)
SMALL = config.Model(hidden_size=16, embedding_size=5, num_layers=2, dropout=0.3)
TRAIN = config.Train(steps=6, log_every=1, eval_every=1, checkpoint_every=1, steps_per_dispatch=1)
DATASET = Dataset(
    output_size=V, loss="cross_entropy", metric="bits", eval=Batch(0, 0, 0), vocabulary_size=V,
    stateful=True,
)  # fmt: skip


def graphdef_and_params(model=SMALL, sizes=SIZES):
    """Returns a model without its parameters, and the initial parameters."""
    return split(make_model(sizes, model, seed=0))


def random_ids(n, seed=0):
    """Returns token ids ``[n, T + 1, B]``."""
    return np.random.default_rng(seed).integers(0, V, (n, T + 1, B))


def next_token_batches(ids):
    """Returns batches ``[n, T, B]`` that predict the next of ids ``[n, T + 1, B]``."""
    ids = np.asarray(ids)
    return Batch(ids[:, :-1], ids[:, 1:], np.ones(ids[:, 1:].shape, np.float32))


def evaluate(graphdef, params, batches, **keywords):
    """Returns the sums of :func:`~lstm_jax.training.evaluation.make_evaluate`."""
    run = make_evaluate(graphdef, DATASET, LOSSES["cross_entropy"], Layout.single())
    return run(params, batches, **keywords)


def initial_state(optimizer):
    """Returns the model without its parameters, and the initial training state."""
    graphdef, params = graphdef_and_params()
    carry = merge(graphdef, params).initialize_carry(B)
    return graphdef, TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry)


def compiled_steps(state, graphdef, optimizer, n, *, seed=0, reset_probability=0.0):
    """Returns the compiled function for n training steps."""
    experiment = config.Experiment(
        seed=seed,
        data=config.Data(reset_probability=reset_probability),
        train=config.Train(
            steps=n, log_every=n, eval_every=n, checkpoint_every=n, steps_per_dispatch=n
        ),
    )
    layout, schedule = Layout.single(), optax.constant_schedule(1e-3)
    loss, shardings = LOSSES["cross_entropy"], layout.state(optimizer, state)
    return make_train_steps(
        experiment, DATASET, graphdef, loss, optimizer, schedule, layout, shardings
    )
