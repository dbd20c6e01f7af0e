"""Models that are compiled for a problem, ready to be timed and compared."""

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
    """An LSTM that is ready to be timed. All attributes are dicts by pass (``FORWARD``, ``BOTH``).

    Attributes:
      runs: Functions that run a pass and wait for its end. ``FORWARD`` computes hs. ``BOTH`` computes the
        loss and its gradient with respect to weights and xs.
      results: Functions that return the results of a pass in the form of this project's ``lstm``:
        ``{"hs": ...}``, or gradients by name.
      compile_s: Seconds to compile. Empty if nothing is compiled.
      temp_bytes: Temporary memory in bytes. Empty if it is not known.
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
    """Compiles a model that is written in JAX."""
    params, xs, cotangent = arrays(problem)
    weights = model.convert(params)
    if model.batch_major:  # not timed, because a batch-major user has such arrays
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

    results = {FORWARD: lambda: {"hs": to_float64(time_major(run(FORWARD)))}, BOTH: gradient}
    return Subject(
        runs={p: lambda p=p: run(p) for p in passes},
        results={p: results[p] for p in passes},
        compile_s={p: c.seconds for p, c in compiled.items()},
        temp_bytes={p: c.temp_bytes for p, c in compiled.items()},
    )


def in_torch(problem: Problem, passes: tuple[str, ...]) -> Subject:
    """Returns ``torch.nn.LSTM`` in eager mode, on the GPU if JAX uses one."""
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
    xs_with_grad = xs.clone().requires_grad_()

    def forward() -> Any:
        with torch.no_grad():
            hs = layer(xs)[0]
        synchronize()
        return hs

    def both() -> Any:
        loss = (layer(xs_with_grad)[0].float() * cotangent).sum()
        gradient = torch.autograd.grad(loss, (*weights, xs_with_grad))
        synchronize()
        return loss, gradient

    def gradient() -> dict[str, np.ndarray]:
        *d_weights, dxs = (to_jax(d, problem.dtype) for d in both()[1])
        by_name = dict(zip(names, d_weights, strict=True))
        return gradient_of_ours(torch_weights, data.params, by_name, dxs)

    results = {
        FORWARD: lambda: {"hs": to_float64(to_jax(forward(), problem.dtype))},
        BOTH: gradient,
    }
    runs = {FORWARD: forward, BOTH: both}
    return Subject({p: runs[p] for p in passes}, {p: results[p] for p in passes}, {}, {})


def to_jax(tensor: Any, dtype: str) -> jax.Array:
    """Converts a tensor to a JAX array, by way of float32, because NumPy has no bfloat16."""
    return jnp.asarray(tensor.detach().float().cpu().numpy(), dtype)


def gradient_of_ours(
    convert: Callable[[LSTMParams], Any], params: LSTMParams, d_weights: Any, dxs: jax.Array
) -> dict[str, np.ndarray]:
    """Converts a gradient to ``LSTMParams``, by the transpose of the conversion of the weights."""
    (d_params,) = jax.vjp(convert, params)[1](d_weights)
    return {name: to_float64(d) for name, d in (vars(d_params) | {"xs": dxs}).items()}


def to_float64(array: jax.Array) -> np.ndarray:
    """Converts to float64, so that the comparison adds no rounding errors."""
    return np.asarray(array, np.float64)
