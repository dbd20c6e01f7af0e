"""The tuning options: keywords of functions and modules, and errors for values that have no effect."""

import dataclasses
import inspect
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lstm_jax import Options, Partition, init_lstm, init_stack, linen, lstm, lstm_stack
from lstm_jax.backends import lowering
from lstm_jax.nnx import LSTM
from lstm_jax.options import OptionKeywords
from tests.cases import assert_close

STRICT = False  # Flax promotes
PARAMS = init_lstm(jax.random.key(0), 3, 5)
XS = jax.random.normal(jax.random.key(1), (7, 2, 3))


def call(name, **options):
    """Runs a function or module with the options, on the same sequence."""
    if name == "lstm":
        return lstm(PARAMS, XS, **options)[1]
    if name == "lstm_stack":
        return lstm_stack((PARAMS,), XS, **options)[1]
    if name == "nnx":
        return LSTM(3, 5, time_major=True, rngs=nnx.Rngs(0), **options)(XS)
    return linen.LSTM(5, time_major=True, **options).init_with_output(jax.random.key(0), XS)[0]


everywhere = pytest.mark.parametrize("name", ["lstm", "lstm_stack", "nnx", "linen"])


def test_the_keywords_are_the_fields():
    names = [field.name for field in dataclasses.fields(Options)]
    assert list(OptionKeywords.__annotations__) == names
    assert {*names} <= {field.name for field in dataclasses.fields(linen.LSTM)}
    assert Options(**Options(unroll=3).keywords()) == Options(unroll=3)


@pytest.mark.parametrize("function", [lstm, lstm_stack, LSTM.__init__, linen.LSTM.__init__])
def test_the_signature_shows_the_options(function):
    parameters = inspect.signature(function).parameters
    for field in dataclasses.fields(Options):
        assert parameters[field.name].default == field.default


@everywhere
def test_options_affect_the_program(name):
    def program(**options):
        return str(jax.make_jaxpr(lambda: call(name, **options))())

    scan = program(backend="scan")
    assert "unroll=1" in scan
    assert "unroll=7" in program(backend="scan", unroll=7)
    assert program(backend="scan", remat_every=2).count("scan[") > scan.count("scan[")
    assert "remat" in program(backend="scan", residuals="recompute")
    assert "HIGHEST" in program(precision="highest")


@everywhere
@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("option", ["unroll", "remat_every"])
def test_numpy_integers_are_accepted(name, option):
    expected = call(name, **{option: 2})
    for two in (np.int64(2), np.int32(2), np.asarray(2)):
        assert_close(call(name, **{option: two}), expected, atol=0)


@everywhere
@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("option", "names"),
    [
        ({"unroll": 0}, r"unroll.*\b0\b"),
        ({"unroll": -1}, "unroll.*-1"),
        ({"unroll": True}, "unroll.*True"),
        ({"unroll": 2.0}, r"unroll.*2\.0"),
        ({"remat_every": 0}, r"remat_every.*\b0\b"),
        ({"remat_every": True}, "remat_every.*True"),
        ({"residuals": "none"}, "residuals.*save.*recompute.*none"),
        ({"backend": "fused"}, "backend.*auto.*scan.*xla.*cpu.*tpu.*cudnn.*fused"),
        ({"partition": "data"}, r"partition.*data.*Partition\(batch=\"data\"\)"),
        ({"partition": True}, "Partition.*True"),
    ],
)
def test_invalid_values_are_refused(name, option, names):
    with pytest.raises(ValueError, match=names):
        call(name, **option)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("function", [lstm, lstm_stack])
@pytest.mark.parametrize(
    ("keyword", "name"),
    [
        ("seq_lengths", "lengths"),
        ("initial_carry", "states"),
        ("rngs", "key"),
        ("time_major", "xs"),
        ("inputs", "xs"),
        ("dones", "resets"),
        ("return_sequences", "final_state_only"),
    ],
)
def test_keywords_of_other_libraries_get_a_hint(function, keyword, name):
    params = PARAMS if function is lstm else (PARAMS,)
    with pytest.raises(TypeError, match=rf"{function.__name__}.*{keyword}.*\b{name}\b"):
        function(params, XS, **{keyword: None})
    with pytest.raises(TypeError, match=rf"{function.__name__}.*banana"):
        function(params, XS, banana=None)


def test_a_module_names_the_unknown_keyword():
    for keyword, name in (
        ("banana", ""),
        ("batch_first", "batch first"),
        ("dropout", "dropout_rate"),
        ("lengths", "seq_lengths"),
        ("hidden_size", "hidden_features"),
    ):
        with pytest.raises(TypeError, match=rf"LSTM.*{keyword}.*{name}"):
            LSTM(3, 5, rngs=nnx.Rngs(0), **{keyword: 1})


def test_a_linen_layer_takes_its_options_by_name():
    """``linen.LSTM(3, 5)`` looks like the sizes of torch, but would be five layers of 3 units."""
    with pytest.raises(TypeError):
        linen.LSTM(3, 5)


@pytest.fixture
def fresh_log(caplog):
    lowering._log_ignored.cache_clear()
    caplog.set_level(logging.INFO, logger="lstm_jax")
    return caplog


def test_an_option_that_a_kernel_ignores(fresh_log):
    """A named backend raises. ``auto`` logs it once, and runs the kernel."""
    params, xs = init_lstm(jax.random.key(0), 3, 16), jnp.ones((32, 64, 3))
    with pytest.raises(ValueError, match=r"cpu.*unroll=2"):
        lstm(params, xs, backend="cpu", unroll=2)
    for _ in range(2):
        _, hs = lstm(params, xs, unroll=2)
        lstm(params, xs + 1, unroll=2)
    assert_close(hs, lstm(params, xs)[1], atol=1e-6)
    (record,) = [r for r in fresh_log.records if "unroll=2" in r.getMessage()]
    assert "cpu" in record.getMessage()
    lstm(params, xs, backend="cpu", unroll=1)  # 1 is the default


def test_a_sharded_batch_without_a_partition_is_logged_once(fresh_log):
    lowering._log_once.cache_clear()
    params, xs = init_lstm(jax.random.key(0), 3, 16), jnp.ones((32, 64, 3))
    mesh = jax.make_mesh((8,), ("data",))
    sharding = jax.NamedSharding(mesh, jax.P(None, "data"))
    run = jax.jit(lambda xs: lstm(params, xs)[1])
    for scale in (1, 2):
        jax.block_until_ready(run(jax.device_put(scale * xs, sharding)))
        jax.block_until_ready(
            jax.jit(lambda xs: lstm(params, xs)[1].sum())(jax.device_put(xs, sharding))
        )
    (record,) = [r for r in fresh_log.records if "8 devices" in r.getMessage()]
    assert "partition=Partition(batch=" in record.getMessage()
    fresh_log.clear()
    with jax.set_mesh(mesh):
        lstm(params, xs, partition=Partition(batch="data"))
    assert not [r for r in fresh_log.records if "8 devices" in r.getMessage()]


def test_stacks_check_the_options_before_they_run():
    with pytest.raises(TypeError, match=r"lstm_stack.*banana"):
        lstm_stack(init_stack(jax.random.key(0), 3, 5, 2), XS, banana=1)
