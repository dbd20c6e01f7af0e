"""Multi-process training: one process per TPU host, or per node or GPU of a cluster."""

import os
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from lstm_jax.training.config import ConfigError, Mesh

SECONDS_TO_END = 30
"""Seconds after which JAX ends the other processes if one process has failed."""


def start(mesh: Mesh) -> None:
    """Connects to the other processes, if there are any. Call it before the first use of a device.

    Raises:
      ConfigError: If the processes cannot connect.
    """
    if jax.distributed.is_initialized():
        return
    if mesh.coordinator_address is None and not is_multi_process(os.environ):
        return
    address = None if mesh.coordinator_address in (None, "auto") else mesh.coordinator_address
    try:
        jax.distributed.initialize(
            address, mesh.num_processes, mesh.process_id, shutdown_timeout_seconds=SECONDS_TO_END
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"mesh.coordinator_address: cannot connect to the other processes: {error} If JAX cannot "
            "detect them, pass --mesh.coordinator-address HOST:PORT --mesh.num-processes N "
            "--mesh.process-id I to each process."
        ) from error


def is_multi_process(environment: Mapping[str, str]) -> bool:
    """Returns whether the environment is that of several processes which JAX can detect.

    >>> is_multi_process({"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"})
    True
    >>> is_multi_process({"SLURM_NTASKS": "2"})                             # an allocation without srun
    False
    """
    slurm = environment.get("SLURM_STEP_NODELIST") and environment.get("SLURM_PROCID")
    counts = (
        environment.get("SLURM_NTASKS", "1") if slurm else "1",
        environment.get("OMPI_COMM_WORLD_SIZE", "1"),
    )
    pod = "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    return pod or any(count.isdigit() and int(count) > 1 for count in counts)


def is_first() -> bool:
    """Returns whether this process writes the run directory and the console output."""
    return jax.process_index() == 0


def is_single_process() -> bool:
    """Returns whether there is only one process."""
    return jax.process_count() == 1


def any_of(flag: bool) -> bool:
    """Returns whether the flag is set in any process. All processes must call it."""
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def wait_for_all(name: str) -> None:
    """Waits until every process has called this function with the same name."""
    if not is_single_process():
        multihost_utils.sync_global_devices(name)
