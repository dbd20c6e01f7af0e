"""Compiles programs for TPU v5e without a TPU, and prints their kernels, loops and collectives as JSON.

    python -m tests.tpu_programs "one chip, forward" "fsdp, gradient"

It runs as a separate process, because the environment must be set before jax is imported.
"""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTMParams, Partition, init_lstm, lstm
from lstm_jax.training.aot.hlo import collectives
from lstm_jax.training.config import Data, Experiment, Model, Optimizer, Train
from lstm_jax.training.config import Mesh as MeshConfig
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.jaxprs import recurrences
from lstm_jax.training.parallel.layout import with_shardings
from lstm_jax.training.program import make_program
from tests.hlo import collectives_in_loops

T, B, H = 16, 32, 128
REPLICATED = LSTMParams(P(), P(), P())
SHARDED = LSTMParams(P("data", None), P("data", None), P())


def loss(params, xs):
    return (lstm(params, xs)[1].astype(jnp.float32) ** 2).sum()


def gradient(params, xs):
    return jax.grad(loss, argnums=(0, 1))(params, xs)


def hidden_states(params, xs):
    return lstm(params, xs)[1]


def shapes(mesh, specs, dtype=jnp.bfloat16):
    params = jax.eval_shape(lambda: init_lstm(jax.random.key(0), H, H, param_dtype=dtype))
    params, xs = jax.tree.map(
        lambda a, spec: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, spec)),
        (params, jax.ShapeDtypeStruct((T, B, H), dtype)),
        specs,
    )
    return params, xs


def scattered_sum(x):
    return jax.lax.psum_scatter(x, "data", tiled=True)


def split(partition, params, xs):
    return (lstm(params, xs, partition=partition)[1].astype(jnp.float32) ** 2).sum()


def training_step(devices, mesh_config):
    """Traces a training step of a language model with two layers, on a mesh of the given devices."""
    one = Train(steps=1, log_every=1, eval_every=1, checkpoint_every=1, steps_per_dispatch=1)
    experiment = Experiment(
        model=Model(hidden_size=H, embedding_size=H, num_layers=2, dropout=0.1),
        data=Data(batch_size=B, sequence_length=T),
        optimizer=Optimizer(warmup_steps=0),
        train=one,
        mesh=mesh_config,
    )
    ids, weights = np.zeros((1, T, B), np.int32), np.zeros((1, T, B), np.float32)
    batches = Batch(ids, ids, weights)
    dataset = Dataset(
        output_size=64, loss="cross_entropy", metric="bits", eval=batches, vocabulary_size=64,
        stateful=True,
    )  # fmt: skip
    program = make_program(experiment, dataset, devices)
    with jax.set_mesh(program.layout.mesh):
        batches = with_shardings(batches, program.layout.batches(batches))
        return program.train_steps.trace(program.state, batches)


def contents(function, *args):
    return inside(jax.jit(function).lower(*args))


def contents_on(mesh, function, *args):
    with jax.set_mesh(mesh):
        return contents(function, *args)


def inside_step(devices, mesh_config):
    traced = training_step(devices, mesh_config)
    backends = recurrences(traced.jaxpr, "tpu", devices[0].device_kind)
    return inside(traced.lower()) | {"backends": backends}


def inside(lowered):
    text = lowered.compile().as_text()
    in_loops = [c.kind for c in collectives_in_loops(text)] if " while(" in text else []
    return {
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "loops": text.count(" while("),
        "collectives": sorted(c.kind for c in collectives(text)),
        "in_loops": in_loops,
    }


def programs(devices):
    """Maps the name of each program to a function that compiles it and returns its contents."""
    one, four = Mesh(devices[:1], ("data",)), Mesh(devices, ("data",))
    explicit = Mesh(devices, ("data",), axis_types=(AxisType.Explicit,))
    by_batch, fsdp = (REPLICATED, P(None, "data")), (SHARDED, P(None, "data"))
    mapped = partial(jax.shard_map, mesh=four, in_specs=by_batch)
    ensemble = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((2, *a.shape), a.dtype, sharding=a.sharding),
        shapes(one, (REPLICATED, P())),
    )
    found = {}
    for name, function in {"forward": hidden_states, "gradient": gradient}.items():
        out = P(None, "data") if name == "forward" else by_batch
        for kind, args in {
            "one chip": (function, *shapes(one, (REPLICATED, P()))),
            "jit": (function, *shapes(four, by_batch)),
            "shard_map": (mapped(function, out_specs=out), *shapes(four, by_batch)),
            "explicit": (function, *shapes(explicit, by_batch)),
            "vmap": (jax.vmap(function), *ensemble),
            "fsdp": (function, *shapes(four, fsdp)),
        }.items():
            found[f"{kind}, {name}"] = partial(contents, *args)
    rows = P("data", None)
    x = jax.ShapeDtypeStruct((16384, 4096), jnp.float32, sharding=NamedSharding(four, rows))
    scatter = jax.shard_map(scattered_sum, mesh=four, in_specs=rows, out_specs=rows)
    found["scatter"] = partial(contents, scatter, x)
    for name, axis in (("batch", None), ("weights at rest", "data")):
        function = jax.grad(partial(split, Partition("data", weights=axis)), argnums=(0, 1))
        args = shapes(four, by_batch if axis is None else fsdp)
        found[f"partition, {name}"] = partial(contents_on, four, function, *args)
    for axes in ("auto", "explicit"):
        for parameters in ("replicated", "sharded"):
            mesh = MeshConfig(data=4, axis_types=axes, parameters=parameters)
            found[f"training, {axes}, {parameters}"] = partial(inside_step, [*devices], mesh)
        mesh = MeshConfig(data=2, model=2, axis_types=axes)
        found[f"training, {axes}, hidden"] = partial(inside_step, [*devices], mesh)
    return found


def main(names):
    devices = np.array(topologies.get_topology_desc("v5e:2x2", platform="tpu").devices).ravel()
    found = programs(devices)
    print(json.dumps({name: found[name]() for name in names or found}))


if __name__ == "__main__":
    main(sys.argv[1:])
