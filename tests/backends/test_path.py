"""Length of the call path from the user's call to the equations, as a traceback shows it."""

import os
import traceback
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import lstm_jax
from lstm_jax import LSTMSpec, Partition, init_lstm, lstm

FOLDER = str(Path(lstm_jax.__file__).parent) + os.sep
MOST = 12
stacks = []


@dataclass(frozen=True)
class Recorded(LSTMSpec):
    """The LSTM with a ``combine``, the innermost function of every backend, that records its callers."""

    def combine(self, params, C, i, f, g, o):
        stacks.append([f for f in traceback.extract_stack() if f.filename.startswith(FOLDER)])
        return super().combine(params, C, i, f, g, o)


OPTIONS = {
    "plain": {},
    "lengths": {"lengths": jnp.full(8, 3)},
    "resets": {"resets": jnp.zeros((5, 8), bool), "reverse": True},
    "final state": {"final_state_only": True},
}


@pytest.mark.parametrize("backend", ["auto", "scan", "xla", "cpu"])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_call_path_to_the_equations_has_at_most_12_functions(backend, options):
    params, xs = init_lstm(jax.random.key(0), 3, 4), jnp.ones((5, 8, 3))

    def loss(params):
        outputs = lstm(params, xs, spec=Recorded(), backend=backend, **OPTIONS[options])
        return sum(a.sum() for a in jax.tree.leaves(outputs))

    stacks.clear()
    loss(params)
    jax.grad(loss)(params)
    assert stacks
    longest = max(stacks, key=len)
    assert len(longest) <= MOST, [f"{Path(f.filename).name}: {f.name}" for f in longest]


def test_the_call_path_to_the_tpu_kernel():
    """The kernel is traced when the program is lowered. An eager call adds one function, ``lstm``."""
    params, xs = init_lstm(jax.random.key(0), 3, 128), jnp.ones((5, 8, 3))

    def loss(params):
        return lstm(params, xs, spec=Recorded(), resets=jnp.zeros((5, 8), bool))[1].sum()

    stacks.clear()
    jax.export.export(jax.jit(jax.value_and_grad(loss)), platforms=["tpu"])(params)
    in_kernel = [stack for stack in stacks if any(f.name == "kernel" for f in stack)]
    assert in_kernel
    assert max(map(len, in_kernel)) + 1 <= MOST


def test_a_partition_adds_two_functions_to_the_call_path():
    params, xs = init_lstm(jax.random.key(0), 3, 4), jnp.ones((5, 8, 3))
    stacks.clear()
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):
        lstm(params, xs, spec=Recorded(), partition=Partition(batch="data"))
    assert len(max(stacks, key=len)) <= MOST + 2
