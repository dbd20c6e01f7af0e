"""Unrolling of time loops for GPUs.

On a GPU the host launches a kernel for every operation in the body of a loop. With several steps per
iteration, the loop counter and copies are needed once per iteration, and XLA captures the body as one CUDA
graph.
"""

from typing import Any

from jax.extend.core import ClosedJaxpr, primitives

STEPS = 8
"""Time steps per iteration. On an H100, 16 are hardly faster and take up to twice as long to compile."""


def unrolled(program: ClosedJaxpr) -> ClosedJaxpr:
    """Returns the program with :data:`STEPS` steps per iteration in its time loops, if their length is known.

    The time loops are the outermost scans, possibly inside a while loop over blocks of steps. Loops of the
    cell are inside these scans, and are not changed.
    """
    jaxpr = program.jaxpr
    return ClosedJaxpr(jaxpr.replace(eqns=[_unrolled(eqn) for eqn in jaxpr.eqns]), program.consts)


def _unrolled(eqn: Any) -> Any:
    params = eqn.params
    if eqn.primitive is primitives.cond_p:  # platform_dependent, where the size of blocks differs
        return eqn.replace(params=params | {"branches": tuple(map(unrolled, params["branches"]))})
    if eqn.primitive is primitives.while_p:  # the loop over blocks
        return eqn.replace(params=params | {"body_jaxpr": unrolled(params["body_jaxpr"])})
    if eqn.primitive is primitives.scan_p and isinstance(params["length"], int):
        return eqn.replace(params=params | {"unroll": max(1, min(STEPS, params["length"]))})
    return eqn
