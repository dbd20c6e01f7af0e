"""The layout: shardings of parameters and of batches."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTMState
from lstm_jax.partition import Partition
from lstm_jax.training.config import Mesh
from lstm_jax.training.data import make_dataset
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.parallel.layout import Layout, batch_specs, make_layout, pad_batches
from lstm_jax.training.parallel.mesh import make_mesh
from lstm_jax.training.train_state import TrainState
from tests.training.parallel.programs import prepare, small_config

STRICT = False


def test_the_sharding_of_the_training_state(data):
    def specs(mesh):
        program, *_ = prepare(small_config(data["text"], mesh))
        specs = jax.tree.map(lambda a: a.sharding.spec, program.state)
        _, (adam, *_) = specs.opt_state
        assert adam.mu == adam.nu == specs.params
        assert adam.count == specs.step == P()
        return specs

    replicated = specs(Mesh())
    assert all(spec in (P(), P(None, None), P(None)) for spec in jax.tree.leaves(replicated.params))
    sharded = specs(Mesh(parameters="sharded")).params
    assert sharded["lstm"]["l0f"]["w_x"] == P("data", None)
    assert sharded["lstm"]["l1f"]["w_h"] == P("data", None)
    assert sharded["lstm"]["l1f"]["bias"] == P()
    assert sharded["output_layer"]["kernel"] == P("data", None)  # 29 tokens are not a multiple of 8
    both = specs(Mesh(model=2, parameters="sharded"))
    assert both.params["lstm"]["l1f"]["w_h"] == P(("data", "model"), None)
    assert both.carry[0] == LSTMState(P("data", "model"), P("data", "model"))


@pytest.mark.parametrize("kind", ["text", "arrays"])
def test_a_dataset_makes_only_the_requested_rows(data, kind):
    dataset = make_dataset(dataclasses.replace(small_config(data[kind]), seed=3))
    batch, rows = dataset.batch(5, np.arange(32)), np.array([1, 2, 7])
    part = dataset.batch(5, rows)
    for name, value in batch._asdict().items():
        if value is not None:
            want = value[rows] if name == "lengths" else value[:, rows]
            np.testing.assert_array_equal(getattr(part, name), want)


def test_one_process_reads_all_rows(data):
    experiment = small_config(data["text"], Mesh())
    layout = make_layout(experiment, make_mesh(experiment, jax.devices()))
    rows = layout.local_rows(32)
    assert rows.tolist() == list(range(32))
    numbers = np.arange(64.0).reshape(2, 1, 32)
    batch = layout.shard_batches(Batch(numbers, numbers, numbers), rows, 32)
    np.testing.assert_array_equal(batch.inputs, numbers)
    assert batch.inputs.sharding.spec == P(None, None, "data")


@pytest.fixture
def layout():
    """``layout(data, model, fsdp)``: the layout on a mesh of this shape."""

    def make(data, model, fsdp=False):
        devices = np.array(jax.devices()[: data * model]).reshape(data, model)
        return Layout(jax.sharding.Mesh(devices, ("data", "model")), fsdp)

    return make


@pytest.mark.parametrize(
    ("name", "shape", "mesh", "spec"),
    [
        ("lstm.l0f.w_h", (8, 32), (1, 2), P("model", None)),  # columns are gates
        ("lstm.l0f.w_h", (8, 32), (4, 2), P(("data", "model"), None)),
        ("lstm.l0f.w_x", (6, 32), (4, 2), P("model", None)),  # 4 does not divide 6
        ("lstm.l0f.bias", (32,), (4, 2), P()),
        ("embedding.embedding", (12, 8), (4, 1), P("data", None)),  # the longest axis first
        ("embedding.embedding", (7, 8), (4, 2), P(None, ("data", "model"))),
        ("output_layer.kernel", (3, 5), (4, 2), P(None, None)),
        ("window_h", (8, 32), (4, 1), P(None, "data")),  # not the name of a weight
    ],
)
def test_the_rules_for_parameters(layout, name, shape, mesh, spec):
    params = jax.ShapeDtypeStruct(shape, np.float32)
    for key in reversed(name.split(".")):
        params = {key: params}
    optimizer = optax.sgd(0.1)
    state = TrainState(
        jax.ShapeDtypeStruct((), np.int32), params, jax.eval_shape(optimizer.init, params), ()
    )
    shardings = layout(*mesh, fsdp=True).state(optimizer, state)
    (sharding,) = jax.tree.leaves(shardings.params)
    assert sharding.spec == spec


def test_without_fsdp_parameters_are_split_over_hidden_units_only(layout):
    assert layout(4, 1).partition == Partition(batch="data")
    assert layout(4, 2).partition == Partition(batch="data", hidden="model")
    assert layout(4, 2, True).partition == Partition(batch="data", hidden="model", weights="data")
    assert layout(1, 1, True).partition is None


@pytest.mark.parametrize("lengths", [None, np.array([[4, 2, 3]])])
def test_pad_batches_adds_sequences_of_weight_zero(lengths):
    ones = np.ones((1, 4, 3), np.float32)
    batches = Batch(np.arange(12).reshape(1, 4, 3), ones, ones, lengths, scored=ones)
    padded = pad_batches(batches, 4)
    assert padded.inputs.shape == padded.weights.shape == (1, 4, 4)
    np.testing.assert_array_equal(padded.inputs[..., :3], batches.inputs)
    for weights in (padded.weights, padded.scored):
        assert weights[..., :3].all()
        assert not weights[..., 3].any()
    assert padded.lengths is None if lengths is None else padded.lengths.shape == (1, 4)
    assert pad_batches(batches, 3) is batches


def test_batch_specs_split_the_sequences():
    batch = Batch(np.zeros((4, 8, 2)), np.zeros((4, 8)), np.zeros((4, 8)), np.zeros(8))
    assert batch_specs(batch) == Batch(P(None, "data"), P(None, "data"), P(None, "data"), P("data"))
    stacked = batch_specs(batch, leading=1)
    assert (stacked.inputs, stacked.lengths) == (P(None, None, "data"), P(None, "data"))


def test_to_host_gathers_sharded_arrays(layout):
    mesh = layout(4, 2).mesh
    array = np.arange(32.0).reshape(8, 4)
    sharded = jax.device_put(array, NamedSharding(mesh, P("data", "model")))
    gathered = layout(4, 2).to_host({"a": sharded})
    assert isinstance(gathered["a"], np.ndarray)
    np.testing.assert_array_equal(gathered["a"], array)
