import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lstm_jax import LSTMParams, LSTMState, initializers, lstm_stack
from lstm_jax.baselines import RNNSpec
from lstm_jax.nnx import LSTM, LSTMCell
from tests.cases import assert_close

STRICT = False  # Flax promotes

XS = jax.random.normal(jax.random.key(1), (2, 7, 3))
KEY = jax.random.key(2)


def model(**keywords):
    return LSTM(3, 5, **{"num_layers": 2, "bidirectional": True, "rngs": nnx.Rngs(0)} | keywords)


def test_equals_the_core():
    m = model()
    lengths = jnp.array([7, 4])
    resets = jnp.zeros((2, 7), bool).at[0, 3].set(True)
    carry, hs = m(XS, seq_lengths=lengths, resets=resets, return_carry=True)
    want_carry, expected = lstm_stack(
        m.params, XS.swapaxes(0, 1), bidirectional=True, lengths=lengths, resets=resets.T
    )
    assert_close(hs, expected.swapaxes(0, 1), atol=1e-6)
    assert_close(carry, want_carry, atol=1e-6)


def test_time_major():
    m, t = model(), model(time_major=True)
    resets = jnp.zeros((2, 7), bool).at[0, 3].set(True)
    got = t(XS.swapaxes(0, 1), resets=resets.T)
    assert_close(got.swapaxes(0, 1), m(XS, resets=resets), atol=1e-6)


@pytest.mark.parametrize("batch", [(), (2,), (2, 4)])
def test_any_number_of_batch_axes(batch):
    xs = jnp.ones((*batch, 7, 3))
    carry, hs = model()(
        xs, seq_lengths=jnp.full(batch, 4), resets=jnp.ones((*batch, 7), bool), return_carry=True
    )
    assert hs.shape == (*batch, 7, 10)
    assert carry[3].C.shape == (*batch, 5)


def test_chunks_with_a_carry_equal_the_whole_sequence():
    m = model(bidirectional=False)
    carry = m.initialize_carry((2, 3))
    hs = []
    for chunk in (XS[:, :3], XS[:, 3:]):
        carry, out = m(chunk, initial_carry=carry, return_carry=True)
        hs.append(out)
    assert_close(jnp.concatenate(hs, axis=1), m(XS), atol=1e-6)


def test_reverse():
    m, r = (
        model(bidirectional=False, num_layers=1),
        model(bidirectional=False, num_layers=1, reverse=True),
    )
    assert_close(r(XS), m(XS[:, ::-1])[:, ::-1], atol=1e-6)


def test_parameters_are_named_as_their_fields():
    state = nnx.to_pure_dict(nnx.state(model()))
    assert sorted(state) == ["l0b", "l0f", "l1b", "l1f"]
    assert state["l0f"].keys() == {"w_x", "w_h", "bias"}
    assert LSTMParams(**state["l1b"]).w_x.shape == (10, 20)


def test_no_rng_state_is_stored():
    assert not jax.tree.leaves(nnx.state(model(dropout_rate=0.5), nnx.RngState))


@pytest.mark.parametrize(
    ("jit", "grad"),
    [
        (jax.jit, jax.grad),
        (nnx.jit, nnx.grad),
        (lambda f: nnx.jit(f, graph=True), lambda f: nnx.grad(f, graph=True)),
        (lambda f: nnx.jit(f, graph=False), lambda f: nnx.grad(f, graph=False)),
    ],
    ids=["jax", "nnx", "graph", "tree"],
)
def test_jit_and_grad(jit, grad):
    m = model(dropout_rate=0.5)

    def loss(m, xs):
        return (m(xs, deterministic=True, seq_lengths=jnp.array([7, 4])) ** 2).sum()

    def leaves(gradient):
        return jax.tree.leaves(
            nnx.to_pure_dict(nnx.state(gradient) if isinstance(gradient, LSTM) else gradient)
        )

    assert_close(jit(loss)(m, XS), loss(m, XS), atol=1e-5)
    expected = leaves(jax.grad(loss)(m, XS))
    assert len(expected) == 12
    assert all(np.any(g) for g in expected)
    assert_close(leaves(grad(loss)(m, XS)), expected, atol=1e-5)
    assert_close(leaves(jit(grad(loss))(m, XS)), expected, atol=1e-5)


def test_an_nnx_optimizer_trains_it():
    m = model()
    optimizer = nnx.Optimizer(m, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(m, optimizer):
        loss, gradient = nnx.value_and_grad(lambda m: ((m(XS) - 0.1) ** 2).mean())(m)
        optimizer.update(m, gradient)
        return loss

    losses = [float(step(m, optimizer)) for _ in range(30)]
    assert losses[-1] < 0.1 * losses[0]


def test_dropout_needs_a_key_and_eval_turns_it_off():
    m = model(dropout_rate=0.5)
    with pytest.raises(ValueError, match=r"dropout_rate.*0\.5.*\brngs\b"):
        m(XS)
    wet = m(XS, rngs=KEY)
    assert_close(wet, m(XS, rngs=KEY), atol=0)
    assert not jnp.allclose(wet, m(XS, rngs=nnx.Rngs(dropout=3)))
    assert_close(m(XS, rngs=nnx.Rngs(dropout=3).dropout), m(XS, rngs=nnx.Rngs(dropout=3)), atol=0)
    dry = m(XS, deterministic=True)
    m.eval()
    assert_close(m(XS), dry, atol=0)
    m.train()
    assert not jnp.allclose(m(XS, rngs=KEY), dry)
    assert_close(model(dropout_rate=0.5, deterministic=True)(XS), dry, atol=0)


def test_options_reach_the_core():
    m = model(
        param_dtype=jnp.bfloat16,
        bias_init=initializers.chrono(20),
        kernel_init=initializers.zeros,
    )
    assert m(XS).dtype == jnp.float32  # the dtype of the inputs
    assert {p.dtype for p in jax.tree.leaves(m.params)} == {jnp.dtype(jnp.bfloat16)}
    assert not m.params[0].w_x.any()
    assert m.params[0].bias[5:10].any()
    assert model(dtype=jnp.bfloat16)(XS).dtype == jnp.bfloat16
    rnn = LSTM(3, 5, spec=RNNSpec(), rngs=nnx.Rngs(0))
    assert rnn.params[0].w_h.shape == (5, 5)
    assert rnn(XS).shape == (2, 7, 5)


def test_initialize_carry_gives_every_array_its_own_buffer():
    carry = model().initialize_carry((2, 3))
    step = jax.jit(lambda c: jax.tree.map(lambda a: a + 1, c), donate_argnums=0)
    assert_close(step(carry)[0].C, jnp.ones((2, 5)), atol=0)


@pytest.mark.parametrize("seq_lengths", [None, jnp.array([7, 4])])
def test_the_cell_in_rnn_and_bidirectional(seq_lengths):
    m = model(num_layers=1)
    forward, backward = (LSTMCell(3, 5, rngs=nnx.Rngs(0)) for _ in range(2))
    for cell, params in zip((forward, backward), m.params, strict=True):
        for name, value in vars(params).items():
            getattr(cell, name)[...] = value
    both = nnx.Bidirectional(nnx.RNN(forward), nnx.RNN(backward))
    real = jnp.arange(7) < (7 if seq_lengths is None else seq_lengths[:, None])
    got, expected = both(XS, seq_lengths=seq_lengths), m(XS, seq_lengths=seq_lengths)
    assert_close(jnp.where(real[..., None], got, 0), expected, atol=1e-6)


def test_the_layer_works_in_a_closure():
    """It works under transforms of JAX and of Flax, because it has no mutable state (flax #4713)."""
    m = model(dropout_rate=0.5)
    expected = m(XS, rngs=KEY)
    for jit, grad in [(jax.jit, jax.grad), (nnx.jit, nnx.grad)]:
        assert_close(jit(lambda xs: m(xs, rngs=KEY))(XS), expected, atol=1e-5)
        assert jit(grad(lambda xs: m(xs, rngs=KEY).sum()))(XS).any()


def test_the_cell_in_an_rnn_under_jit_and_grad():
    rnn = nnx.RNN(LSTMCell(3, 5, rngs=nnx.Rngs(0)))
    gradient = nnx.jit(nnx.grad(lambda rnn, xs: rnn(xs).sum()))(rnn, XS)
    assert len(jax.tree.leaves(gradient)) == 3
    bare = nnx.RNN(LSTMCell(3, 5, rngs=nnx.Rngs(0)), rngs=False)  # no RNG state to differentiate
    gradient = jax.jit(jax.grad(lambda rnn, xs: rnn(xs).sum()))(bare, XS)
    assert len(jax.tree.leaves(gradient)) == 3


def test_every_option_is_used():
    def text(**keywords):
        m = model(**keywords)
        return str(jax.make_jaxpr(lambda xs: m(xs))(XS))

    assert text(precision="highest").count("precision=(Precision.HIGHEST") == 8
    assert text(unroll=2, backend="scan").count("unroll=2") == 4
    with pytest.raises(ValueError, match=r"backend.*'fast'"):
        text(backend="fast")
    assert not model(recurrent_kernel_init=initializers.zeros).params[2].w_h.any()
    assert model(use_bias=False).params[0].bias is None
    assert "bias" not in nnx.to_pure_dict(nnx.state(model(use_bias=False)))["l0f"]
    cell = LSTMCell(3, 5, precision="highest", use_bias=False, rngs=nnx.Rngs(0))
    jaxpr = str(jax.make_jaxpr(cell)(cell.initialize_carry((2, 3)), XS[:, 0]))
    assert jaxpr.count("precision=(Precision.HIGHEST") == 2


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("xs_dtype", [jnp.float32, jnp.bfloat16])
def test_the_cell_in_an_rnn_keeps_its_dtype(dtype, xs_dtype):
    rnn = nnx.RNN(LSTMCell(3, 5, dtype=dtype, rngs=nnx.Rngs(0)), return_carry=True)
    (C, h), hs = rnn(XS.astype(xs_dtype))
    assert hs.dtype == h.dtype == (dtype or jnp.float32)
    assert C.dtype == jnp.float32


class Nested(nnx.Module):
    """A module with our layers and Flax's dropout."""

    def __init__(self):
        self.lstm = model(dropout_rate=0.5)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, xs, rngs):
        return self.lstm(self.dropout(xs, rngs=rngs), rngs=rngs)


OFF = {
    "view": lambda m: nnx.view(m, deterministic=True),
    "with_attributes": lambda m: nnx.with_attributes(m, deterministic=True),
    "set_attributes": lambda m: m.set_attributes(deterministic=True) or m,
    "eval": lambda m: m.eval() or m,
}


@pytest.mark.parametrize("way", OFF)
def test_all_apis_of_flax_disable_dropout(way):
    nested = Nested()
    off = OFF[way](nested)
    assert off.lstm.deterministic
    assert_close(off(XS, nnx.Rngs(1)), off(XS, nnx.Rngs(2)), atol=0)
    alone = OFF[way](model(dropout_rate=0.5))
    assert_close(alone(XS), alone(XS, deterministic=True), atol=0)


def test_a_view_does_not_change_the_module():
    m = model(dropout_rate=0.5)
    off = nnx.view(m, deterministic=True)
    assert not m.deterministic
    assert off.l0f.w_x is m.l0f.w_x
    assert not nnx.view(off, deterministic=False).deterministic
    with pytest.raises(ValueError, match="banana"):
        nnx.view(m, banana=True)
    assert "deterministic" in nnx.view_info(m)


@pytest.mark.parametrize("wrap", [nnx.with_partitioning, "with_metadata"])
def test_initializers_that_name_the_axes_of_the_weights(wrap):
    """Flax wraps the results of initializers. Gates are drawn one by one, and packed inside the wrapper."""

    def named(init, axes):
        if wrap == "with_metadata":
            return nnx.with_metadata(init, out_sharding=axes)
        return wrap(init, axes)

    mesh = jax.make_mesh((2, 4), ("data", "model"))
    with jax.set_mesh(mesh):
        m = LSTM(
            4,
            8,
            kernel_init=named(initializers.glorot, (None, "model")),
            recurrent_kernel_init=named(initializers.orthogonal, ("data", "model")),
            bias_init=named(initializers.forget_bias(1.0), ("model",)),
            rngs=nnx.Rngs(0),
        )
    spec = nnx.get_partition_spec(nnx.state(m))["l0f"]
    P = jax.P
    got = [spec[name].get_value() for name in ("w_x", "w_h", "bias")]
    assert got == [P(None, "model"), P("data", "model"), P("model")]
    assert m.l0f.w_h[...].sharding.spec == P("data", "model")
    plain = LSTM(4, 8, rngs=nnx.Rngs(0))
    assert_close(m.params, plain.params, atol=0)
    cell = LSTMCell(4, 8, kernel_init=nnx.with_metadata(initializers.glorot, a=1), rngs=nnx.Rngs(0))
    assert cell.w_x.a == 1


@pytest.mark.usefixtures("unannotated")
def test_errors():
    m = model()
    with pytest.raises(ValueError, match=r"\[\*B, T, I\].*\(3,\)"):
        m(jnp.ones(3))
    with pytest.raises(ValueError, match=r"resets.*\(2, 7\).*\(7, 2\)"):
        m(XS, resets=jnp.ones((7, 2), bool))
    with pytest.raises(ValueError, match=r"initial_carry.*tuple.*\b4\b.*LSTMState"):
        m(XS, initial_carry=LSTMState(jnp.ones(5), jnp.ones(5)))
    with pytest.raises(ValueError, match=r"num_layers.*\b1\b.*\b0\b"):
        model(num_layers=0)
    with pytest.raises(ValueError, match="carry_init"):
        m.l0f.initialize_carry((2, 3), carry_init=initializers.zeros)


@pytest.mark.parametrize("time_major", [False, True])
def test_lengths_for_the_other_layout_get_a_hint(time_major):
    m = model(time_major=time_major)
    xs = (
        XS if time_major else XS.swapaxes(0, 1)
    )  # [2, 7, 3] read as [T, B, I], [7, 2, 3] as [B, T, I]
    with pytest.raises(ValueError, match=rf"seq_lengths.*\(7,\).*\(2,\).*{not time_major}"):
        m(xs, seq_lengths=jnp.array([7, 4]))


@pytest.mark.parametrize("time_major", [False, True])
def test_a_mask_instead_of_lengths_gets_a_hint(time_major):
    axis = 0 if time_major else -1
    with pytest.raises(ValueError, match=rf"seq_lengths.*bool.*axis={axis}"):
        model(time_major=time_major)(XS, seq_lengths=jnp.ones((2, 7), bool))
