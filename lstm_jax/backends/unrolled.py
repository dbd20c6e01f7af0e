"""Loops of several time steps an iteration, which is what GPUs need.

On a GPU every operation of a loop's body is a kernel that the host starts. With several steps in a body the
counter and the copies are shared by them, and XLA captures the whole body as one CUDA graph.
"""

from typing import Any

from jax.extend.core import ClosedJaxpr, primitives

STEPS = 8
"""The steps of an iteration. 16 bring little more and compile more than twice as long."""


def unrolled(jaxpr: ClosedJaxpr) -> ClosedJaxpr:
    """The program with :data:`STEPS` steps an iteration in its loops over time.

    Only loops of the program itself, not those inside of a cell's functions, and only if their length is
    known.
    """

    def unroll(eqn: Any) -> Any:
        if eqn.primitive is not primitives.scan_p or not isinstance(eqn.params["length"], int):
            return eqn
        steps = max(1, min(STEPS, eqn.params["length"]))
        return eqn.replace(params=eqn.params | {"unroll": steps})

    inner = jaxpr.jaxpr
    return ClosedJaxpr(inner.replace(eqns=[unroll(eqn) for eqn in inner.eqns]), jaxpr.consts)
