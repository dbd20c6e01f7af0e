"""Compiles for four TPU v5e without one, and prints as JSON what the programs contain.

A program of its own, because the environment must be set before jax is imported.
"""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTMParams, init_lstm, lstm
from tests.hlo import collectives, collectives_in_loops

T, B, H = 16, 32, 128
REPLICATED = LSTMParams(P(), P(), P())


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


def contents(function, *args):
    text = jax.jit(function).lower(*args).compile().as_text()
    in_loops = collectives_in_loops(text) if " while(" in text else []
    return {
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "loops": text.count(" while("),
        "collectives": len(collectives(text)),
        "in_loops": in_loops,
    }


def main():
    devices = np.array(topologies.get_topology_desc("v5e:2x2", platform="tpu").devices)
    one, four = Mesh(devices[:1], ("data",)), Mesh(devices, ("data",))
    explicit = Mesh(devices, ("data",), axis_types=(AxisType.Explicit,))
    by_batch = (REPLICATED, P(None, "data"))
    rows = P("data", None)
    mapped = partial(jax.shard_map, mesh=four, in_specs=by_batch)
    ensemble = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((2, *a.shape), a.dtype, sharding=a.sharding),
        shapes(one, (REPLICATED, P())),
    )
    programs = {}
    for name, function in {"forward": hidden_states, "gradient": gradient}.items():
        programs[f"one chip, {name}"] = function, *shapes(one, (REPLICATED, P()))
        programs[f"jit, {name}"] = function, *shapes(four, by_batch)
        out = P(None, "data") if name == "forward" else by_batch
        programs[f"shard_map, {name}"] = mapped(function, out_specs=out), *shapes(four, by_batch)
        programs[f"explicit, {name}"] = function, *shapes(explicit, by_batch)
        programs[f"vmap, {name}"] = jax.vmap(function), *ensemble
        fsdp = (LSTMParams(rows, rows, P()), P(None, "data"))
        programs[f"fsdp, {name}"] = function, *shapes(four, fsdp)
    print(json.dumps({name: contents(*program) for name, program in programs.items()}))


if __name__ == "__main__":
    main()
