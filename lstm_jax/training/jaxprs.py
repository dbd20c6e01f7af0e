"""Analysis of jaxprs: FLOPs of matrix products, and the backends of LSTM layers."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from lstm_jax.backends import lowering
from lstm_jax.backends.primitives import kernel_p
from lstm_jax.products import outer_p, product_p


def matmul_flops(jaxpr: ClosedJaxpr) -> int:
    """Returns the total FLOPs of all matrix products on all devices. A scan counts ``length`` times.

    >>> import jax, jax.numpy as jnp
    >>> def powers(a):
    ...     return jax.lax.scan(lambda b, _: (a @ b, None), a, length=10)[0]
    >>> matmul_flops(jax.make_jaxpr(powers)(jnp.ones((3, 3))))                # 10 * 2 * 3 * 3 * 3
    540
    """
    return sum(times * _flops(e) for e, times in equations(jaxpr.jaxpr))


def recurrences(
    jaxpr: ClosedJaxpr, platform: str, device_kind: str
) -> list[tuple[str, str | None]]:
    """Returns ``(backend, reason)`` of each forward recurrence. The reason is None for a kernel."""
    found = []
    for equation, _ in equations(jaxpr.jaxpr):
        step = equation.params.get("step")
        if equation.primitive is kernel_p and step.name in ("forward", "infer"):
            arrays = [v.aval for v in equation.invars]
            found.append(lowering.backend_of(platform, device_kind, step, arrays))
    return found


def equations(jaxpr: Jaxpr, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Yields every live equation with the number of times it runs. A ``while`` body counts once."""
    live, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    for equation in live.eqns:
        yield equation, times
        inside = times
        if equation.primitive.name == "scan":
            inside *= equation.params["length"]
        if equation.primitive.name == "shard_map":
            inside *= equation.params["mesh"].size
        parameters = equation.params
        if parameters.get("branches_platforms"):  # only one branch runs, by platform
            parameters = {"branches": parameters["branches"][-1]}
        for parameter in jax.tree.leaves(list(parameters.values()), is_leaf=_is_jaxpr):
            if isinstance(parameter, ClosedJaxpr):
                yield from equations(parameter.jaxpr, inside)
            elif isinstance(parameter, Jaxpr):
                yield from equations(parameter, inside)


def _is_jaxpr(parameter: Any) -> bool:
    return isinstance(parameter, ClosedJaxpr | Jaxpr)


def _flops(equation: Any) -> int:
    """Returns the FLOPs of a matrix product, two per multiply-add, and 0 for other equations."""
    shape = equation.invars[0].aval.shape if equation.invars else ()
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
    elif equation.primitive is product_p:
        contracted = (len(shape) - 1,)
    elif equation.primitive is outer_p:
        contracted = tuple(range(len(shape) - 1))
    else:
        return 0
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[d] for d in contracted)
