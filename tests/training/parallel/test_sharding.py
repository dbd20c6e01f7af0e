"""The same batch gives the same losses on any number of devices, however they share the work out."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTMState
from lstm_jax.training.aot.hlo import collectives
from lstm_jax.training.config import ConfigError, Data, Experiment, Mesh, Model, Optimizer, Train
from lstm_jax.training.data import make_dataset
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.sequences import stack
from lstm_jax.training.loop import fit
from lstm_jax.training.metrics import MACHINE
from lstm_jax.training.parallel.layout import make_layout
from lstm_jax.training.parallel.mesh import make_mesh
from lstm_jax.training.program import make_program
from lstm_jax.training.run_dir import RunDir
from tests.cases import nightly
from tests.hlo import collectives_in_loops

STRICT = False

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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Data of each kind: with a carried state, made on the device, of several lengths."""
    folder = tmp_path_factory.mktemp("data")
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    rng = np.random.default_rng(0)
    arrays = {"inputs": rng.standard_normal((70, 5, 2)), "labels": np.arange(70) % 2}
    np.savez(folder / "own.npz", lengths=rng.integers(1, 6, 70), **arrays)
    return {
        "text": Data(path=text, batch_size=32, sequence_length=8, reset_probability=0.2),
        "generated": Data(
            task="temporal_order", sequence_length=20, batch_size=32, eval_sequences=9
        ),
        "arrays": Data(task="arrays", path=folder / "own.npz", batch_size=32),
    }


def small(data, mesh=Mesh(data=1), accumulate=1, dropout=0.2):
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
    """The program of an experiment, its dataset, and the batches of its first dispatch."""
    dataset = make_dataset(experiment)
    program = make_program(experiment, dataset, jax.devices())
    if dataset.batch is None:
        return program, dataset, None
    B = experiment.data.batch_size
    rows = program.layout.local_rows(B)
    steps = range(experiment.train.steps_per_dispatch)
    batches = stack([dataset.batch(step, rows) for step in steps])
    return program, dataset, program.layout.shard_batches(batches, rows, B)


def run(experiment):
    """The metrics of a dispatch, the validation loss after it, and the state."""
    program, dataset, batches = prepare(experiment)
    with jax.set_mesh(program.layout.mesh):
        state, metrics = program.train_steps(program.init(), batches)
        sums = program.evaluate(state.params, dataset.eval)
    figures = {name: np.asarray(value) for name, value in metrics.items()}
    return figures | {"eval": float(sums["loss"]) / float(sums["weight"])}, state


@pytest.fixture(scope="module")
def on_one_device(data):
    """The figures of a kind of data, made when they are first asked for."""

    @functools.cache
    def figures(kind, dropout=0.2):
        return run(small(data[kind], dropout=dropout))[0]

    return figures


def check(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "case",
    [
        ("generated", "8"),
        ("arrays", "4 x 2"),
        ("text", "sharded 4 x 2 explicit"),
        *nightly(
            *[("text", name) for name in MESHES if name not in ("1", "sharded 4 x 2 explicit")],
            ("generated", "4 x 2 explicit"),
            ("arrays", "8 explicit"),
            ("arrays", "sharded 8"),
        ),
    ],
)
def test_the_same_losses_on_any_mesh(data, on_one_device, case):
    kind, name = case
    experiment = small(data[kind], MESHES[name])
    got, state = run(experiment)
    check(got, on_one_device(kind))
    for array, planned in zip(
        *map(jax.tree.leaves, (state, prepare(experiment)[0].state)), strict=True
    ):
        assert array.sharding.is_equivalent_to(planned.sharding, array.ndim)


@pytest.mark.parametrize(
    "case",
    [
        ("text", 4, "1"),
        ("arrays", 2, "sharded 4 x 2 explicit"),
        *nightly(
            ("arrays", 2, "1"), ("text", 4, "8"), ("arrays", 4, "8"),
            ("text", 2, "sharded 4 x 2 explicit"),
        ),
    ],
)  # fmt: skip
def test_parts_of_a_batch_add_up_to_the_whole(data, on_one_device, case):
    kind, n, name = case
    got, _ = run(small(data[kind], MESHES[name], accumulate=n, dropout=0.0))
    check(got, on_one_device(kind, dropout=0.0))


@pytest.mark.parametrize("name", ["8", "sharded 8 explicit", *nightly("8 explicit", "sharded 8")])
def test_a_training_step_has_no_communication_in_its_time_loops(data, name):
    long = dataclasses.replace(data["text"], sequence_length=64)
    experiment = small(long, MESHES[name])
    one = Train(steps=1, log_every=1, eval_every=1, checkpoint_every=1, steps_per_dispatch=1)
    program, _, batches = prepare(dataclasses.replace(experiment, train=one))
    with jax.set_mesh(program.layout.mesh):
        text = program.train_steps.lower(program.state, batches).compile().as_text()
    assert "num_partitions=8" in text
    found = collectives(text)
    assert found
    assert collectives_in_loops(text) == []
    assert max(c.bytes for c in found) < 64 * 32 * 16 * 4, "hidden states of a whole sequence"


def test_where_the_state_lies(data):
    def specs(mesh):
        program, *_ = prepare(small(data["text"], mesh))
        specs = jax.tree.map(lambda a: a.sharding.spec, program.state)
        _, (adam, *_) = specs.opt_state
        assert adam.mu == adam.nu == specs.params
        assert adam.count == specs.step == P()
        return specs

    plain = specs(Mesh())
    assert all(spec in (P(), P(None, None), P(None)) for spec in jax.tree.leaves(plain.params))
    sharded = specs(Mesh(parameters="sharded")).params
    assert sharded["lstm"]["l0f"]["w_x"] == P("data", None)
    assert sharded["lstm"]["l1f"]["w_h"] == P("data", None)
    assert sharded["lstm"]["l1f"]["bias"] == P()
    assert sharded["output_layer"]["kernel"] == P("data", None)  # 29 symbols do not divide
    both = specs(Mesh(model=2, parameters="sharded"))
    assert both.params["lstm"]["l1f"]["w_h"] == P(("data", "model"), None)
    assert both.carry[0] == LSTMState(P("data", "model"), P("data", "model"))


@pytest.mark.parametrize(
    ("mesh", "batch_size", "names"),
    [
        (Mesh(data=16), 32, r"mesh\.data.*\b8\b.*\b16\b.*\b1\b"),
        (Mesh(model=16), 32, r"mesh\.data.*\b8\b.*\b1\b.*\b16\b"),
        (Mesh(data=8), 12, r"data\.batch_size.*\b8\b.*mesh\.data.*train\.grad_accum_steps.*\b12\b"),
    ],
)
def test_what_cannot_be_shared_out_is_said(data, mesh, batch_size, names):
    experiment = small(dataclasses.replace(data["text"], batch_size=batch_size), mesh)
    with pytest.raises(ConfigError, match=names):
        make_mesh(experiment, jax.devices())


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "model", "devices"),
    [
        (32, 1, 1, 8),
        (12, 1, 1, 6),
        (12, 2, 1, 6),
        (20, 2, 1, 5),
        (7, 1, 1, 7),
        (11, 1, 1, 1),
        (12, 1, 2, 4),
    ],
)
def test_the_most_devices_that_divide_the_batch_are_used(
    data, batch_size, accumulate, model, devices
):
    experiment = small(dataclasses.replace(data["text"], batch_size=batch_size), Mesh(model=model))
    train = dataclasses.replace(experiment.train, grad_accum_steps=accumulate)
    mesh = make_mesh(dataclasses.replace(experiment, train=train), jax.devices())
    assert dict(mesh.shape) == {"data": devices, "model": model}


def test_the_config_of_a_mesh(data):
    with pytest.raises(ConfigError, match=r"mesh\.model\b.*model\.hidden_size.*\b16\b.*\b3\b"):
        small(data["text"], Mesh(model=3))
    with pytest.raises(ConfigError, match=r"mesh\.num_processes\b.*mesh\.coordinator_address\b"):
        Mesh(coordinator_address="localhost:1234")
    with pytest.raises(ConfigError, match=r"mesh\.process_id\b.*mesh\.num_processes\b.*\b2\b"):
        Mesh(coordinator_address="localhost:1234", num_processes=2, process_id=2)
    mesh = make_mesh(
        small(data["text"], Mesh(data=2, model=2, axis_types="explicit")), jax.devices()
    )
    assert dict(mesh.shape) == {"data": 2, "model": 2}
    assert set(mesh.axis_types) == {AxisType.Explicit}


@pytest.mark.parametrize("kind", ["text", "arrays"])
def test_a_process_makes_the_rows_that_its_devices_hold(data, kind):
    dataset = make_dataset(dataclasses.replace(small(data[kind]), seed=3))
    whole, rows = dataset.batch(5, np.arange(32)), np.array([1, 2, 7])
    some = dataset.batch(5, rows)
    for name, value in whole._asdict().items():
        if value is not None:
            at = (slice(None),) * (0 if name == "lengths" else 1)
            np.testing.assert_array_equal(getattr(some, name), value[(*at, rows)])


def test_rows_of_one_process_are_all(data):
    experiment = small(data["text"], Mesh())
    layout = make_layout(experiment, make_mesh(experiment, jax.devices()))
    rows = layout.local_rows(32)
    assert rows.tolist() == list(range(32))
    numbers = np.arange(64.0).reshape(2, 1, 32)
    batch = layout.shard_batches(Batch(numbers, numbers, numbers), rows, 32)
    np.testing.assert_array_equal(batch.inputs, numbers)
    assert batch.inputs.sharding.spec == P(None, None, "data")


def test_a_run_goes_on_with_other_devices(tmp_path, data):
    """Saved on eight that share everything out, resumed on two by two, and on one."""

    def go_on(name, mesh, steps):
        train_ = Train(
            steps=steps, log_every=2, eval_every=4, checkpoint_every=4, steps_per_dispatch=2
        )
        experiment = dataclasses.replace(
            small(data["arrays"], mesh),
            workdir=tmp_path / name,
            train=train_,
            optimizer=Optimizer(warmup_steps=0, schedule="constant"),
        )
        fit(experiment)
        return [
            {k: v for k, v in line.items() if k not in MACHINE}
            for line in RunDir(experiment.run_dir).metrics()
        ]

    want = go_on("whole", Mesh(data=1), 12)
    go_on("moved", Mesh(parameters="sharded"), 4)
    go_on("moved", Mesh(data=2, model=2, axis_types="explicit"), 8)
    got = go_on("moved", Mesh(data=1), 12)
    assert [line["step"] for line in got] == [line["step"] for line in want]
    for ours, theirs in zip(got, want, strict=True):
        check(ours, theirs)
