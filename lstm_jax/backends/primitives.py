"""JAX primitives for the passes of the recurrence: inference, forward, tangent and backward.

A pass is called a step here. The parameters of a primitive contain the XLA form of the step, a jaxpr of the
function in :mod:`~lstm_jax.backends.xla`. Transforms, exports and partitioned programs use the jaxpr.
:mod:`~lstm_jax.backends.lowering` replaces it by a kernel when the program is lowered, because platform and
devices are known only then.
"""

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad

from lstm_jax.backends import xla
from lstm_jax.backends.problem import Operands, Outputs, Residuals, Settings, refusal

log = logging.getLogger("lstm_jax")


class Step(NamedTuple):
    """The static description of a step, which is a whole pass over the sequence.

    Attributes:
      name: "infer", "forward", "tangent" or "backward".
      settings: The first argument of the step's function.
      tree: The tree structure of the other arguments.
      required: The backend that was selected by name and must run the step, or None for any backend.
      device_kind: The ``device_kind`` of the current mesh at trace time, or None if it is not known.
      members: Whether the first axis of each array of the other arguments is an axis of members, see
        :mod:`~lstm_jax.backends.batching`. None if there is no such axis.
    """

    name: str
    settings: Settings
    tree: Any
    required: str | None = None
    device_kind: str | None = None
    members: tuple[bool, ...] | None = None

    def arguments(self, leaves: Any) -> Any:
        """Unflattens the arrays to the arguments after ``settings``."""
        return jax.tree.unflatten(self.tree, leaves)

    def refusal(self, reason: str) -> ValueError:
        """Returns the error for a required backend that cannot run."""
        assert self.required is not None
        return refusal(self.required, reason)


def xla_backward(
    settings: Settings, operands: Operands, hs: jax.Array, residuals: Residuals, cts: Outputs
) -> Operands:
    """Computes the cotangents of the operands from those of the outputs, by transposing the tangent."""
    d = operands._replace(begin=None, hold=None)
    (ct,) = jax.linear_transpose(partial(xla.tangent, settings, operands, hs, residuals), d)(cts)
    return ct


XLA_FORMS: dict[str, Callable[..., Any]] = {
    "infer": xla.infer,
    "forward": xla.forward,
    "tangent": xla.tangent,
    "backward": xla_backward,
}


def bind_step(name: str, required: str | None, settings: Settings, *arguments: Any) -> Any:
    """Runs the step called ``name`` as a primitive."""
    leaves, tree = jax.tree.flatten(arguments)
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = None if device is None else device.device_kind
    flat, out = bind(Step(name, settings, tree, required, kind), leaves)
    return jax.tree.unflatten(out, flat)


def bind(step: Step, leaves: list[Any]) -> tuple[list[jax.Array], Any]:
    """Binds the primitive of the step to the arrays of its arguments.

    Returns:
      The arrays of the output, and the tree structure of the output.
    """
    form = partial(XLA_FORMS[step.name], step.settings)
    if step.members is None:
        jaxpr, out = jax.make_jaxpr(form, return_shape=True)(*step.arguments(leaves))
    else:
        axes = tuple(0 if member else None for member in step.members)
        members = jax.vmap(lambda *leaves: form(*step.arguments(leaves)), in_axes=axes)
        jaxpr, out = jax.make_jaxpr(members, return_shape=True)(*leaves)
    primitive = tangent_p if step.name == "tangent" else kernel_p
    return primitive.bind(*leaves, step=step, jaxpr=jaxpr), jax.tree.structure(out)


def run_xla(*leaves: Any, step: Step, jaxpr: Any) -> list[jax.Array]:
    """Runs the XLA form of a step."""
    return jaxpr_as_fun(jaxpr)(*leaves)


def _run_eagerly(*leaves: Any, step: Step, jaxpr: Any) -> list[jax.Array]:
    """Implements the primitive outside of ``jit``.

    A backend that was selected by name runs under ``jit``, because its kernel exists only as a lowering rule.
    """
    if step.required is None or step.name == "tangent":
        return run_xla(*leaves, step=step, jaxpr=jaxpr)
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        raise step.refusal("no kernel runs under jax.disable_jit")
    return jax.jit(partial(kernel_p.bind, step=step, jaxpr=jaxpr))(*leaves)


def _jvp(primals: Any, tangents: Any, *, step: Step, jaxpr: Any) -> tuple[Any, Any]:
    """Implements the JVP rule, which only second derivatives use. First derivatives are steps themselves."""
    log_once("this is part of a second derivative", step.required)
    tangents = [ad.instantiate_zeros(t) for t in tangents]
    return jax.jvp(jaxpr_as_fun(jaxpr), tuple(primals), tuple(tangents))


@lru_cache
def log_once(reason: str, required: str | None) -> None:
    """Logs that steps run in the XLA form. It is a warning if a backend was selected by name."""
    level = logging.INFO if required is None else logging.WARNING
    log.log(level, "%s: the backend 'xla' runs, because %s.", required or "auto", reason)


def _primitive(name: str) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(_run_eagerly)
    primitive.def_abstract_eval(lambda *avals, step, jaxpr: jaxpr.out_avals)
    ad.primitive_jvps[primitive] = _jvp
    return primitive


kernel_p = _primitive("lstm_recurrence")
tangent_p = _primitive("lstm_recurrence_tangent")  # linear in its last argument, the tangents


def _transpose(cts: Any, *leaves: Any, step: Step, jaxpr: Any) -> list[Any]:
    operands, hs, residuals, d = step.arguments(leaves)
    outputs = [ad.instantiate_zeros(ct) for ct in cts]
    constants = jax.tree.leaves((operands, hs, residuals))
    shape = jax.tree.structure(step.settings.outputs(operands.state, operands.xs))
    tree = jax.tree.structure((operands, hs, residuals, jax.tree.unflatten(shape, outputs)))
    members = step.members
    if members is not None:
        members = members[: len(constants)] + (True,) * len(outputs)
    backward = step._replace(name="backward", tree=tree, members=members)
    operand_cts, _ = bind(backward, [*constants, *outputs])
    tangents = jax.tree.leaves(d, is_leaf=ad.is_undefined_primal)
    return [None] * len(constants) + [
        ct if ad.is_undefined_primal(tangent) else None
        for tangent, ct in zip(tangents, operand_cts, strict=True)
    ]


ad.primitive_transposes[tangent_p] = _transpose
