"""Arguments to test ``lstm`` with. Their values come from NumPy, so that creating them compiles nothing."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from lstm_jax import LSTMParams, LSTMState

MAY_REFUSE = {"cudnn", "tpu"}
"""The backends that cannot run all arguments on all machines."""
BATCHES = [(), (1,), (3,), (2, 3), (2, 1, 2)]
SHAPES = [
    {"T": 5, "batch": (3,), "I": 2, "H": 3},
    {"T": 1, "batch": (), "I": 1, "H": 1},
    {"T": 2, "batch": (2, 1, 2), "I": 1, "H": 3},
    {"T": 0, "batch": (2, 3), "I": 2, "H": 1},
]
"""A few shapes that differ in all sizes. The number is small, because each shape compiles again."""


def pairwise(*names: str) -> list[dict[str, bool]]:
    """Returns eight settings of at most seven flags, in which any two flags take all four combinations.

    The rows are the two-level orthogonal array of strength 2 with eight runs (Rao, 1947).

    >>> rows = pairwise("state", "lengths", "reverse")
    >>> len(rows), len({(row["state"], row["reverse"]) for row in rows})
    (8, 4)
    """
    bits = itertools.product([False, True], repeat=3)
    rows = ((a, b, c, a ^ b, a ^ c, b ^ c, a ^ b ^ c) for a, b, c in bits)
    return [dict(zip(names, row, strict=False)) for row in rows]


def nightly(*values: Any) -> list[Any]:
    """Returns parameters of a test that are marked ``nightly``."""
    return [pytest.param(value, marks=pytest.mark.nightly) for value in values]


@dataclass
class Case:
    """Arguments of ``lstm_stack``. Those of ``lstm`` are the first entries of the tuples."""

    params: tuple[LSTMParams, ...]
    xs: np.ndarray
    states: tuple[LSTMState, ...] | None
    lengths: np.ndarray | None
    resets: np.ndarray | None
    reset_states: tuple[LSTMState, ...] | None
    reverse: bool
    directions: int

    @property
    def masks(self) -> dict[str, Any]:
        return {"lengths": self.lengths, "resets": self.resets, "reverse": self.reverse}

    @property
    def gates(self) -> list[dict[str, np.ndarray]]:
        """The parameters as arguments of ``LSTMParams.from_gates``, in NumPy."""
        return [{k: np.asarray(v) for k, v in p.to_gates().items()} for p in self.params]

    @property
    def numpy_reset_states(self) -> list[tuple[np.ndarray, np.ndarray]]:
        shape = (*self.xs.shape[1:-1], self.params[0].w_h.shape[0])
        if self.reset_states is None:
            return [(np.zeros(shape), np.zeros(shape))] * len(self.params)
        return [(np.asarray(s.C), np.asarray(s.h)) for s in self.reset_states]

    @property
    def numpy_states(self) -> list[tuple[np.ndarray, np.ndarray]]:
        if self.states is None:
            return self.numpy_reset_states
        return [(np.asarray(s.C), np.asarray(s.h)) for s in self.states]


def make_case(
    seed=0,
    *,
    T=5,
    batch=(3,),
    I=2,
    H=3,
    layers=1,
    directions=1,
    state=True,
    lengths=True,
    resets=True,
    reset_state=True,
    reverse=False,
    dtype=jnp.float32,
) -> Case:
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0, mean=0.0):
        values = mean + scale * rng.standard_normal(shape)
        return jnp.asarray(values.astype(dtype))

    def layer_params(I):
        forget_bias = np.where(np.arange(4 * H) // H == 1, 1.0, 0.0)
        return LSTMParams(
            w_x=normal(I, 4 * H, scale=I**-0.5),
            w_h=normal(H, 4 * H, scale=H**-0.5),
            bias=normal(4 * H, scale=0.5, mean=forget_bias),
        )

    def layer_state():
        C, h = normal(*batch, H), normal(*batch, H)
        return LSTMState(C.astype(jnp.float32) if dtype == jnp.bfloat16 else C, h)

    def states():
        return tuple(layer_state() for _ in range(layers * directions))

    sizes = [I] + [directions * H] * (layers - 1)
    params = tuple(layer_params(size) for size in sizes for _ in range(directions))
    return Case(
        params=params,
        xs=np.asarray(normal(T, *batch, I)),
        states=states() if state else None,
        lengths=rng.integers(0, T + 3, batch)
        if lengths
        else None,  # includes 0 and lengths above T
        resets=rng.random((T, *batch)) < 0.3 if resets else None,
        reset_states=states() if reset_state else None,
        reverse=reverse,
        directions=directions,
    )


def cases(layers=(1,), directions=(1,), dtype=jnp.float32):
    """Returns a Hypothesis strategy over the arguments of ``make_case``."""
    choices = {
        "seed": st.integers(0, 10_000),
        "T": st.sampled_from([0, 1, 2, 5]),
        "batch": st.sampled_from(BATCHES),
        "I": st.sampled_from([1, 2]),
        "H": st.sampled_from([1, 3]),
        "layers": st.sampled_from(layers),
        "directions": st.sampled_from(directions),
        "state": st.booleans(),
        "lengths": st.booleans(),
        "resets": st.booleans(),
        "reset_state": st.booleans(),
        "reverse": st.booleans(),
        "dtype": st.just(dtype),
    }
    return st.fixed_dictionaries(choices)


def assert_close(actual, desired, atol):
    """Asserts that two trees of arrays have the same shapes, and equal values to ``atol``."""
    actual, desired = jax.tree.leaves(actual), jax.tree.leaves(desired)
    assert len(actual) == len(desired)
    for a, b in zip(actual, desired, strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=0, atol=atol
        )


@contextmanager
def skipping_refusals(name: str) -> Iterator[None]:
    """Skips a test if a backend of ``MAY_REFUSE`` raises that it cannot run. Other backends must run."""
    try:
        yield
    except ValueError as error:
        if name in MAY_REFUSE and repr(name) in str(error):
            pytest.skip(str(error))
        raise
