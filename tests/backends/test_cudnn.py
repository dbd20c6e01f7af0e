"""Tests of the cuDNN backend without a GPU, with JAX's reference implementation instead of cuDNN."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import rnn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTMParams, LSTMSpec, lstm
from lstm_jax.backends import cudnn
from lstm_jax.backends.problem import Operands, Settings
from lstm_jax.baselines import RNNSpec
from tests.cases import assert_close, make_case


def problem(case, params=None, **settings):
    params = case.params[0] if params is None else params
    operands = Operands(params, jnp.asarray(case.xs), case.states[0], case.reset_states[0])
    return Settings(LSTMSpec(), case.reverse, **settings), operands


def as_documented(x, h_0, c_0, weights, seq_lengths, *, precision, **sizes):
    """Replaces ``jax.experimental.rnn.lstm`` by JAX's function to unpack weights and JAX's reference."""
    assert precision in (jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST)
    unpacked = rnn.unpack_lstm_weights(
        weights, *(sizes[k] for k in ("input_size", "hidden_size", "num_layers", "bidirectional"))
    )
    return rnn.lstm_ref(x, h_0, c_0, *unpacked, seq_lengths, *sizes.values())


@pytest.mark.parametrize(
    ("batch", "reverse", "use_bias"), [((), True, True), ((3,), False, True), ((2, 3), True, False)]
)
def test_equals_scan_with_the_reference_of_jax_instead_of_cudnn(
    monkeypatch, batch, reverse, use_bias
):
    monkeypatch.setattr(rnn, "lstm", as_documented)
    case = make_case(2, T=6, batch=batch, I=4, H=3, lengths=False, resets=False, reverse=reverse)
    params = case.params[0] if use_bias else case.params[0].replace(bias=None)

    def with_cudnn(params, xs, state):
        settings, operands = problem(case, params)
        return cudnn.unroll(settings, operands._replace(xs=xs, state=state))

    def with_scan(params, xs, state):
        return lstm(params, xs, state, reverse=reverse, backend="scan")

    def loss(run, *arguments):
        (C, h), hs = run(*arguments)
        return (
            (C**2).sum()
            + jnp.sin(h).sum()
            + (hs * jnp.cos(jnp.arange(hs.size)).reshape(hs.shape)).sum()
        )

    arguments = params, jnp.asarray(case.xs), case.states[0]
    assert_close(with_cudnn(*arguments), with_scan(*arguments), atol=1e-6)
    got, expected = (
        jax.grad(loss, argnums=(1, 2, 3))(run, *arguments) for run in (with_cudnn, with_scan)
    )
    assert_close(got, expected, atol=1e-5)


def test_support_is_checked_when_a_program_is_lowered(monkeypatch):
    """The platform and the devices that a program is lowered for are checked."""
    monkeypatch.setattr(rnn, "lstm", as_documented)
    monkeypatch.setattr(cudnn, "available_platform", lambda: "cuda")
    case = make_case(T=2, batch=(8,), lengths=False, resets=False)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    xs = jax.device_put(jnp.asarray(case.xs), NamedSharding(mesh, P(None, "data")))

    def run(xs):
        return lstm(case.params[0], xs, backend="cudnn")[1]

    def in_shard_map(xs):
        spec = P(None, "data")
        return jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(xs)

    def lower(function, xs, platform):
        return jax.jit(function).trace(xs).lower(lowering_platforms=(platform,))

    lower(run, case.xs, "cuda")
    lower(in_shard_map, xs, "cuda")
    with pytest.raises(ValueError, match=r"cudnn.*8 devices.*shard_map"):
        lower(run, xs, "cuda")
    with pytest.raises(ValueError, match=r"cudnn.*GPU.*cpu"):
        lower(run, case.xs, "cpu")
    with pytest.raises(ValueError, match=r"cudnn.*vmap"):
        jax.vmap(run)(case.xs[None])


def test_arrays_of_cudnn_are_constrained_to_row_major(monkeypatch):
    """XLA would pass a transposed array in its layout, and cuDNN would read wrong values."""
    monkeypatch.setattr(rnn, "lstm", as_documented)
    settings, operands = problem(make_case(lengths=False, resets=False))

    def loss(xs):
        return (cudnn.unroll(settings, operands._replace(xs=xs))[1] ** 2).sum()

    xs = operands.xs
    forward, gradient = (str(jax.make_jaxpr(f)(xs)) for f in (loss, jax.grad(loss)))
    assert forward.count("layout_constraint[") == 4  # xs, h, C and the outputs
    assert gradient.count("layout_constraint[") == 6  # and the cotangents of outputs and xs


def test_the_flat_array_has_the_size_that_cudnn_expects():
    params = LSTMParams(jnp.ones((3, 20)), jnp.ones((5, 20)), jnp.ones(20))
    flat = cudnn.flat_weights(params)
    assert flat.shape == (rnn.get_num_params_in_lstm(3, 5, 1, False),)


@pytest.mark.parametrize(
    ("precision", "tf32"),
    [
        (None, True),
        ("default", True),
        ("tensorfloat32", True),
        ("highest", False),
        ("float32", False),
    ],
)
def test_tf32_follows_the_precision(precision, tf32):
    assert rnn._lstm_cudnn_allow_tf32(cudnn._precision(precision)) == tf32
    with jax.default_matmul_precision(precision):
        assert rnn._lstm_cudnn_allow_tf32(cudnn._precision(None)) == tf32


def test_reasons_for_unsupported_arguments(monkeypatch):
    settings, operands = problem(make_case())
    assert re.search(r"GPU.*\bcpu\b", cudnn.unsupported_reason(settings, operands))

    monkeypatch.setattr(cudnn, "available_platform", lambda: "cuda")
    assert cudnn.unsupported_reason(settings, operands) is None
    flags = jnp.zeros(operands.xs.shape[:-1], bool)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), operands)
    refused = {
        "resets": (settings, operands._replace(begin=flags)),
        "lengths": (settings, operands._replace(hold=flags)),
        r"\bfloat32.*bfloat16": (settings, half),
        r"xs.*\(0, 3, 2\)": (settings, operands._replace(xs=operands.xs[:0])),
        "residuals.*recompute": (Settings(LSTMSpec(), residuals="recompute"), operands),
        "LSTMSpec.*RNNSpec": (Settings(RNNSpec()), operands),
    }
    for names, refusal in refused.items():
        assert re.search(names, cudnn.unsupported_reason(*refusal))


def test_the_error_names_the_backend_and_the_reason():
    case = make_case(lengths=False, resets=False)
    if jax.default_backend() == "gpu":
        pytest.skip("a GPU is there")
    with pytest.raises(ValueError, match=rf"backend.*'cudnn'.*GPU.*\b{jax.default_backend()}\b"):
        lstm(case.params[0], case.xs, backend="cudnn")
