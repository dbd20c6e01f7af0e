"""The mesh of an experiment."""

import dataclasses

import jax
import pytest
from jax.sharding import AxisType

from lstm_jax.training.config import ConfigError, Mesh
from lstm_jax.training.parallel.mesh import make_mesh, one_device
from tests.training.parallel.programs import small_config

STRICT = False


@pytest.mark.parametrize(
    ("mesh", "batch_size", "names"),
    [
        (Mesh(data=16), 32, r"mesh\.data.*\b8\b.*\b16\b.*\b1\b"),
        (Mesh(model=16), 32, r"mesh\.data.*\b8\b.*\b1\b.*\b16\b"),
        (Mesh(data=8), 12, r"data\.batch_size.*\b8\b.*mesh\.data.*train\.grad_accum_steps.*\b12\b"),
    ],
)
def test_a_batch_or_mesh_that_does_not_fit_is_refused(data, mesh, batch_size, names):
    experiment = small_config(dataclasses.replace(data["text"], batch_size=batch_size), mesh)
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
def test_the_mesh_uses_the_most_devices_that_divide_the_batch(
    data, batch_size, accumulate, model, devices
):
    experiment = small_config(
        dataclasses.replace(data["text"], batch_size=batch_size), Mesh(model=model)
    )
    train = dataclasses.replace(experiment.train, grad_accum_steps=accumulate)
    mesh = make_mesh(dataclasses.replace(experiment, train=train), jax.devices())
    assert dict(mesh.shape) == {"data": devices, "model": model}


def test_the_config_of_a_mesh(data):
    with pytest.raises(ConfigError, match=r"mesh\.model\b.*model\.hidden_size.*\b16\b.*\b3\b"):
        small_config(data["text"], Mesh(model=3))
    with pytest.raises(ConfigError, match=r"mesh\.num_processes\b.*mesh\.coordinator_address\b"):
        Mesh(coordinator_address="localhost:1234")
    with pytest.raises(ConfigError, match=r"mesh\.process_id\b.*mesh\.num_processes\b.*\b2\b"):
        Mesh(coordinator_address="localhost:1234", num_processes=2, process_id=2)
    mesh = make_mesh(
        small_config(data["text"], Mesh(data=2, model=2, axis_types="explicit")), jax.devices()
    )
    assert dict(mesh.shape) == {"data": 2, "model": 2}
    assert set(mesh.axis_types) == {AxisType.Explicit}


@pytest.mark.parametrize("mesh", [Mesh(), Mesh(parameters="sharded"), Mesh(model=2)])
def test_one_device_is_a_mesh_of_the_first_device(data, mesh):
    for one in (one_device(), one_device(small_config(data["text"], mesh))):
        assert dict(one.shape) == {"data": 1, "model": 1}
        assert one.devices.item() == jax.local_devices()[0]
