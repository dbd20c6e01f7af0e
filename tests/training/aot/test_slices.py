"""TPU slices."""

import pytest

from lstm_jax.training.aot.slices import CHIPS, Slice
from lstm_jax.training.config import ConfigError

STRICT = False


@pytest.mark.parametrize("name", CHIPS)
def test_a_slice_of_each_generation(name):
    slice_ = Slice(f"{name}:{CHIPS[name].example}")
    assert slice_.chips == {"v4": 16, "v5e": 16, "v5p": 16, "v6e": 16, "tpu7x": 4}[name]
    assert slice_.topology()["chips_per_host_bounds"] == (2, 2, 1)
    assert Slice("v5e:1x1").topology()["chips_per_host_bounds"] == (1, 1, 1)


@pytest.mark.parametrize("name", ["v9:2x2", "v5e", "v5e:0x4", "v5e:2x2x2", "v4:2x2"])
def test_an_unknown_slice_is_refused(name):
    with pytest.raises(
        ConfigError, match=f"--compile-for.*v5e:4x4.*'{name}'|--compile-for.*v4:2x2x4"
    ):
        Slice(name)
