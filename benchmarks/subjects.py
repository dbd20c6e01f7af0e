"""What is timed: a model compiled for a problem, with its results in one form, to be compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.models import Model, torch_weights
from benchmarks.problem import Arrays, Problem, arrays
from benchmarks.timing import compile_, cores
from lstm_jax import LSTMParams

FORWARD, BOTH = "forward", "forward + backward"


@dataclass(frozen=True)
class Subject:
    """An LSTM ready to be timed.

    Attributes:
      runs: by pass (``FORWARD``, ``BOTH``), a call that returns when its work is done: hs, or the
        loss and its gradient with respect to weights and xs.
      results: by pass, what our ``lstm`` would return: ``{"hs": ...}``, or gradients by name.
      compile_s: by pass, seconds; empty if nothing is compiled.
      temp_bytes: by pass; empty if not known.
    """

    runs: dict[str, Callable[[], Any]]
    results: dict[str, Callable[[], dict[str, np.ndarray]]]
    compile_s: dict[str, float]
    temp_bytes: dict[str, int | None]


def in_jax(
    model: Model,
    problem: Problem,
    passes: tuple[str, ...],
    compiler_options: Mapping[str, Any] | None = None,
) -> Subject:
    """A model written in JAX."""
    params, xs, cotangent = arrays(problem)
    weights = model.convert(params)
    if model.batch_major:  # outside the timing: a batch-major user has such arrays
        xs, cotangent = xs.swapaxes(0, 1), cotangent.swapaxes(0, 1)

    def loss(weights: Any, xs: jax.Array, cotangent: jax.Array) -> jax.Array:
        return (model.apply(weights, xs).astype(jnp.float32) * cotangent).sum()

    calls = {
        FORWARD: (model.apply, (weights, xs)),
        BOTH: (jax.value_and_grad(loss, argnums=(0, 1)), (weights, xs, cotangent)),
    }
    compiled = {
        p: compile_(calls[p][0], *calls[p][1], compiler_options=compiler_options) for p in passes
    }

    def run(name: str) -> Any:
        return jax.block_until_ready(compiled[name].run(*calls[name][1]))

    def time_major(array: jax.Array) -> jax.Array:
        return array.swapaxes(0, 1) if model.batch_major else array

    def gradient() -> dict[str, np.ndarray]:
        _, (d_weights, dxs) = run(BOTH)
        return gradient_of_ours(model.convert, params, d_weights, time_major(dxs))

    results = {FORWARD: lambda: {"hs": wide(time_major(run(FORWARD)))}, BOTH: gradient}
    return Subject(
        runs={p: lambda p=p: run(p) for p in passes},
        results={p: results[p] for p in passes},
        compile_s={p: c.seconds for p, c in compiled.items()},
        temp_bytes={p: c.temp_bytes for p, c in compiled.items()},
    )


def in_torch(problem: Problem, passes: tuple[str, ...]) -> Subject:
    """``torch.nn.LSTM``, on the GPU if JAX is on one; not compiled, as its users run it."""
    import torch

    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device, dtype = "cuda" if on_gpu else "cpu", getattr(torch, problem.dtype)
    synchronize = torch.cuda.synchronize if on_gpu else lambda: None
    torch.set_num_threads(cores())

    def tensor(array: Any, dtype: Any = dtype) -> Any:
        return torch.tensor(np.asarray(array, np.float32)).to(device, dtype)

    data: Arrays = arrays(problem)
    layer = torch.nn.LSTM(problem.I, problem.H).to(device, dtype)
    with torch.no_grad():
        for name, value in torch_weights(data.params).items():
            getattr(layer, name).copy_(tensor(value))
    names, weights = zip(*layer.named_parameters(), strict=True)
    xs, cotangent = tensor(data.xs), tensor(data.cotangent, torch.float32)
    needing_gradient = xs.clone().requires_grad_()

    def forward() -> Any:
        with torch.no_grad():
            hs = layer(xs)[0]
        synchronize()
        return hs

    def both() -> Any:
        loss = (layer(needing_gradient)[0].float() * cotangent).sum()
        gradient = torch.autograd.grad(loss, (*weights, needing_gradient))
        synchronize()
        return loss, gradient

    def gradient() -> dict[str, np.ndarray]:
        *d_weights, dxs = (to_jax(d, problem.dtype) for d in both()[1])
        by_name = dict(zip(names, d_weights, strict=True))
        return gradient_of_ours(torch_weights, data.params, by_name, dxs)

    results = {FORWARD: lambda: {"hs": wide(to_jax(forward(), problem.dtype))}, BOTH: gradient}
    runs = {FORWARD: forward, BOTH: both}
    return Subject({p: runs[p] for p in passes}, {p: results[p] for p in passes}, {}, {})


def to_jax(tensor: Any, dtype: str) -> jax.Array:
    """By way of float32, which NumPy has."""
    return jnp.asarray(tensor.detach().float().cpu().numpy(), dtype)


def gradient_of_ours(
    convert: Callable[[LSTMParams], Any], params: LSTMParams, d_weights: Any, dxs: jax.Array
) -> dict[str, np.ndarray]:
    """The gradient in our layout, by the transpose of the conversion of the weights."""
    (d_params,) = jax.vjp(convert, params)[1](d_weights)
    return {name: wide(d) for name, d in (vars(d_params) | {"xs": dxs}).items()}


def wide(array: jax.Array) -> np.ndarray:
    """In float64, so that comparing adds no error of its own."""
    return np.asarray(array, np.float64)
