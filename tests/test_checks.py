"""Common mistakes in the arguments of functions. They raise errors that say how to fix the call."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import (
    LSTMSpec,
    LSTMState,
    Partition,
    init_lstm,
    init_stack,
    lstm,
    lstm_cell,
    lstm_stack,
    zero_state,
)
from tests.cases import assert_close

pytestmark = pytest.mark.usefixtures("unannotated")
KEY = jax.random.key(0)
PARAMS, XS = init_lstm(KEY, 3, 5), jnp.ones((7, 2, 3))
STATE = LSTMState(jnp.zeros((2, 5)), jnp.zeros((2, 5)))
STACK = init_stack(KEY, 3, 5, 2)
STACKED = LSTMState(jnp.zeros((2, 2, 5)), jnp.zeros((2, 2, 5)))
Foreign = collections.namedtuple("Foreign", "hidden cell")
FOREIGN = Foreign(*STATE)


class NoArray:
    """An array of another library that cannot be converted, such as a tensor that records gradients."""

    shape = (3, 20)

    def __array__(self, *_, **__):
        raise RuntimeError("call detach() first")


def with_weight(**fields):
    return lambda: lstm(PARAMS.replace(**fields), XS)


CALLS = {
    "complex weights": (with_weight(w_x=PARAMS.w_x.astype(jnp.complex64)), "w_x.*complex64"),
    "weights of integers": (with_weight(w_h=jnp.ones((5, 20), int)), "w_h.*int32.*float32"),
    "weights of 8 bits": (
        with_weight(bias=PARAMS.bias.astype(jnp.float8_e4m3fn)),
        "bias.*float8",
    ),
    "a bias that is a list": (with_weight(bias=[0.0] * 20), r"bias.*list.*jnp\.asarray"),
    "a bias that is a number": (with_weight(bias=0.0), r"bias.*float.*jnp\.asarray"),
    "a foreign array": (with_weight(w_x=NoArray()), r"w_x.*NoArray.*detach\(\)"),
    "inputs of 8 bits": (
        lambda: lstm(PARAMS, XS.astype(jnp.float8_e5m2)),
        "xs.*16 bits.*float8",
    ),
    "8 bits to compute in": (lambda: lstm(PARAMS, XS, dtype=jnp.float8_e5m2), "dtype.*float8"),
    "complex inputs": (lambda: lstm(PARAMS, XS.astype(jnp.complex64)), "xs.*complex64"),
    "a class": (lambda: lstm(PARAMS, XS, spec=LSTMSpec), r"class LSTMSpec.*spec=LSTMSpec\(\)"),
    "no cell": (lambda: lstm(PARAMS, XS, spec=None), r"spec.*None.*spec=LSTMSpec\(\)"),
    "swapped": (lambda: lstm(XS, PARAMS), r"xs.*LSTMParams.*lstm\(params, xs, state\)"),
    "swapped in a step": (
        lambda: lstm_cell(PARAMS, XS[0], STATE),
        r"x\b.*LSTMState.*lstm_cell\(params, state, x\)",
    ),
    "another library's state": (
        lambda: lstm(PARAMS, XS, FOREIGN),
        r"lstm_jax\.LSTMState.*\.Foreign",
    ),
    "a pair": (lambda: lstm(PARAMS, XS, tuple(STATE)), r"LSTMState.*tuple.*LSTMState\(C="),
    "a state of another size": (
        lambda: lstm(PARAMS, XS, LSTMState(jnp.zeros((2, 9)), jnp.zeros((2, 9)))),
        r"state\.C.*\(2, 5\).*\(2, 9\).*hidden size 5.*\b9\b",
    ),
    "a state of layers": (
        lambda: lstm(PARAMS, XS, STACKED),
        r"state\.C.*\(2, 2, 5\).*batch.*layers.*LSTMState\(state\.C\[n\], state\.h\[n\]\).*range\(2\)",
    ),
    "states as one": (
        lambda: lstm_stack(STACK, XS, STACKED),
        r"states.*2 LSTMStates.*\[L, \*B, H\].*LSTMState\(C=state\.C\[n\], h=state\.h\[n\]\).*range\(2\)",
    ),
    "states as torch's pair": (
        lambda: lstm_stack(STACK, XS, (STACKED.h, STACKED.C)),
        r"states.*LSTMState\(C=C\[n\], h=h\[n\]\).*range\(2\).*\[L, \*B, H\]",
    ),
    "one state of one layer": (lambda: lstm_stack((PARAMS,), XS, STATE), r"write \(state,\)"),
    "pairs in place of states": (
        lambda: lstm_stack(STACK, XS, [tuple(STATE)] * 2),
        r"LSTMStates.*tuple.*LSTMState\(C=cell_state",
    ),
    "stacked arrays of four layers": (
        lambda: lstm_stack(init_stack(KEY, 3, 5, 4), XS, (STACKED.h, STACKED.C)),
        r"4 LSTMStates.*LSTMState\(C=C\[n\], h=h\[n\]\).*range\(4\)",
    ),
    "a state of lists": (
        lambda: lstm(PARAMS, XS, LSTMState([[0.0] * 5] * 2, STATE.h)),
        r"state\.C.*list.*jnp\.asarray",
    ),
    "a state of integers": (
        lambda: lstm(PARAMS, XS, LSTMState(STATE.C, jnp.zeros((2, 5), int))),
        r"state\.h.*int32.*astype\(jnp\.float32\)",
    ),
    "a module": (lambda: lstm_stack(object(), XS), r"module\.params"),
    "a shape": (lambda: zero_state(PARAMS, (2, 3)), r"xs\[0\].*ShapeDtypeStruct.*\(2, 3\)"),
    "a number of rows": (lambda: zero_state(PARAMS, 2), r"xs\[0\].*ShapeDtypeStruct.*\b2\b"),
    "no hidden units": (lambda: init_lstm(KEY, 3, 0), r"hidden_size.*\b0\b"),
    "a negative size": (lambda: init_lstm(KEY, 3, -1), "hidden_size.*-1"),
    "no inputs": (lambda: init_lstm(KEY, 0, 5), r"input_size.*\b0\b"),
    "a size that is no integer": (lambda: init_lstm(KEY, 3, 5.0), r"hidden_size.*5\.0"),
    "a size that is a flag": (lambda: init_lstm(KEY, 3, True), "hidden_size.*True"),
    "no layers": (lambda: init_stack(KEY, 3, 5, 0), r"num_layers.*\b0\b"),
    "parameters of 8 bits": (
        lambda: init_lstm(KEY, 3, 5, param_dtype=jnp.float8_e5m2),
        "param_dtype.*float8",
    ),
    "a flag that is an array": (
        lambda: lstm(PARAMS, XS, reverse=jnp.array(True)),
        "reverse.*static_argnames",
    ),
    "a flag that is traced": (
        lambda: jax.jit(lambda r: lstm_stack(STACK, XS, reverse=r))(True),
        "reverse.*static_argnames",
    ),
    "directions that are an array": (
        lambda: lstm_stack(STACK, XS, bidirectional=jnp.array(True)),
        "bidirectional.*static_argnames",
    ),
    "a flag that is a number": (
        lambda: lstm(PARAMS, XS, final_state_only=2),
        r"final_state_only.*\b2\b",
    ),
    "a rate that is traced": (
        lambda: jax.jit(lambda r: lstm_stack(STACK, XS, dropout=r, key=KEY))(0.5),
        "dropout.*static_argnames",
    ),
    "a rate that is no number": (lambda: lstm_stack(STACK, XS, dropout=None), "dropout.*None"),
    "resets of 0 and 1": (
        lambda: lstm(PARAMS, XS, resets=jnp.zeros((7, 2))),
        r"resets.*float32.*dones\.astype\(bool\)",
    ),
    "integers": (lambda: zero_state(PARAMS, jnp.ones((2, 3), int)), "x.*int32"),
}


@pytest.mark.parametrize("name", CALLS)
def test_errors_name_the_argument_and_the_fix(name):
    call, names = CALLS[name]
    with pytest.raises(ValueError, match=names):
        call()


def test_numpy_scalars_are_accepted():
    assert init_lstm(KEY, np.int64(3), np.int32(5)).w_x.shape == (3, 20)
    assert len(init_stack(KEY, 3, 5, np.int64(2))) == 2
    expected = lstm(PARAMS, XS, reverse=True)
    for flag in (np.bool_(True), 1):
        assert_close(lstm(PARAMS, XS, reverse=flag), expected, atol=0)
    dropped = lstm_stack(STACK, XS, dropout=np.float32(0.5), key=KEY)
    assert_close(dropped, lstm_stack(STACK, XS, dropout=0.5, key=KEY), atol=0)


def test_arrays_of_other_libraries():
    params = jax.tree.map(np.asarray, PARAMS)
    assert_close(lstm(params, np.asarray(XS)), lstm(PARAMS, XS), atol=0)
    assert_close(
        lstm_cell(params, jax.tree.map(np.asarray, STATE), np.asarray(XS[0])),
        lstm_cell(PARAMS, STATE, XS[0]),
        atol=0,
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_zero_state_starts_a_scan(dtype):
    zero = zero_state(PARAMS, XS[0].astype(dtype))
    assert (zero.C.dtype, zero.h.dtype) == (jnp.float32, dtype)
    assert_close(zero, jax.tree.map(jnp.zeros_like, zero), atol=0)
    shape = jax.ShapeDtypeStruct((4, 2, 3), jnp.float32)
    assert jax.tree.map(jnp.shape, zero_state(PARAMS, shape)) == LSTMState((4, 2, 5), (4, 2, 5))
    assert zero_state(PARAMS, shape, dtype=jnp.bfloat16).h.dtype == jnp.bfloat16
    assert zero.C.unsafe_buffer_pointer() != zero.h.unsafe_buffer_pointer()  # both can be donated


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_zero_state_is_sharded_as_the_batch_is(kind):
    types = (getattr(jax.sharding.AxisType, kind),)
    mesh = jax.make_mesh((8,), ("data",), axis_types=types)
    with jax.set_mesh(mesh):
        xs = jax.device_put(jnp.ones((7, 8, 3)), jax.NamedSharding(mesh, jax.P(None, "data")))

        def run(xs):
            return jax.lax.scan(lambda s, x: lstm_cell(PARAMS, s, x), zero_state(PARAMS, xs[0]), xs)

        assert_close(jax.jit(run)(xs), lstm(PARAMS, jnp.ones((7, 8, 3))), atol=1e-6)
        run = jax.shard_map(
            run, in_specs=jax.P(None, "data"), out_specs=(jax.P("data"), jax.P(None, "data"))
        )
        assert_close(jax.jit(run)(xs), lstm(PARAMS, jnp.ones((7, 8, 3))), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Partition(batch="data", hidden="data"), "batch.*hidden.*data"),
        (lambda: Partition(batch=("a", "b"), hidden=("b", "c")), r"batch.*hidden.*\['b'\]"),
        (lambda: Partition(batch="data", weights="fsdp"), r"weights.*batch=\('data', 'fsdp'\)"),
        (lambda: Partition(weights="data"), "weights.*batch='data'"),
        (lambda: Partition(batch=3), "batch.*3"),
        (lambda: Partition(hidden=("model", None)), "hidden.*None"),
    ],
)
def test_a_partition_with_contradicting_fields_is_refused(make, names):
    with pytest.raises(ValueError, match=names):
        make()


def test_entries_of_states_may_be_none():
    """None is zeros, or the reset state of that entry."""
    states = tuple(jax.tree.map(lambda a: a + 0.5, STATE) for _ in STACK)
    zeros = STATE
    for given, expected in (
        ((states[0], None), (states[0], zeros)),
        ([None, states[1]], (zeros, states[1])),
    ):
        assert_close(lstm_stack(STACK, XS, given), lstm_stack(STACK, XS, expected), atol=0)
    resets = jnp.zeros((7, 2), bool).at[3].set(True)
    got, expected = (
        lstm_stack(STACK, XS, resets=resets, reset_states=given)
        for given in ((None, states[1]), (zeros, states[1]))
    )
    assert_close(got, expected, atol=0)
