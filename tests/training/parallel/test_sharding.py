"""Training on any mesh gives the same losses, without communication in time loops."""

import dataclasses
import functools

import jax
import pytest

from lstm_jax.training.aot.hlo import collectives
from lstm_jax.training.config import Mesh, Optimizer, Train
from lstm_jax.training.loop import fit
from tests.cases import nightly
from tests.hlo import collectives_in_loops
from tests.training.parallel.programs import (
    MESHES,
    assert_metrics_close,
    prepare,
    small_config,
    train_and_evaluate,
)
from tests.training.runs import logged_metrics

STRICT = False


@pytest.fixture(scope="module")
def on_one_device(data):
    """``metrics(kind, dropout)``: the metrics on one device, computed once."""

    @functools.cache
    def metrics(kind, dropout=0.2):
        return train_and_evaluate(small_config(data[kind], dropout=dropout))[0]

    return metrics


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
    experiment = small_config(data[kind], MESHES[name])
    got, state = train_and_evaluate(experiment)
    assert_metrics_close(got, on_one_device(kind))
    planned = prepare(experiment)[0].state
    for array, shape in zip(jax.tree.leaves(state), jax.tree.leaves(planned), strict=True):
        assert array.sharding.is_equivalent_to(shape.sharding, array.ndim)


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
def test_accumulated_gradients_equal_those_of_the_whole_batch(data, on_one_device, case):
    kind, n, name = case
    got, _ = train_and_evaluate(small_config(data[kind], MESHES[name], accumulate=n, dropout=0.0))
    assert_metrics_close(got, on_one_device(kind, dropout=0.0))


@pytest.mark.parametrize("name", ["8", "sharded 8 explicit", *nightly("8 explicit", "sharded 8")])
def test_a_training_step_has_no_communication_in_its_time_loops(data, name):
    long = dataclasses.replace(data["text"], sequence_length=64)
    experiment = small_config(long, MESHES[name])
    one = Train(steps=1, log_every=1, eval_every=1, checkpoint_every=1, steps_per_dispatch=1)
    program, _, batches = prepare(dataclasses.replace(experiment, train=one))
    with jax.set_mesh(program.layout.mesh):
        text = program.train_steps.lower(program.state, batches).compile().as_text()
    assert "num_partitions=8" in text
    found = collectives(text)
    assert found
    assert collectives_in_loops(text) == []
    assert max(c.bytes for c in found) < 64 * 32 * 16 * 4, "hidden states of a whole sequence"


def test_a_run_resumes_on_other_devices(tmp_path, data):
    """A run starts with FSDP on 8 devices, and continues on 2 × 2 devices, then on one."""

    def resume(name, mesh, steps):
        train = Train(
            steps=steps, log_every=2, eval_every=4, checkpoint_every=4, steps_per_dispatch=2
        )
        experiment = dataclasses.replace(
            small_config(data["arrays"], mesh),
            workdir=tmp_path / name,
            train=train,
            optimizer=Optimizer(warmup_steps=0, schedule="constant"),
        )
        fit(experiment)
        return logged_metrics(experiment)

    want = resume("uninterrupted", Mesh(data=1), 12)
    resume("moved", Mesh(parameters="sharded"), 4)
    resume("moved", Mesh(data=2, model=2, axis_types="explicit"), 8)
    got = resume("moved", Mesh(data=1), 12)
    assert [line["step"] for line in got] == [line["step"] for line in want]
    for got_line, want_line in zip(got, want, strict=True):
        assert_metrics_close(got_line, want_line)
