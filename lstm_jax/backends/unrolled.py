"""Loops of several time steps per iteration, which is what GPUs need.

On a GPU every operation of a loop's body is a kernel that the host starts. With several steps in a body they
share the counter and the copies, and XLA captures the whole body as one CUDA graph.
"""

from typing import Any

from jax.extend.core import ClosedJaxpr, primitives

STEPS = 8
"""The steps of an iteration. On an H100, 16 bring little more and compile up to twice as long."""
LOOPS = (primitives.scan_p, primitives.while_p)


def unrolled(program: ClosedJaxpr) -> ClosedJaxpr:
    """The program with :data:`STEPS` steps per iteration in its innermost loops of known length.

    Those are the loops over time, alone or in a loop over blocks of time.
    """
    jaxpr = program.jaxpr
    return ClosedJaxpr(jaxpr.replace(eqns=[_unrolled(eqn) for eqn in jaxpr.eqns]), program.consts)


def _unrolled(eqn: Any) -> Any:
    if eqn.primitive is primitives.cond_p:  # blocks on one platform and none on another
        branches = tuple(unrolled(branch) for branch in eqn.params["branches"])
        return eqn.replace(params=eqn.params | {"branches": branches})
    if eqn.primitive is not primitives.scan_p or not isinstance(eqn.params["length"], int):
        return eqn
    body = eqn.params["jaxpr"]
    if any(inner.primitive in LOOPS for inner in body.eqns):
        return eqn.replace(params=eqn.params | {"jaxpr": unrolled(body)})
    steps = max(1, min(STEPS, eqn.params["length"]))
    return eqn.replace(params=eqn.params | {"unroll": steps})
