import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_jax import LSTMState, init_lstm, lstm, lstm_cell
from lstm_jax.baselines import RNNSpec
from tests import reference
from tests.cases import SHAPES, assert_close, cases, make_case, pairwise


def run(case, **keywords):
    return lstm(
        case.params[0],
        case.xs,
        None if case.states is None else case.states[0],
        reset_state=None if case.reset_states is None else case.reset_states[0],
        **case.masks | keywords,
    )


ONES = jnp.ones((5, 3, 2))
PARAMS = init_lstm(jax.random.key(0), 2, 3)


FLAGS = ("state", "lengths", "resets", "reset_state", "reverse")


def check_against_the_python_loop(case):
    state, hs = run(case)
    want_state, want_hs = reference.lstm(
        case.gates[0],
        case.xs,
        case.numpy_states[0],
        reset_state=case.numpy_reset_states[0],
        **case.masks,
    )
    assert_close((*state, hs), (*want_state, want_hs), atol=1e-12)


@pytest.mark.parametrize("flags", pairwise(*FLAGS))
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_python_loop_in_float64(x64, flags, shape):
    for seed in range(5):  # the program is compiled once
        check_against_the_python_loop(make_case(seed, dtype=jnp.float64, **shape, **flags))


@pytest.mark.nightly
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=len(FLAGS))))
@given(drawn=cases(dtype=jnp.float64))
@settings(max_examples=20)
def test_any_shape_equals_the_python_loop_in_float64(x64, flags, drawn):
    case = make_case(**drawn | dict(zip(FLAGS, flags, strict=True)))
    check_against_the_python_loop(case)


def test_equals_the_python_loop_over_lstm_cell():
    case = make_case(lengths=False, resets=False)
    state, hs = run(case)
    loop = case.states[0]
    for x, h_scan in zip(case.xs, hs, strict=True):
        loop, h = lstm_cell(case.params[0], loop, x)
        assert_close(h, h_scan, atol=1e-6)
    assert_close(loop, state, atol=1e-6)


def check_in_two_chunks(case, cut):
    T = len(case.xs)
    chunks = [slice(0, min(cut, T)), slice(min(cut, T), T)]
    reset_state = None if case.reset_states is None else case.reset_states[0]
    state = reset_state if case.states is None else case.states[0]
    hs = {}
    for n in (1, 0) if case.reverse else (0, 1):
        state, hs[n] = lstm(
            case.params[0],
            case.xs[chunks[n]],
            state,
            reset_state=reset_state,
            reverse=case.reverse,
            lengths=None if case.lengths is None else case.lengths - chunks[n].start,
            resets=None if case.resets is None else case.resets[chunks[n]],
        )
    whole_state, whole = run(case)
    assert_close((*state, jnp.concatenate([hs[0], hs[1]])), (*whole_state, whole), atol=1e-6)


@pytest.mark.parametrize("flags", pairwise(*FLAGS))
def test_chunked_equals_whole(flags):
    """Tests states, resets and lengths, in both directions."""
    for seed in range(5):
        check_in_two_chunks(make_case(seed, T=5, **flags), cut=2)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cut", [0, 5])
def test_a_chunk_may_be_empty(cut, reverse):
    check_in_two_chunks(make_case(T=5, reverse=reverse), cut)


@pytest.mark.nightly
@given(cases(), st.integers(0, 5))
@settings(max_examples=300)
def test_any_shape_chunked_equals_whole(drawn, cut):
    check_in_two_chunks(make_case(**drawn), cut)


@pytest.mark.parametrize("reverse", [False, True])
def test_masked_equals_truncated(reverse):
    case = make_case(T=6, batch=(8,), reverse=reverse)
    state, hs = run(case)
    assert {0, 6} <= {int(min(n, 6)) for n in case.lengths}  # lengths 0 and T occur
    for b, n in enumerate(np.minimum(case.lengths, 6)):
        row_state, row = lstm(
            case.params[0],
            case.xs[:n, b],
            jax.tree.map(lambda a, b=b: a[b], case.states[0]),
            resets=case.resets[:n, b],
            reset_state=jax.tree.map(lambda a, b=b: a[b], case.reset_states[0]),
            reverse=reverse,
        )
        assert_close(row, hs[:n, b], atol=1e-6)
        assert_close(row_state, jax.tree.map(lambda a, b=b: a[b], state), atol=1e-6)
        assert not hs[n:, b].any()


@pytest.mark.parametrize("backend", ["auto", "scan", "xla", "cpu"])
@pytest.mark.parametrize(("reverse", "residuals"), [(False, "save"), (True, "recompute")])
def test_nan_in_the_padding_affects_no_output_and_no_gradient(backend, reverse, residuals):
    """Each backend must mask the inputs that it reads."""
    case = make_case(T=6, batch=(8,), reverse=reverse)

    def loss(params, xs, state, reset_state):
        options = {"reset_state": reset_state, "backend": backend, "residuals": residuals}
        final, hs = lstm(params, xs, state, **options, **case.masks)
        return (hs**2).sum() + (final.C**2).sum() + (final.h**2).sum()

    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))
    rest = (case.states[0], case.reset_states[0])
    padding = np.arange(6)[:, None] >= case.lengths
    assert padding.any()
    clean = gradient(case.params[0], case.xs, *rest)
    dirty = gradient(case.params[0], np.where(padding[..., None], np.nan, case.xs), *rest)
    chex.assert_tree_all_finite(dirty)
    assert_close(dirty, clean, atol=0)
    assert not np.asarray(dirty[1][1])[padding].any()  # d loss / d xs


def test_a_reset_on_the_first_step_ignores_the_state():
    """With T = 1, even NaN in ``state`` has no effect."""
    case = make_case(T=1, lengths=False, resets=False)
    nan = jax.tree.map(lambda a: a * jnp.nan, case.states[0])
    resets = np.ones((1, 3), bool)
    got = lstm(case.params[0], case.xs, nan, resets=resets, reset_state=case.reset_states[0])
    expected = lstm(case.params[0], case.xs, case.reset_states[0])
    assert_close(got, expected, atol=1e-6)


def test_in_reverse_a_reset_on_the_first_step_resets_the_final_state():
    case = make_case(T=3, lengths=False, reverse=True)
    resets = np.zeros((3, 3), bool)
    resets[0, 1] = True
    state, _ = run(case, resets=resets)
    assert_close(state.C[1], case.reset_states[0].C[1], atol=0)
    assert not jnp.allclose(state.C[0], case.reset_states[0].C[0])


def test_resets_do_not_restore_the_initial_state():
    case = make_case(T=4, lengths=False, reset_state=False)
    resets = np.zeros((4, 3), bool)
    resets[2] = True
    _, hs = run(case, resets=resets)
    _, fresh = lstm(case.params[0], case.xs[2:])
    assert_close(hs[2:], fresh, atol=1e-6)


def test_without_a_state_the_sequence_starts_from_reset_state():
    case = make_case(lengths=False, resets=False)
    start = case.reset_states[0]
    got = lstm(case.params[0], case.xs, reset_state=start)
    assert_close(got, lstm(case.params[0], case.xs, start), atol=0)


def test_a_learned_initial_state_is_shared_by_the_batch_and_gets_gradients():
    case = make_case(T=4, batch=(2, 3), state=False, lengths=False)
    learned = LSTMState(C=jnp.array([0.1, -0.2, 0.3]), h=jnp.array([0.5, 0.1, -0.4]))
    everywhere = jax.tree.map(lambda a: jnp.broadcast_to(a, (2, 3, 3)), learned)

    def loss(start):
        return lstm(case.params[0], case.xs, reset_state=start, resets=case.resets)[1].sum()

    assert_close(loss(learned), loss(everywhere), atol=1e-5)
    shared, separate = jax.grad(loss)(learned), jax.grad(loss)(everywhere)
    assert_close(shared, jax.tree.map(lambda g: g.sum((0, 1)), separate), atol=1e-5)
    assert shared.C.any()


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_a_sequence_without_steps_returns_the_state(batch):
    case = make_case(T=0, batch=batch)
    state, hs = run(case)
    assert_close(state, case.states[0], atol=0)
    assert hs.shape == (0, *batch, 3)


def test_an_empty_batch():
    state, hs = lstm(init_lstm(jax.random.key(0), 2, 3), jnp.ones((5, 0, 2)))
    assert hs.shape == (5, 0, 3)
    assert state.C.shape == (0, 3)


@pytest.mark.parametrize("unroll", [2, 5, 7])
def test_unroll_does_not_change_the_result(unroll):
    case = make_case(T=7)
    assert_close(run(case, unroll=unroll), run(case), atol=1e-6)


@pytest.mark.parametrize(
    ("xs_dtype", "dtype", "expected"),
    [
        (jnp.float32, None, jnp.float32),
        (jnp.bfloat16, None, jnp.bfloat16),
        (jnp.float16, None, jnp.float16),
        (jnp.float32, jnp.bfloat16, jnp.bfloat16),
        (jnp.float32, "bfloat16", jnp.bfloat16),
        (jnp.bfloat16, jnp.float32, jnp.float32),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_dtypes(xs_dtype, dtype, expected, masked):
    """Outputs and h have the compute dtype and C has float32, for all dtypes of parameters and states."""
    case = make_case(batch=(3,), T=4, lengths=masked, resets=masked)
    case.xs = jnp.asarray(case.xs, xs_dtype)
    state, hs = run(case, dtype=dtype)
    assert (hs.dtype, state.h.dtype, state.C.dtype) == (expected, expected, jnp.float32)
    exact = run(case, dtype=jnp.float32)
    if expected != jnp.float32:
        assert_close((*state, hs), (*exact[0], exact[1]), atol=5e-2)


def test_float64_cell_state_under_float64(x64):
    state, hs = run(make_case(dtype=jnp.float64))
    assert (hs.dtype, state.h.dtype, state.C.dtype) == (jnp.float64,) * 3


def test_a_cell_state_in_float32_keeps_small_addends():
    """Adds tanh(1) / 2 in 1000 steps. A bfloat16 sum would stop growing near 128."""
    big = 30.0
    params = init_lstm(jax.random.key(0), 1, 1).replace(
        w_x=jnp.zeros((1, 4)), w_h=jnp.zeros((1, 4)), bias=jnp.array([0.0, big, 1.0, 0.0])
    )
    state, _ = lstm(params, jnp.ones((1000, 1), jnp.bfloat16))
    np.testing.assert_allclose(state.C, 1000 * np.tanh(1.0) / 2, rtol=1e-3)


@pytest.mark.parametrize("precision", ["highest", jax.lax.Precision.HIGH, None])
def test_precision_reaches_both_products(precision):
    case = make_case()
    program = jax.jit(lambda: run(case, precision=precision, backend="scan")).lower().as_text()
    name = "DEFAULT" if precision is None else jax.lax.Precision(precision).name
    assert program.count("dot_general") == 2
    assert program.count(f"precision = [{name}, {name}]") == 2


def test_the_default_precision_is_that_of_the_trace():
    case = make_case()
    with jax.default_matmul_precision("highest"):
        traced = jax.jit(lambda: run(case, backend="scan")).trace()
    assert traced.lower().as_text().count("precision = [HIGHEST, HIGHEST]") == 2


def test_the_input_projection_is_one_product_outside_the_loop():
    case = make_case(T=5, lengths=False, resets=False)
    jaxpr = jax.make_jaxpr(lambda: run(case, backend="scan"))().eqns[0].params["jaxpr"]
    # The product outside of the loop has a custom derivative.
    outside = [e for e in jaxpr.eqns if e.primitive.name in ("custom_jvp_call", "dot_general")]
    (scan,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    steps = scan.params["jaxpr"].eqns
    inside = [e for e in steps if e.primitive.name in ("lstm_product", "dot_general")]
    assert (len(outside), len(inside)) == (1, 1)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_lengths_of_every_integer_type(dtype):
    """The 300 steps exceed the range of 8-bit integers."""
    lengths = np.array([100, 50, 0], dtype)
    _, hs = lstm(PARAMS, jnp.ones((300, 3, 2)), lengths=lengths)
    np.testing.assert_array_equal((hs != 0).any(-1).sum(0), lengths)


@pytest.mark.usefixtures("unannotated")
def test_lengths_of_batch_first_inputs_get_a_hint():
    with pytest.raises(ValueError, match=r"lengths.*\(5,\).*swapaxes"):
        lstm(PARAMS, ONES, lengths=jnp.ones(5, int))


class Foreign:
    """An array of another library."""

    def __init__(self, array):
        self.array, self.shape = np.asarray(array), array.shape

    def __array__(self, dtype=None, copy=None):
        return self.array


@pytest.mark.usefixtures("unannotated")
def test_arrays_of_other_libraries_are_converted():
    params = jax.tree.map(Foreign, PARAMS)
    assert_close(lstm(params, ONES), lstm(PARAMS, ONES), atol=0)


def test_numpy_inputs():
    case = make_case(T=4, batch=(2,))
    keywords = {"lengths": np.array([4, 2]), "resets": np.zeros((4, 2), bool)}
    expected = lstm(case.params[0], jnp.asarray(case.xs), **jax.tree.map(jnp.asarray, keywords))
    assert_close(lstm(case.params[0], np.asarray(case.xs), **keywords), expected, atol=0)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"xs": jnp.ones(5)}, r"xs.*\[T, \*B, I\].*\(5,\)"),
        ({"xs": jnp.ones((5, 3, 2), int)}, "xs.*int32"),
        ({"xs": jnp.ones((5, 3, 4))}, r"w_x.*\(4, 12\).*\(2, 12\)"),
        ({"dtype": jnp.int8}, "dtype.*int8"),
        ({"params": vars(PARAMS)}, r"LSTMParams.*\bdict\b"),
        ({"params": PARAMS.replace(w_h=jnp.float32(1))}, r"w_h.*\[H, 4H\].*\(\)"),
        ({"params": PARAMS.replace(w_h=None)}, "w_h.*LSTMParams.*NoneType"),
        ({"spec": RNNSpec()}, r"w_h.*\[H, H\].*\(3, 12\).*\bspec\b"),
        ({"params": (PARAMS,)}, "LSTMParams.*tuple.*lstm_stack"),
        ({"params": PARAMS.replace(w_h=PARAMS.w_h.T)}, r"w_h.*\[H, 4H\].*\(12, 3\)"),
        ({"params": PARAMS.replace(bias=jnp.ones(24))}, r"bias.*\(12,\).*\(24,\)"),
        ({"state": (jnp.ones((3, 3)),) * 2}, r"\bstate\b.*LSTMState.*tuple"),
        (
            {"state": LSTMState(jnp.ones((3, 4)), jnp.ones((3, 3)))},
            r"\bstate\.C.*\(3, 3\).*\(3,\).*\(3, 4\)",
        ),
        (
            {"reset_state": LSTMState(jnp.ones((3, 3)), jnp.ones((1, 3)))},
            r"reset_state\.h.*\(3, 3\).*\(3,\).*\(1, 3\)",
        ),
        ({"lengths": jnp.ones(3)}, "lengths.*float32"),
        ({"lengths": jnp.ones(5, int)}, r"lengths.*\(3,\).*\(5,\)"),
        ({"resets": jnp.ones((5, 3))}, "resets.*bool.*float32"),
        ({"resets": jnp.ones((3, 5), bool)}, r"resets.*\(5, 3\).*\(3, 5\)"),
        ({"backend": "fast"}, "backend.*'auto'.*'scan'.*'fast'"),
        ({"residuals": "some"}, "residuals.*'save'.*'recompute'.*'some'"),
        ({"remat_every": 0}, r"remat_every.*at least 1.*\b0\b"),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_errors_name_the_argument(change, names, jit):
    keywords = {"params": PARAMS, "xs": ONES} | change
    with pytest.raises(ValueError, match=names):
        jax.eval_shape(lambda: lstm(**keywords)) if jit else lstm(**keywords)
