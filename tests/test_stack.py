import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from lstm_jax import LSTMState, init_lstm, init_stack, lstm, lstm_stack
from tests import reference
from tests.cases import SHAPES, assert_close, cases, make_case, pairwise


def run(case, **keywords):
    return lstm_stack(
        case.params,
        case.xs,
        case.states,
        reset_states=case.reset_states,
        bidirectional=case.directions == 2,
        **case.masks | keywords,
    )


FLAGS = ("lengths", "resets", "reset_state", "reverse")


def check_against_the_python_loop(case):
    states, hs = run(case)
    want_states, expected = reference.stack(
        case.gates,
        case.xs,
        case.numpy_states,
        reset_states=case.numpy_reset_states,
        directions=case.directions,
        **case.masks,
    )
    assert_close(
        (*jax.tree.leaves(states), hs), (*jax.tree.leaves(want_states), expected), atol=1e-12
    )


@pytest.mark.parametrize("flags", pairwise(*FLAGS, "bidirectional"))
@pytest.mark.parametrize(("layers", "shape"), [(1, SHAPES[1]), (2, SHAPES[0]), (3, SHAPES[2])])
def test_equals_the_python_loop_in_float64(x64, flags, layers, shape):
    flags = dict(flags)
    directions = 2 if flags.pop("bidirectional") else 1
    for seed in range(3):  # the program is compiled once
        case = make_case(
            seed, layers=layers, directions=directions, dtype=jnp.float64, **shape, **flags
        )
        check_against_the_python_loop(case)


@pytest.mark.nightly
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=len(FLAGS))))
@given(drawn=cases(layers=(1, 2, 3), dtype=jnp.float64))
@settings(max_examples=5)
def test_any_shape_equals_the_python_loop_in_float64(x64, directions, flags, drawn):
    chosen = dict(zip(FLAGS, flags, strict=True)) | {"directions": directions}
    check_against_the_python_loop(make_case(**drawn | chosen))


def test_order_is_layer_major_forward_first():
    params = init_stack(jax.random.key(0), 2, 3, 2, bidirectional=True)
    xs = jax.random.normal(jax.random.key(1), (5, 4, 2))
    states, hs = lstm_stack(params, xs, bidirectional=True)
    l0f, h0f = lstm(params[0], xs)
    l0b, h0b = lstm(params[1], xs, reverse=True)
    below = jnp.concatenate([h0f, h0b], axis=-1)
    l1f, h1f = lstm(params[2], below)
    l1b, h1b = lstm(params[3], below, reverse=True)
    assert_close(states, (l0f, l0b, l1f, l1b), atol=1e-6)
    assert_close(hs, jnp.concatenate([h1f, h1b], axis=-1), atol=1e-6)


def test_dropout_is_between_layers_and_not_after_the_last():
    xs = jnp.ones((5, 4, 2))
    key = jax.random.key(7)
    one = init_stack(jax.random.key(0), 2, 64, 1)
    with pytest.warns(UserWarning, match=r"dropout=0\.9.*between layers") as warned:
        wet = lstm_stack(one, xs, dropout=0.9)  # no key
    assert [w.filename for w in warned] == [__file__]
    assert_close(wet, lstm_stack(one, xs), atol=0)

    two = init_stack(jax.random.key(0), 2, 64, 2)
    (bottom, _), hs = lstm_stack(two, xs, dropout=0.5, key=key)
    (bottom_dry, _), hs_dry = lstm_stack(two, xs)
    assert_close(bottom, bottom_dry, atol=0)
    assert (hs != 0).all()
    assert not jnp.allclose(hs, hs_dry)


def test_dropout_keeps_the_mean_and_drops_at_the_given_rate():
    from lstm_jax.stack import _dropout

    hs = _dropout(jax.random.key(0), jnp.ones((100, 10, 100)), 0.3)
    np.testing.assert_allclose((hs == 0).mean(), 0.3, atol=0.01)
    np.testing.assert_allclose(hs.mean(), 1.0, atol=0.01)
    assert len(jnp.unique(hs)) == 2


def test_every_layer_has_a_different_dropout_mask(monkeypatch):
    masks = []

    def remember(key, hs, rate):
        masks.append(jax.random.bernoulli(key, 0.5, (100,)))
        return hs

    monkeypatch.setattr("lstm_jax.stack._dropout", remember)
    params = init_stack(jax.random.key(0), 2, 3, 4)
    lstm_stack(params, jnp.ones((5, 4, 2)), dropout=0.5, key=jax.random.key(1))
    assert len(masks) == 3
    assert not (masks[0] == masks[1]).all()
    assert not (masks[1] == masks[2]).all()


def test_nan_in_the_padding_affects_no_output_and_no_gradient():
    """Tests two directions with dropout and layers."""
    case = make_case(T=6, batch=(8,), layers=2, directions=2)
    padding = np.arange(6)[:, None] >= case.lengths
    keywords = {"dropout": 0.3, "key": jax.random.key(0), "bidirectional": True} | case.masks

    def loss(params, xs):
        return (lstm_stack(params, xs, **keywords)[1] ** 2).sum()

    clean, dirty = (
        jax.value_and_grad(loss, argnums=(0, 1))(case.params, xs)
        for xs in (case.xs, np.where(padding[..., None], np.nan, case.xs))
    )
    assert_close(dirty, clean, atol=0)


def test_dropout_follows_its_key():
    params, xs = init_stack(jax.random.key(0), 2, 16, 3), jnp.ones((5, 4, 2))

    def hs(seed):
        return lstm_stack(params, xs, dropout=0.5, key=jax.random.key(seed))[1]

    assert_close(hs(0), hs(0), atol=0)
    assert not jnp.allclose(hs(0), hs(1))


def test_bfloat16_stays_bfloat16_through_layers():
    case = make_case(layers=2, directions=2)
    case.xs = jnp.asarray(case.xs, jnp.bfloat16)
    states, hs = run(case, dropout=0.5, key=jax.random.key(0))
    assert hs.dtype == jnp.bfloat16
    assert {s.C.dtype for s in states} == {jnp.dtype(jnp.float32)}
    assert {s.h.dtype for s in states} == {jnp.dtype(jnp.bfloat16)}


def test_keywords_reach_every_layer():
    case = make_case(layers=2)
    jaxpr = str(jax.make_jaxpr(lambda: run(case, precision="highest", unroll=2, backend="scan"))())
    assert jaxpr.count("precision=(Precision.HIGHEST") == 4
    assert jaxpr.count("unroll=2") == 2


STATE = LSTMState(jnp.zeros((4, 3)), jnp.zeros((4, 3)))


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"params": ()}, r"LSTMParams.*\b1\b.*\b0\b"),
        ({"params": None}, "LSTMParams.*NoneType"),
        ({"params": {"l0f": 1, "l1f": 2}}, r"LSTMParams.*\bdict\b.*stack_params"),
        ({"states": 3}, r"\bstates\b.*\b2\b.*LSTMState.*\bint\b"),
        ({"params": init_stack(jax.random.key(0), 2, 3, 1)[0]}, r"LSTMParams.*\b1\b.*LSTMParams"),
        (
            {"params": init_stack(jax.random.key(0), 2, 3, 3), "bidirectional": True},
            r"LSTMParams.*\b2\b.*\b3\b",
        ),
        ({"states": STATE}, r"\bstates\b.*\b2\b.*LSTMState.*LSTMState"),
        ({"states": (STATE,)}, r"\bstates\b.*\b2\b.*LSTMState.*\b1\b"),
        ({"reset_states": (STATE,) * 3}, r"reset_states.*\b2\b.*LSTMState.*\b3\b"),
        ({"dropout": 0.5}, r"dropout.*0\.5.*\bkey\b"),
        ({"dropout": 0.5, "key": 0}, r"dropout.*0\.5.*\bkey\b.*\bint\b"),
        (
            {"params": init_stack(jax.random.key(0), 2, 3, 1, bidirectional=True)},
            r"bidirectional=True.*\[2, 2\].*bidirectional=False",
        ),
        ({"bidirectional": True}, r"bidirectional=False.*\[2, 3\].*bidirectional=True"),
        ({"dropout": 1.0, "key": jax.random.key(0)}, r"dropout.*\[0, 1\).*1\.0"),
        ({"dropout": -0.1}, r"dropout.*\[0, 1\).*-0\.1"),
    ],
)
def test_errors_name_the_argument(change, names):
    keywords = {"params": init_stack(jax.random.key(0), 2, 3, 2), "xs": jnp.ones((5, 4, 2))}
    with pytest.raises(ValueError, match=names):
        lstm_stack(**keywords | change)


def test_layers_of_different_widths():
    """Each pair of layers has equal input sizes, but must not be mistaken for two directions."""
    sizes = [(4, 4), (4, 8), (8, 8), (8, 6)]
    params = [init_lstm(jax.random.key(0), *size) for size in sizes]
    _, hs = lstm_stack(params, jnp.ones((3, 2, 4)))
    assert hs.shape == (3, 2, 6)


def test_no_layers():
    with pytest.raises(ValueError, match=r"num_layers.*\b1\b.*\b0\b"):
        init_stack(jax.random.key(0), 2, 3, 0)
