"""The modules accept the arguments of Flax's cells and ``RNN``, or raise errors that say what to write.

Each test runs for NNX and for Linen.
"""

import collections
import warnings
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lstm_jax import LSTMParams, LSTMState, lstm
from lstm_jax import linen as ours_linen
from lstm_jax import nnx as ours_nnx
from tests.cases import assert_close

STRICT = False  # Flax promotes

I, H = 3, 5
XS = jax.random.normal(jax.random.key(1), (2, 7, I))


class Nnx:
    """Modules whose parameters are drawn from one seed."""

    features = "hidden_features"
    wrap = nnx.RNN

    @staticmethod
    def lstm(I=I, H=H, **keywords):
        return ours_nnx.LSTM(I, H, rngs=nnx.Rngs(0), **keywords)

    @staticmethod
    def cell(I=I, H=H, **keywords):
        return ours_nnx.LSTMCell(I, H, rngs=nnx.Rngs(0), **keywords)

    @staticmethod
    def call(module, *args, key=None, **keywords):
        return module(*args, **({} if key is None else {"rngs": key}), **keywords)

    @staticmethod
    def carry(module, key=None):
        return module.initialize_carry((2, I), key)

    @staticmethod
    def layer(module, _):
        return module.params[0]


class Linen:
    """Modules with the variables that one key initializes."""

    features = "features"
    wrap = nn.RNN

    @staticmethod
    def lstm(H=H, **keywords):
        return ours_linen.LSTM(H, **keywords)

    @staticmethod
    def cell(H=H, **keywords):
        return ours_linen.LSTMCell(H, **keywords)

    @staticmethod
    def variables(module, *args, **keywords):
        return module.init(jax.random.key(0), *args, **keywords)

    @staticmethod
    def call(module, *args, key=None, **keywords):
        rngs = None if key is None else {"dropout": key}
        variables = Linen.variables(module, *args, **keywords)
        return module.apply(variables, *args, rngs=rngs, **keywords)

    @staticmethod
    def carry(module, key=None):
        return module.initialize_carry(jax.random.key(0) if key is None else key, (2, I))

    @staticmethod
    def layer(module, *args):
        return LSTMParams(**Linen.variables(module, *args)["params"]["l0f"])


Carries = collections.namedtuple("Carries", "only")
both = pytest.mark.parametrize("api", [Nnx, Linen])


@both
def test_time_major_reverse_and_return_carry_in_the_constructor_and_in_the_call(api):
    xs = XS.swapaxes(0, 1)
    carry, hs = api.call(api.lstm(time_major=True, reverse=True, return_carry=True), xs)
    again = api.call(api.lstm(), xs, time_major=True, reverse=True, return_carry=True)
    assert_close(again, (carry, hs), atol=0)
    state, expected = lstm(api.layer(api.lstm(time_major=True), xs), xs, reverse=True)
    assert_close((carry, hs), ((state,), expected), atol=1e-6)
    off = api.call(
        api.lstm(time_major=True, reverse=True, return_carry=True),
        XS,
        time_major=False,
        reverse=False,
        return_carry=False,
    )
    assert_close(off, api.call(api.lstm(), XS), atol=0)


@both
def test_keep_order(api):
    """Outputs always keep the order of the inputs."""
    for keywords in ({}, {"keep_order": True}, {"reverse": True, "keep_order": True}):
        api.call(api.lstm(), XS, **keywords)
        api.call(api.lstm(**keywords), XS)
    api.call(api.lstm(keep_order=False), XS)
    with pytest.raises(ValueError, match=r"keep_order.*reverse.*jnp\.flip"):
        api.call(api.lstm(), XS, reverse=True, keep_order=False)


@both
def test_inside_bidirectional_of_flax(api):
    """``Bidirectional`` runs our layers instead of Flax's ``RNN``, and passes all of its keywords."""
    lengths = jnp.array([7, 4])
    if api is Nnx:
        made = nnx.Bidirectional(Nnx.lstm(), Nnx.lstm(), rngs=nnx.Rngs(0))
        hs = made(XS, seq_lengths=lengths)
    else:
        made = nn.Bidirectional(Linen.lstm(), Linen.lstm())
        hs, variables = made.init_with_output(jax.random.key(0), XS, seq_lengths=lengths)
    params = (
        [made.forward_rnn.params[0], made.backward_rnn.params[0]]
        if api is Nnx
        else [LSTMParams(**variables["params"][f"{n}_rnn"]["l0f"]) for n in ("forward", "backward")]
    )
    forward, backward = (
        lstm(p, XS.swapaxes(0, 1), lengths=lengths, reverse=r)[1]
        for p, r in zip(params, (False, True), strict=True)
    )
    assert_close(hs, jnp.concatenate([forward, backward], -1).swapaxes(0, 1), atol=1e-6)


@both
@pytest.mark.parametrize("make", ["cell", "lstm"])
def test_gate_fn_and_activation_fn(api, make):
    """Flax applies ``activation_fn`` to the candidate values and to the cell state."""
    x, functions = XS[:, 0], {"gate_fn": jax.nn.hard_sigmoid, "activation_fn": jax.nn.soft_sign}
    C, h = jax.random.normal(jax.random.key(2), (2, 2, H))
    if make == "cell":
        module = api.cell(**functions)
        (got_C, got_h), _ = api.call(module, LSTMState(C, h), x)
        variables = None if api is Nnx else Linen.variables(module, LSTMState(C, h), x)
        params = module.params if api is Nnx else LSTMParams(**variables["params"])
    else:
        module, carry = api.lstm(**functions), (LSTMState(C, h),)
        ((got_C, got_h),), _ = api.call(module, x[:, None], initial_carry=carry, return_carry=True)
        params = api.layer(module, x[:, None])
    i, f, g, o = jnp.split(x @ params.w_x + h @ params.w_h + params.bias, 4, axis=-1)
    i, f, o = map(jax.nn.hard_sigmoid, (i, f, o))
    want_C = f * C + i * jax.nn.soft_sign(g)
    assert_close((got_C, got_h), (want_C, o * jax.nn.soft_sign(want_C)), atol=1e-6)


@both
def test_sigmoid_and_tanh_are_the_plain_cell(api):
    for functions in (
        {"gate_fn": nn.sigmoid, "activation_fn": nn.tanh},
        {"gate_fn": jax.nn.sigmoid, "activation_fn": jnp.tanh},
    ):
        assert_close(api.call(api.lstm(**functions), XS), api.call(api.lstm(), XS), atol=0)
    from tests.cells import Clipped

    with pytest.raises(ValueError, match=r"gate_fn.*activation_fn.*Clipped"):
        api.call(api.lstm(spec=Clipped(), activation_fn=nn.relu), XS)


@both
@pytest.mark.parametrize("make", ["cell", "lstm"])
def test_initialize_carry_has_the_signature_of_flax(api, make):
    module = getattr(api, make)()
    key = jax.random.key(3)
    zeros = api.carry(module, key)
    assert {a.shape for a in jax.tree.leaves(zeros)} == {(2, H)}
    assert not any(a.any() for a in jax.tree.leaves(zeros))
    drawn = api.carry(getattr(api, make)(carry_init=nn.initializers.normal(1.0)), key)
    C, h = jax.tree.leaves(drawn)
    assert not jnp.allclose(C, h)
    assert jax.tree.structure(drawn) == jax.tree.structure(zeros)
    if api is Nnx:
        for rngs in (nnx.Rngs(0), nnx.Rngs(carry=0).carry, key, np.asarray(jax.random.PRNGKey(0))):
            assert module.initialize_carry((2, I), rngs, nn.initializers.ones)[0][0].all()
        with pytest.raises(ValueError, match=r"rngs.*carry_init.*nnx\.Rngs"):
            module.initialize_carry((2, I), carry_init=nn.initializers.ones)


@both
def test_layers_draw_different_carries(api):
    module = api.lstm(num_layers=2, carry_init=nn.initializers.normal(1.0))
    for key in (jax.random.key(3), np.asarray(jax.random.PRNGKey(3))):
        first, second = api.carry(module, key)
        assert not jnp.allclose(first.h, second.h)


@both
def test_keep_rngs_and_metadata(api):
    if api is Linen:
        pytest.skip("arguments of NNX")
    module = Nnx.lstm(
        keep_rngs=True,
        kernel_metadata={"a": 1},
        recurrent_kernel_metadata={"b": 2},
        bias_metadata={"c": 3},
    )
    assert not nnx.state(module, nnx.RngState)
    assert (module.l0f.w_x.a, module.l0f.w_h.b, module.l0f.bias.c) == (1, 2, 3)


@both
def test_integers_are_promoted(api):
    """Integers are cast to the dtype of the parameters, or to ``dtype``."""
    ids = jnp.arange(2 * 7 * I).reshape(2, 7, I) % 4
    for dtype in (None, jnp.bfloat16):
        got = api.call(api.lstm(dtype=dtype), ids)
        expected = api.call(
            api.lstm(dtype=dtype), ids.astype(jnp.float32 if dtype is None else dtype)
        )
        assert got.dtype == expected.dtype
        assert_close(got, expected, atol=0)
    assert api.call(api.lstm(), ids > 1).dtype == jnp.float32
    rnn = api.wrap(api.cell())
    assert_close(api.call(rnn, ids), api.call(rnn, ids.astype(jnp.float32)), atol=0)


@both
def test_a_plain_pair_is_a_carry_and_is_returned_as_a_pair(api):
    C, h = jax.random.normal(jax.random.key(2), (2, 2, H))
    expected, hs = api.call(api.lstm(), XS, initial_carry=(LSTMState(C, h),), return_carry=True)
    for given, state in (
        ((C, h), lambda carry: carry),
        (LSTMState(C, h), lambda carry: carry),
        (((C, h),), lambda carry: carry[0]),
        (Carries(LSTMState(C, h)), lambda carry: carry[0]),
        ([LSTMState(C, h)], lambda carry: carry[0]),
    ):
        carry, got = api.call(api.lstm(), XS, initial_carry=given, return_carry=True)
        assert jax.tree.structure(carry) == jax.tree.structure(given)
        assert_close((tuple(state(carry)), got), (tuple(expected[0]), hs), atol=0)
    rnn = api.wrap(api.cell(), return_carry=True)
    plain, got = api.call(rnn, XS, initial_carry=(C, h))
    named, again = api.call(rnn, XS, initial_carry=LSTMState(C, h))
    assert (type(plain), type(named)) == (tuple, LSTMState)
    assert_close((plain, got), (tuple(named), again), atol=0)


@both
def test_a_cell_whose_carry_is_rebuilt_as_a_pair(api):
    """The carry is rebuilt as a pair in every step, as in Flax's test of recurrent dropout."""
    if api is Nnx:

        class Wrapped(nnx.Module):
            num_feature_axes = 1

            def __init__(self):
                self.cell = Nnx.cell()

            def __call__(self, carry, x):
                c, h = carry
                return self.cell((c, 0.5 * h), x)

            def initialize_carry(self, *args):
                return self.cell.initialize_carry(*args)

        assert nnx.RNN(Wrapped())(XS).shape == (2, 7, H)
    else:

        class Wrapped(nn.RNNCellBase):
            num_feature_axes = 1

            @nn.compact
            def __call__(self, carry, x):
                c, h = carry
                return ours_linen.LSTMCell(H, name="cell")((c, 0.5 * h), x)

            @nn.nowrap
            def initialize_carry(self, *args):
                return ours_linen.LSTMCell(H, parent=None).initialize_carry(*args)

        assert nn.RNN(Wrapped()).init_with_output(jax.random.key(0), XS)[0].shape == (2, 7, H)


@both
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("x_dtype", [jnp.bfloat16, jnp.float32])
def test_a_scan_over_chunks_keeps_the_dtype_of_the_carry(api, dtype, x_dtype):
    module, chunks = api.lstm(dtype=dtype), jnp.ones((3, 2, 7, I), x_dtype)
    carry = api.carry(module)
    if api is Nnx:
        run = module
    else:
        variables = Linen.variables(module, chunks[0])

        def run(*args, **keywords):
            return module.apply(variables, *args, **keywords)

    def body(carry, xs):
        return run(xs, initial_carry=carry, return_carry=True)

    final, hs = jax.lax.scan(body, carry, chunks)
    assert hs.dtype == (x_dtype if dtype is None else dtype)
    long = jnp.ones((2, 21, I), x_dtype)
    (expected,), _ = run(long, return_carry=True)
    assert_close(final[0].C, expected.C, atol=1e-6)


@both
@pytest.mark.usefixtures("unannotated")
def test_a_carry_of_another_size_or_form(api):
    def call(given, **keywords):
        return api.call(api.lstm(**keywords), XS, initial_carry=given)

    C = jnp.zeros((2, 256))
    with pytest.raises(ValueError, match=rf"initial_carry.*\b{H}\b.*{api.features}=256"):
        call((LSTMState(C, C),))
    with pytest.raises(ValueError, match=rf"carry.*\b{H}\b.*{api.features}=256"):
        api.call(api.cell(), LSTMState(C, C), XS[:, 0])
    stacked = jnp.zeros((2, 2, H))
    with pytest.raises(
        ValueError, match=r"tuple of 2 LSTMStates.*LSTMState\(C\[n\], h\[n\]\).*range\(2\)"
    ):
        call(LSTMState(stacked, stacked), num_layers=2)
    with pytest.raises(ValueError, match=r"write carry\[0\]"):
        api.call(api.cell(), (LSTMState(C[:, :H], C[:, :H]),), XS[:, 0])
    with pytest.raises(
        ValueError, match=r"initial_carry.*\(2,\).*\[\*B, T, I\].*\(7,\).*time_major=True"
    ):
        call((LSTMState(jnp.zeros((7, H)), jnp.zeros((7, H))),))
    with pytest.raises(ValueError, match=r"one step.*\(2, 7, 3\).*LSTM"):
        api.call(api.cell(), LSTMState(C[:, :H], C[:, :H]), XS)
    with pytest.raises(ValueError, match=r"write a pair as a tuple"):
        call([C[:, :H], C[:, :H]])
    with pytest.raises(ValueError, match=r"gate_fn.*sigmoid"):
        api.call(api.lstm(gate_fn="sigmoid"), XS)
    with pytest.raises(ValueError, match=r"initial_carry\[0\].*LSTMState.*list"):
        call(([C, C],))
    with pytest.raises(ValueError, match=r"initial_carry.*tuple of 2.*3 entries"):
        call((LSTMState(C, C),) * 3, num_layers=2)
    with pytest.raises(ValueError, match=r"resets.*dones\.astype\(bool\)"):
        api.call(api.lstm(), XS, resets=jnp.zeros((2, 7), int))


@both
def test_entries_of_initial_carry_may_be_none(api):
    module = api.lstm(num_layers=2)
    one = LSTMState(*jax.random.normal(jax.random.key(2), (2, 2, H)))
    zero = jax.tree.map(jnp.zeros_like, one)
    got, expected = (
        api.call(module, XS, initial_carry=given, return_carry=True)
        for given in ((one, None), (one, zero))
    )
    assert_close(got, expected, atol=0)


@both
def test_dropout_of_one_layer_warns_and_needs_no_key(api):
    module = api.lstm(dropout_rate=0.9)
    with pytest.warns(UserWarning, match=r"dropout_rate=0\.9.*between layers") as warned:
        wet = api.call(module, XS)
    assert {Path(w.filename).name for w in warned} == {Path(__file__).name}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dry = api.call(module, XS, deterministic=True)
    assert_close(wet, dry, atol=0)


@both
@pytest.mark.usefixtures("unannotated")
def test_numpy_sizes_are_accepted_and_invalid_sizes_refused(api):
    two, five = np.int64(2), np.int64(H)
    module = api.lstm(H=five, num_layers=two, dropout_rate=np.float32(0.5))
    assert api.call(module, XS, key=jax.random.key(0)).shape == (2, 7, H)
    for keywords, names in (
        ({"H": 0}, r"\b0\b"),
        ({"H": -1}, "-1"),
        ({"H": 5.0}, r"5\.0"),
        ({"num_layers": 0}, r"num_layers.*\b0\b"),
        ({"spec": None}, r"spec.*None.*LSTMSpec\(\)"),
        ({"dropout_rate": 1.0}, r"dropout_rate.*1\.0"),
    ):
        with pytest.raises(ValueError, match=names):
            api.call(api.lstm(**keywords), XS)


@both
@pytest.mark.usefixtures("unannotated")
def test_a_traced_dropout_rate(api):
    with pytest.raises(ValueError, match=r"dropout_rate.*static_argnames"):
        jax.jit(lambda rate: api.call(api.lstm(num_layers=2, dropout_rate=rate), XS))(0.5)
