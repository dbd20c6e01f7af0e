"""Small experiments on several devices, and their compiled programs."""

import jax
import numpy as np

from lstm_jax.training.config import Experiment, Mesh, Model, Optimizer, Train
from lstm_jax.training.data import make_dataset
from lstm_jax.training.data.sequences import stack
from lstm_jax.training.program import make_program

MESHES = {
    "1": Mesh(data=1),
    "2": Mesh(data=2),
    "4": Mesh(data=4),
    "8": Mesh(),
    "8 explicit": Mesh(axis_types="explicit"),
    "4 x 2": Mesh(model=2),
    "4 x 2 explicit": Mesh(model=2, axis_types="explicit"),
    "sharded 8": Mesh(parameters="sharded"),
    "sharded 8 explicit": Mesh(parameters="sharded", axis_types="explicit"),
    "sharded 4 x 2 explicit": Mesh(model=2, parameters="sharded", axis_types="explicit"),
}


def small_config(data, mesh=Mesh(data=1), accumulate=1, dropout=0.2):
    """Returns an experiment of 4 steps, in one dispatch."""
    return Experiment(
        model=Model(
            hidden_size=16,
            embedding_size=8,
            num_layers=2 if data.task == "text" else 1,
            dropout=dropout,
            input_dropout=dropout,
        ),
        data=data,
        optimizer=Optimizer(warmup_steps=2, learning_rate=0.05),
        train=Train(
            steps=4, log_every=4, eval_every=4, checkpoint_every=4, steps_per_dispatch=4,
            grad_accum_steps=accumulate,
        ),
        mesh=mesh,
    )  # fmt: skip


def prepare(experiment):
    """Returns the program of an experiment, its dataset, and the batches of its first dispatch."""
    dataset = make_dataset(experiment)
    program = make_program(experiment, dataset, jax.devices())
    if dataset.batch is None:
        return program, dataset, None
    B = experiment.data.batch_size
    rows = program.layout.local_rows(B)
    steps = range(experiment.train.steps_per_dispatch)
    batches = stack([dataset.batch(step, rows) for step in steps])
    return program, dataset, program.layout.shard_batches(batches, rows, B)


def train_and_evaluate(experiment):
    """Returns metrics of the first dispatch with the validation loss after it, and the state."""
    program, dataset, batches = prepare(experiment)
    with jax.set_mesh(program.layout.mesh):
        state, metrics = program.train_steps(program.init(), batches)
        sums = program.evaluate(state.params, dataset.eval)
    metrics = {name: np.asarray(value) for name, value in metrics.items()}
    return metrics | {"eval": float(sums["loss"]) / float(sums["weight"])}, state


def assert_metrics_close(got, want):
    """Compares metrics with a relative tolerance of 1e-5."""
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)
