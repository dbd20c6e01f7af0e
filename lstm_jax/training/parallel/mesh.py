"""The device mesh of an experiment."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from lstm_jax.training.config import ConfigError, Experiment

DATA, MODEL = "data", "model"
"""Names of the mesh axes, for the sequences of a batch and for the hidden units of a layer."""


def make_mesh(config: Experiment, devices: Sequence[Any]) -> Mesh:
    """Returns the mesh of an experiment over the first of the given devices.

    If ``mesh.data`` is None, the mesh has the largest number of devices that divides the batch. With
    several processes, it has all devices.

    Args:
      config: The experiment.
      devices: The available devices, or the devices of a topology to compile for.

    Raises:
      ConfigError: If there are too few devices, or the batch cannot be split evenly.
    """
    settings, available = config.mesh, len(devices)
    several = len({device.process_index for device in devices}) > 1
    data = settings.data
    if data is None:
        most = max(available // settings.model, 1)
        data = most if several else _largest_divisor(config, most)
    used = data * settings.model
    if used > available or (several and used != available):
        raise ConfigError(
            f"mesh.data * mesh.model must be {'' if several else 'at most '}{available}, the number "
            f"of devices, got {data} * {settings.model}. Without mesh.data all devices are used."
        )
    parts = data * config.train.grad_accum_steps
    if config.data.batch_size % parts:
        raise ConfigError(
            f"data.batch_size must be a multiple of {parts} (mesh.data {data} * "
            f"train.grad_accum_steps {config.train.grad_accum_steps}), got {config.data.batch_size}. "
            "Alternatively, use fewer devices with mesh.data."
        )
    explicit = settings.axis_types == "explicit" and used > 1
    kinds = (AxisType.Explicit if explicit else AxisType.Auto,) * 2
    shape = (data, settings.model)
    if used == available:  # make_mesh orders devices by their connections
        return jax.make_mesh(shape, (DATA, MODEL), axis_types=kinds, devices=devices)
    some = np.array(devices[:used], dtype=object).reshape(shape)
    return Mesh(some, (DATA, MODEL), axis_types=kinds)


def one_device(config: Experiment | None = None) -> Mesh:
    """Returns a mesh of one device of this process.

    The device is the CPU if parameters are sharded, because they may not fit on one accelerator.
    """
    device = jax.local_devices()[0]
    if config is not None and (config.mesh.parameters == "sharded" or config.mesh.model > 1):
        with suppress(RuntimeError):  # JAX_PLATFORMS may exclude the CPU
            device = jax.local_devices(backend="cpu")[0]
    return Mesh(np.array([[device]]), (DATA, MODEL))


def _largest_divisor(config: Experiment, most: int) -> int:
    """Returns the largest number of devices, up to ``most``, that divides a part of a batch."""
    rows = config.data.batch_size // config.train.grad_accum_steps
    return next((n for n in range(most, 1, -1) if rows % n == 0), 1)
