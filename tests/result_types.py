"""Checks of the types that mypy infers for results. mypy checks this file, and no test runs it."""

from typing import Any, assert_type

import jax

from lstm_jax import (
    LSTMParams,
    LSTMState,
    Options,
    linen,
    lstm,
    lstm_cell,
    lstm_stack,
    nnx,
    zero_state,
)
from lstm_jax.modules import Carry


def functions(params: LSTMParams, xs: jax.Array, states: tuple[LSTMState, ...], flag: bool) -> None:
    assert_type(lstm(params, xs), tuple[LSTMState, jax.Array])
    assert_type(lstm(params, xs, backend="scan", unroll=2), tuple[LSTMState, jax.Array])
    assert_type(lstm(params, xs, final_state_only=False), tuple[LSTMState, jax.Array])
    assert_type(lstm(params, xs, final_state_only=True, remat_every=3), LSTMState)
    assert_type(lstm_stack((params,), xs, states), tuple[tuple[LSTMState, ...], jax.Array])
    assert_type(lstm_stack((params,), xs, final_state_only=True), tuple[LSTMState, ...])
    assert_type(lstm_cell(params, states[0], xs), tuple[LSTMState, jax.Array])
    assert_type(zero_state(params, xs), LSTMState)
    lstm(params, xs, **Options(backend="xla").keywords())
    lstm(params, xs, reverse=flag)
    lstm(params, xs, residuals="all")  # type: ignore[call-overload]
    lstm(params, xs, banana=1)  # type: ignore[call-overload]


def modules(a: nnx.LSTM, b: linen.LSTM, xs: jax.Array, carry: Carry) -> None:
    assert_type(a(xs), jax.Array)
    assert_type(a(xs, seq_lengths=xs, return_carry=False), jax.Array)
    assert_type(a(xs, initial_carry=carry, return_carry=True), tuple[Carry, jax.Array])
    assert_type(b(xs), jax.Array)
    assert_type(b(xs, resets=xs, return_carry=True), tuple[Carry, jax.Array])
    assert_type(a.initialize_carry((2, 3)), Carry)
    a(xs, banana=1)  # type: ignore[call-overload]


def cells(a: nnx.LSTMCell, b: linen.LSTMCell, x: jax.Array) -> None:
    assert_type(a.initialize_carry((2, 3)), tuple[Any, jax.Array])
    assert_type(b.initialize_carry(None, (2, 3)), tuple[Any, jax.Array])
    assert_type(a(a.initialize_carry((2, 3)), x), tuple[Any, jax.Array])
