"""Loops of several time steps per iteration, which is what GPUs need.

On a GPU every operation of a loop's body is a kernel that the host starts. With several steps in a body they
share the counter and the copies, and XLA captures the whole body as one CUDA graph.
"""

from typing import Any

from jax.extend.core import ClosedJaxpr, primitives

STEPS = 8
"""The steps of an iteration. On an H100, 16 bring little more and compile up to twice as long."""


def unrolled(program: ClosedJaxpr) -> ClosedJaxpr:
    """The program with :data:`STEPS` steps per iteration in its loops over time, if their length is known.

    Those are its scans, also in a loop over blocks of time. Loops of the cell itself are inside of them.
    """
    jaxpr = program.jaxpr
    return ClosedJaxpr(jaxpr.replace(eqns=[_unrolled(eqn) for eqn in jaxpr.eqns]), program.consts)


def _unrolled(eqn: Any) -> Any:
    params = eqn.params
    if eqn.primitive is primitives.cond_p:  # blocks on one platform and none on another
        return eqn.replace(params=params | {"branches": tuple(map(unrolled, params["branches"]))})
    if eqn.primitive is primitives.while_p:  # over blocks
        return eqn.replace(params=params | {"body_jaxpr": unrolled(params["body_jaxpr"])})
    if eqn.primitive is primitives.scan_p and isinstance(params["length"], int):
        return eqn.replace(params=params | {"unroll": max(1, min(STEPS, params["length"]))})
    return eqn
