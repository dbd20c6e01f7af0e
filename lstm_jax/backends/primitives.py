"""The steps of the recurrence's derivative as primitives of JAX, which every transform sees.

Each primitive carries its XLA form as a jaxpr: that of :mod:`~lstm_jax.backends.xla`. Transforms, exports
and partitioned programs use the jaxpr. :mod:`~lstm_jax.backends.lowering` puts a kernel in its place when
the program is lowered, where platform and devices are known.
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
    """The static description of one step.

    Attributes:
      name: "infer", "forward", "tangent" or "backward".
      settings: The first argument of the step's function.
      tree: The structure of its other arguments.
      required: The backend that was asked for by name, which must run the step; None is any.
      device_kind: The device of the mesh in context when the step was traced; None if unknown.
      members: For each array of the other arguments, whether its first axis holds the members of an
        ensemble, each with its own weights (see :mod:`~lstm_jax.backends.batching`). None without ensemble.
    """

    name: str
    settings: Settings
    tree: Any
    required: str | None = None
    device_kind: str | None = None
    members: tuple[bool, ...] | None = None

    def arguments(self, leaves: Any) -> Any:
        """The other arguments, from their arrays."""
        return jax.tree.unflatten(self.tree, leaves)

    def refusal(self, reason: str) -> ValueError:
        """Returns the error that says why the required backend cannot run."""
        assert self.required is not None
        return refusal(self.required, reason)


def transposed(
    settings: Settings, operands: Operands, hs: jax.Array, saved: Residuals, cts: Outputs
) -> Operands:
    """The transpose of the tangent: from cotangents of the outputs to those of the operands."""
    d = operands._replace(begin=None, hold=None)
    (ct,) = jax.linear_transpose(partial(xla.tangent, settings, operands, hs, saved), d)(cts)
    return ct


XLA_FORMS: dict[str, Callable[..., Any]] = {
    "infer": xla.infer,
    "forward": xla.forward,
    "tangent": xla.tangent,
    "backward": transposed,
}


def bind_step(name: str, required: str | None, settings: Settings, *arguments: Any) -> Any:
    """Runs the function of :data:`XLA_FORMS` called ``name``, as a primitive."""
    leaves, tree = jax.tree.flatten(arguments)
    described = jax.sharding.get_abstract_mesh().abstract_device
    kind = None if described is None else described.device_kind
    flat, out = bind(Step(name, settings, tree, required, kind), leaves)
    return jax.tree.unflatten(out, flat)


def bind(step: Step, leaves: list[Any]) -> tuple[list[jax.Array], Any]:
    """Binds the step's primitive to the arrays of its arguments: the output's arrays and structure."""
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
    """The XLA form."""
    return jaxpr_as_fun(jaxpr)(*leaves)


def _run_eagerly(*leaves: Any, step: Step, jaxpr: Any) -> list[jax.Array]:
    """The implementation outside of ``jit``. A backend that was asked for by name needs a lowering rule."""
    if step.required is None or step.name == "tangent":
        return run_xla(*leaves, step=step, jaxpr=jaxpr)
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        raise step.refusal("no kernel runs under jax.disable_jit")
    return jax.jit(partial(kernel_p.bind, step=step, jaxpr=jaxpr))(*leaves)


def _jvp(primals: Any, tangents: Any, *, step: Step, jaxpr: Any) -> tuple[Any, Any]:
    """The derivative of a step of the first derivative: a part of the second."""
    log_once("this is a part of a second derivative", step.required)
    tangents = [ad.instantiate_zeros(t) for t in tangents]
    return jax.jvp(jaxpr_as_fun(jaxpr), tuple(primals), tuple(tangents))


@lru_cache
def log_once(reason: str, required: str | None) -> None:
    """Says that steps run in the XLA form: as a warning if a backend was asked for by name."""
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
tangent_p = _primitive("lstm_recurrence_tangent")  # linear in the last of its arguments


def _transpose(cts: Any, *leaves: Any, step: Step, jaxpr: Any) -> list[Any]:
    operands, hs, saved, d = step.arguments(leaves)
    outputs = [ad.instantiate_zeros(ct) for ct in cts]
    constants = jax.tree.leaves((operands, hs, saved))
    shape = jax.tree.structure(step.settings.outputs(operands.state, operands.xs))
    tree = jax.tree.structure((operands, hs, saved, jax.tree.unflatten(shape, outputs)))
    members = step.members
    if members is not None:
        members = members[: len(constants)] + (True,) * len(outputs)
    back = step._replace(name="backward", tree=tree, members=members)
    transposed, _ = bind(back, [*constants, *outputs])
    linear = jax.tree.leaves(d, is_leaf=ad.is_undefined_primal)
    return [None] * len(constants) + [
        ct if ad.is_undefined_primal(leaf) else None
        for leaf, ct in zip(linear, transposed, strict=True)
    ]


ad.primitive_transposes[tangent_p] = _transpose
