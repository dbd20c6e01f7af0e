"""The core on eight (virtual) devices: Auto and Explicit axes, and shard_map with its vma check."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTMParams, LSTMState, lstm
from lstm_jax.training.aot.hlo import collectives
from tests.cases import assert_close, make_case
from tests.hlo import collectives_in_loops

KINDS = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
BOTH = pytest.mark.parametrize("reverse", [False, True])
MASKED = pytest.mark.parametrize("masked", [False, True])


def problem(masked, reverse):
    case = make_case(
        T=4, batch=(8,), state=masked, lengths=masked, resets=masked, reset_state=masked
    )
    args = {"params": case.params[0], "xs": jnp.asarray(case.xs)}
    if masked:
        args |= {
            "state": case.states[0],
            "reset_state": case.reset_states[0],
            "lengths": jnp.asarray(case.lengths),
            "resets": jnp.asarray(case.resets),
        }
    return args, partial(lstm, reverse=reverse)


def specs(args):
    """Shards batch axes over "data", and replicates all other axes."""
    batch = {
        "xs": P(None, "data", None),
        "state": LSTMState(P("data", None), P("data", None)),
        "reset_state": LSTMState(P("data", None), P("data", None)),
        "lengths": P("data"),
        "resets": P(None, "data"),
        "params": jax.tree.map(lambda _: P(), args["params"]),
    }
    return {name: batch[name] for name in args}


def loss(run, args):
    state, hs = run(**args)
    return (hs**2).sum() + (state.C**2).sum() + (state.h**2).sum()


def floats(args):
    return {k: v for k, v in args.items() if k not in ("lengths", "resets")}


@KINDS
@BOTH
@MASKED
def test_a_batch_over_eight_devices(axis_type, reverse, masked):
    args, run = problem(masked, reverse)
    integers = {k: args[k] for k in ("lengths", "resets") if k in args}
    expected = run(**args)
    want_gradient = jax.grad(lambda f: loss(run, f | integers))(floats(args))

    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        sharded = jax.tree.map(
            lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec)), args, specs(args)
        )
        state, hs = jax.jit(lambda a: run(**a))(sharded)
        assert hs.sharding.spec[1] == "data"
        assert state.C.sharding.spec[0] == "data"
        bare = run(**sharded)
        ints = {k: sharded[k] for k in integers}
        gradient = jax.jit(jax.grad(lambda f, i: loss(run, f | i)))(floats(sharded), ints)
    assert_close((state, hs), expected, atol=1e-6)
    assert_close(bare, expected, atol=1e-6)
    assert_close(gradient, want_gradient, atol=2e-5)


@MASKED
def test_explicit_axes_without_a_current_mesh(masked):
    """The sharding of the arguments is sufficient."""
    args, run = problem(masked, reverse=False)
    integers = {k: args[k] for k in ("lengths", "resets") if k in args}
    gradient = jax.grad(lambda f, i: loss(run, f | i))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    sharded = jax.tree.map(
        lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec)), args, specs(args)
    )
    ints = {k: sharded[k] for k in integers}
    assert_close(jax.jit(lambda a: run(**a))(sharded), run(**args), atol=1e-6)
    got = jax.jit(gradient)(floats(sharded), ints)
    assert_close(got, gradient(floats(args), integers), atol=2e-5)


def test_a_learned_initial_state_with_a_sharded_batch():
    case = make_case(T=4, batch=(8,), lengths=False)
    learned = LSTMState(jnp.ones(3), -jnp.ones(3))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    expected = lstm(case.params[0], case.xs, reset_state=learned, resets=case.resets)
    with jax.set_mesh(mesh):
        xs = jax.device_put(case.xs, NamedSharding(mesh, P(None, "data", None)))
        resets = jax.device_put(case.resets, NamedSharding(mesh, P(None, "data")))
        got = lstm(case.params[0], xs, reset_state=learned, resets=resets)
    assert_close(got, expected, atol=1e-6)


@BOTH
@MASKED
def test_shard_map_with_its_vma_check(reverse, masked):
    args, run = problem(masked, reverse)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    over_devices = jax.shard_map(
        lambda a: run(**a),
        mesh=mesh,
        in_specs=(specs(args),),
        out_specs=(LSTMState(P("data"), P("data")), P(None, "data")),
        check_vma=True,
    )
    assert_close(jax.jit(over_devices)(args), run(**args), atol=1e-6)

    integers = {k: args[k] for k in ("lengths", "resets") if k in args}
    got, expected = (
        jax.jit(jax.grad(lambda f, g=g: loss(lambda **a: g(a), f | integers)))(floats(args))
        for g in (over_devices, lambda a: run(**a))
    )
    assert_close(got, expected, atol=2e-5)


@BOTH
@pytest.mark.parametrize("varying", ["params", "lengths", "resets", "state", "reset_state", "xs"])
def test_any_operand_may_be_the_only_one_that_varies_in_shard_map(varying, reverse):
    """An example is an ensemble with one member per device and the same inputs."""
    args, run = problem(True, reverse)
    mesh = jax.make_mesh((8,), ("member",), axis_types=(AxisType.Auto,))
    args = {
        n: jax.tree.map(lambda a: jnp.stack([a] * 8), a) if n == varying else a
        for n, a in args.items()
    }
    in_specs = {n: P("member") if n == varying else P() for n in args}

    def member(args):
        mine = jax.tree.map(lambda a: a[0], args[varying])
        return jax.tree.map(lambda a: a[None], run(**args | {varying: mine}))

    got = jax.jit(jax.shard_map(member, mesh=mesh, in_specs=(in_specs,), out_specs=P("member")))(
        args
    )
    expected = run(**args | {varying: jax.tree.map(lambda a: a[0], args[varying])})
    assert_close(jax.tree.map(lambda a: a[5], got), expected, atol=1e-6)


def test_no_collective_under_data_parallelism():
    """The forward pass of a sharded batch needs no communication."""
    args, run = problem(masked=True, reverse=False)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.tree.map(
        lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec)), args, specs(args)
    )
    text = jax.jit(lambda a: run(**a)).lower(sharded).compile().as_text()
    assert "num_partitions=8" in text
    assert not [op for op in ("all-reduce", "all-gather", "permute", "all-to-all") if op in text]


@KINDS
@MASKED
def test_the_gradient_communicates_sums_and_not_sequences(axis_type, masked):
    """With a bias that is not sharded like the sequence, XLA would gather ``[T, B, 4H]``."""
    case = make_case(T=64, batch=(16,), state=True, lengths=masked, resets=masked)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    one_state = jax.tree.map(lambda a: a[0], case.states[0])
    with jax.set_mesh(mesh):
        args = jax.device_put((case.params[0], one_state), NamedSharding(mesh, P()))
        xs = jax.device_put(jnp.asarray(case.xs), NamedSharding(mesh, P(None, "data")))
        masks = {}
        if masked:
            masks["lengths"] = jax.device_put(case.lengths, NamedSharding(mesh, P("data")))
            masks["resets"] = jax.device_put(case.resets, NamedSharding(mesh, P(None, "data")))

        def loss(args, xs):
            return (lstm(args[0], xs, args[1], **masks)[1] ** 2).sum()

        text = jax.jit(jax.grad(loss, (0, 1))).lower(args, xs).compile().as_text()
    found = collectives(text)
    assert found
    assert all(c.bytes < 64 * 16 * 4 for c in found), "a float for each step and sequence"
    assert collectives_in_loops(text) == []


@pytest.mark.parametrize("spec", [P("data", None), P(None, "data")])
def test_weights_sharded_over_the_batch_axis_are_gathered_before_the_loop(spec):
    """With FSDP, communication in every step would take T times as long."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    case = make_case(T=4, batch=(16,), I=16, H=16, lengths=False, resets=False)
    params = case.params[0]
    placed = jax.tree.map(
        lambda a, s: jax.device_put(a, NamedSharding(mesh, s)),
        (params, jnp.asarray(case.xs)),
        (LSTMParams(spec, spec, P()), P(None, "data")),
    )

    def loss(params, xs):
        return (lstm(params, xs)[1] ** 2).sum()

    for function in (lstm, jax.grad(loss, argnums=(0, 1))):
        compiled = jax.jit(function).lower(*placed).compile()
        assert collectives(compiled.as_text())
        assert collectives_in_loops(compiled.as_text()) == []
        assert_close(compiled(*placed), function(params, jnp.asarray(case.xs)), atol=2e-5)
    with jax.disable_jit():
        assert_close(lstm(*placed), lstm(params, case.xs), atol=1e-6)


def test_a_sharded_ensemble_does_not_communicate():
    mesh = jax.make_mesh((8,), ("member",), axis_types=(AxisType.Auto,))
    case = make_case(T=4, lengths=False, resets=False)
    args = jax.tree.map(lambda a: jnp.stack([a] * 8), (case.params[0], jnp.asarray(case.xs)))
    args = jax.device_put(args, NamedSharding(mesh, P("member")))
    text = jax.jit(jax.vmap(lstm)).lower(*args).compile().as_text()
    assert "num_partitions=8" in text
    assert collectives(text) == []


def test_rows_are_independent():
    case = make_case(T=4, batch=(8,))
    _, hs = lstm(case.params[0], case.xs)
    other = case.xs.copy()
    other[:, 3] = np.random.default_rng(1).standard_normal(other[:, 3].shape)
    _, changed = lstm(case.params[0], other)
    same = np.arange(8) != 3
    assert_close(hs[:, same], changed[:, same], atol=0)
