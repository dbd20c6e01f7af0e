"""Layers sharded over a mesh: equal results, and no unnecessary communication."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax import Partition, baselines, linen, lstm, lstm_stack
from lstm_jax.baselines import RNNSpec
from lstm_jax.training.aot.hlo import collectives
from tests.cases import assert_close, make_case, nightly
from tests.hlo import collectives_in_loops

MESHES = {
    "batch": ((8, 1), Partition("data")),
    "weights at rest": ((8, 1), Partition("data", weights="data")),
    "hidden": ((1, 8), Partition(hidden="model")),
    "both": ((4, 2), Partition("data", "model")),
    "all": ((4, 2), Partition("data", "model", "data")),
}


def mesh_of(shape, kind=AxisType.Auto):
    return jax.make_mesh(shape, ("data", "model"), axis_types=(kind, kind))


def problem(**keywords):
    """Returns arrays, and a function of these arrays and a partition."""
    case = make_case(T=4, batch=(8,), I=8, H=8, state=True, reset_state=True)
    floats = {
        "params": case.params[0],
        "xs": jnp.asarray(case.xs),
        "state": case.states[0],
        "reset_state": case.reset_states[0],
    }
    masks = {"lengths": jnp.asarray(case.lengths), "resets": jnp.asarray(case.resets)}
    return floats, partial(lstm, **masks, **keywords)


def loss(run, floats):
    state, hs = run(**floats)
    return (hs**2).sum() + (state.C**2).sum() + (state.h**2).sum()


CASES = [
    (AxisType.Explicit, "batch", {}),
    (AxisType.Auto, "weights at rest", {"reverse": True}),
    (AxisType.Explicit, "hidden", {"reverse": True}),
    (AxisType.Auto, "all", {"remat_every": 3, "residuals": "recompute", "reverse": True}),
    (AxisType.Auto, "all", {"backend": "scan"}),
]
MORE_CASES = [(AxisType.Auto, name, {}) for name in MESHES] + [
    (AxisType.Explicit, name, {"reverse": True}) for name in MESHES if name != "hidden"
]


@pytest.mark.parametrize("options", [*CASES, *nightly(*MORE_CASES)])
def test_a_sharded_layer_equals_the_unsharded_layer(options):
    kind, name, keywords = options
    floats, run = problem(**keywords)
    expected = run(**floats)
    want_gradient = jax.grad(partial(loss, run))(floats)
    shape, partition = MESHES[name]
    with jax.set_mesh(mesh_of(shape, kind)):
        split = partial(run, partition=partition)
        assert_close(split(**floats), expected, atol=1e-6)
        gradient = jax.jit(jax.grad(partial(loss, split)))(floats)
    assert_close(gradient, want_gradient, atol=2e-5)


def test_enough_rows_for_kernels():
    """CPU kernels run from 8 rows per device on, by the fixture of the tests."""
    case = make_case(T=4, batch=(16,), I=8, H=8, lengths=False, resets=False)
    xs = jnp.asarray(case.xs)

    def gradient(partition=None):
        def loss(params, xs):
            return (lstm(params, xs, partition=partition)[1] ** 2).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(case.params[0], xs)

    expected = gradient()
    with jax.set_mesh(mesh_of((2, 4))):
        assert_close(gradient(Partition("data")), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["batch", "weights at rest"])
def test_no_communication_in_a_time_loop(name):
    """Sharded weights are gathered before the forward loop, and again before the backward loop."""
    floats, run = problem(backend="xla")
    shape, partition = MESHES[name]
    mesh = mesh_of(shape)
    with jax.set_mesh(mesh):
        at_rest = NamedSharding(mesh, P("data") if partition.weights else P())
        placed = floats | {
            "params": floats["params"].replace(
                w_x=jax.device_put(floats["params"].w_x, at_rest),
                w_h=jax.device_put(floats["params"].w_h, at_rest),
            )
        }
        gradient = jax.jit(jax.grad(partial(loss, partial(run, partition=partition))))
        text = gradient.lower(placed).compile().as_text()
    assert collectives(text)
    assert collectives_in_loops(text) == []
    gathers = sum(c.kind == "all-gather" for c in collectives(text))
    assert (gathers > 0) == (partition.weights is not None)


def test_hidden_units_are_gathered_in_every_step():
    """This also shows that the tests of data parallelism would find communication in loops."""
    floats, run = problem()
    shape, partition = MESHES["hidden"]
    with jax.set_mesh(mesh_of(shape)):
        split = jax.jit(partial(run, partition=partition))
        assert collectives_in_loops(split.lower(**floats).compile().as_text())


def test_gathered_weights_are_not_residuals():
    floats, run = problem()

    def kept(partition):
        def function(params):
            return run(**floats | {"params": params}, partition=partition)[1].sum()

        _, pull = jax.vjp(function, floats["params"])
        return [leaf.shape for leaf in jax.tree.leaves(pull)]

    with jax.set_mesh(mesh_of((8, 1))):
        H = 8
        assert (8 * H, 4 * H) in kept(Partition("data"))  # a copy per device
        assert (8 * H, 4 * H) not in kept(Partition("data", weights="data"))


def test_layers_directions_and_dropout():
    """Dropout masks depend on the position in the global batch, and not on the sharding."""
    case = make_case(T=4, batch=(8,), I=8, H=8, layers=2, directions=2)
    xs, key = jnp.asarray(case.xs), jax.random.key(1)
    run = partial(lstm_stack, case.params, xs, bidirectional=True, dropout=0.5, key=key)
    expected = run()
    with jax.set_mesh(mesh_of((4, 2))):
        got = jax.jit(partial(run, partition=Partition("data", "model")))()
    assert_close(got, expected, atol=1e-6)


def test_the_tanh_rnn():
    params = baselines.init_rnn(jax.random.key(0), 8, 8)
    xs = jax.random.normal(jax.random.key(1), (4, 8, 8))
    expected = lstm(params, xs, spec=RNNSpec())
    with jax.set_mesh(mesh_of((4, 2))):
        got = lstm(params, xs, spec=RNNSpec(), partition=Partition("data", "model", "data"))
    assert_close(got, expected, atol=1e-6)


def test_no_batch_axis_and_several():
    params = make_case(I=8, H=8).params[0]
    with jax.set_mesh(mesh_of((4, 2))):
        for batch in ((), (8, 3)):
            xs = jax.random.normal(jax.random.key(1), (4, *batch, 8))
            got = lstm(params, xs, partition=Partition("data", "model", "data"))
            assert_close(got, lstm(params, xs), atol=1e-6)


def test_a_linen_module():
    xs = jnp.ones((8, 4, 8))
    whole = linen.LSTM(8, num_layers=2)
    variables = whole.init(jax.random.key(0), xs)
    with jax.set_mesh(mesh_of((8, 1))):
        split = linen.LSTM(8, num_layers=2, partition=Partition("data"))
        assert_close(split.apply(variables, xs), whole.apply(variables, xs), atol=1e-6)


def test_errors_for_a_batch_or_units_that_cannot_be_sharded():
    floats, run = problem()
    with jax.set_mesh(mesh_of((8, 1))):
        with pytest.raises(ValueError, match=r"Partition\.batch.*'data'.*'rows'"):
            run(**floats, partition=Partition("rows"))
        with pytest.raises(ValueError, match=r"batch.*\b6\b.*\b8\b.*'data'"):
            lstm(floats["params"], jnp.ones((4, 6, 8)), partition=Partition("data"))
    params = make_case(I=8, H=6).params[0]
    with (
        jax.set_mesh(mesh_of((1, 8))),
        pytest.raises(ValueError, match=r"\bH\b.*\b6\b.*\b8\b.*'model'"),
    ):
        lstm(params, jnp.ones((4, 8, 8)), partition=Partition(hidden="model"))
    with pytest.raises(ValueError, match=r"Partition\.batch.*\(\).*'data'.*jax\.set_mesh"):
        run(**floats, partition=Partition("data"))


SEVERAL_AXES = [
    Partition(batch=("data", "fsdp")),
    Partition(batch=("data", "fsdp"), weights="fsdp"),  # gathered along one axis, summed along both
    Partition(batch=("data", "fsdp"), weights=("data", "fsdp"), hidden="model"),
    Partition(batch="fsdp", hidden=("data", "model")),
]


@pytest.mark.parametrize("partition", SEVERAL_AXES)
@pytest.mark.parametrize("kind", [AxisType.Auto, *nightly(AxisType.Explicit)])
def test_axes_of_several_names(partition, kind):
    floats, run = problem()
    expected, want_gradient = run(**floats), jax.grad(partial(loss, run))(floats)
    with jax.set_mesh(jax.make_mesh((2, 2, 2), ("data", "fsdp", "model"), axis_types=(kind,) * 3)):
        split = partial(run, partition=partition)
        assert_close(split(**floats), expected, atol=1e-6)
        gradient = jax.jit(jax.grad(partial(loss, split)))(floats)
    assert_close(gradient, want_gradient, atol=2e-5)


@pytest.mark.parametrize("partition", [Partition("data"), Partition("data", "model", "data")])
@pytest.mark.parametrize("masks", ["lengths", "resets", "both"])
def test_no_batch_axis_with_lengths_and_resets(partition, masks):
    case = make_case(T=4, batch=(), I=2, H=4)
    given = {"lengths": jnp.asarray(3), "resets": jnp.asarray([False, False, True, False])}
    given = given if masks == "both" else {masks: given[masks]}
    run = partial(lstm, case.params[0], jnp.asarray(case.xs), case.states[0], **given)
    expected = run()
    with jax.set_mesh(mesh_of((2, 4))):
        assert_close(run(partition=partition), expected, atol=1e-6)


@pytest.mark.usefixtures("unannotated")
def test_messages_name_the_field():
    floats, run = problem()
    with jax.set_mesh(mesh_of((2, 4))):
        for partition, names in (
            (
                Partition(batch=("data", "fsdp")),
                r"Partition\.batch.*'data', 'model'.*fsdp.*set_mesh",
            ),
            (Partition(batch=("data", "model"), weights="model"), None),
            (Partition(hidden="rows"), r"Partition\.hidden.*rows"),
        ):
            if names is None:
                run(**floats, partition=partition)
                continue
            with pytest.raises(ValueError, match=names):
                run(**floats, partition=partition)
        floats["xs"], floats["state"], floats["reset_state"] = floats["xs"][:, :7], None, None
        with pytest.raises(
            ValueError, match=r"batch axis, 7.*\b8\b.*Partition\.batch=\('data', 'model'\)"
        ):
            lstm(**floats, partition=Partition(batch=("data", "model")))
