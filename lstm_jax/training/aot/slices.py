"""TPU slices that a program can be compiled for. This module does not import JAX."""

import math
import re
from dataclasses import dataclass
from typing import Any

from lstm_jax.training.config import ConfigError


@dataclass(frozen=True)
class Chip:
    """A TPU generation.

    Attributes:
      example: Example of a slice shape. All slices of a generation have the same number of dimensions.
      accelerator: Name of the accelerator type for the compiler.
      gib: Memory per device in GiB, according to the compiler's out-of-memory errors.
      setting: Chip configuration for the compiler. With "megacore", two cores are one device.
      device: Name of a JAX device in reports.
    """

    example: str
    accelerator: str
    gib: float
    setting: str = "default"
    device: str = "chip"


CHIPS = {
    "v4": Chip("2x2x4", "v4-8", 30.75, "megacore"),
    "v5e": Chip("4x4", "v5litepod-4", 15.75),
    "v5p": Chip("2x2x4", "v5p-8", 95.74, "megacore"),
    "v6e": Chip("4x4", "v6e-4", 31.25),
    "tpu7x": Chip("2x2x1", "tpu7x-8", 94.75, device="core, of which a chip has two"),
}
KNOWN = ", ".join(f"{name}:{chip.example}" for name, chip in CHIPS.items())


@dataclass(frozen=True)
class Slice:
    """A TPU slice, such as ``v5e:4x4``."""

    name: str

    def __post_init__(self) -> None:
        generation, _, layout = self.name.partition(":")
        if generation not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", layout):
            raise ConfigError(
                f"--compile-for must be a TPU slice such as {KNOWN}, got {self.name!r}."
            )
        expected = CHIPS[generation].example.count("x") + 1
        if len(self.shape) != expected:
            raise ConfigError(
                f"--compile-for must have {expected} dimensions for {generation}, as in "
                f"{generation}:{CHIPS[generation].example}, got {self.name!r}."
            )

    @property
    def chip(self) -> Chip:
        """The TPU generation."""
        return CHIPS[self.name.partition(":")[0]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of chips along each dimension."""
        return tuple(int(n) for n in self.name.partition(":")[2].split("x"))

    @property
    def chips(self) -> int:
        """Number of chips.

        >>> Slice("v5e:4x4").chips
        16
        """
        return math.prod(self.shape)

    def topology(self) -> dict[str, Any]:
        """Returns arguments for ``jax.experimental.topologies.get_topology_desc``."""
        host = [
            min(n, 2) for n in self.shape[:2]
        ]  # a host has four chips, fewer in a smaller slice
        return {
            "platform": "tpu",
            "topology_name": self.name,
            "chip_config_name": self.chip.setting,
            "chips_per_host_bounds": (*host, 1),
        }

    def environment(self) -> dict[str, str]:
        """Returns environment variables that must be set before jax is imported."""
        return {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": self.chip.accelerator,
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
