"""What a program sends, read from its text: one made by hand, and real ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lstm_jax.training.hlo import Collective, collectives

TEXT = """\
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter.1 (input: f32[64,32]) -> f32[16,32] {
  %input = f32[64,32]{1,0} parameter(0)
  ROOT %all-reduce.9 = f32[64,32]{1,0:T(8,128)} all-reduce(%input), to_apply=%add
}

%under_way.1 (a: bf16[2,8]) -> bf16[8,8] {
  %a = bf16[2,8]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[8,8]{1,0} all-gather(%a), dimensions={0}, frontend_attributes={chain_id="0"}
}

%under_way.2 (a: bf16[2,8]) -> bf16[8,8] {
  %a = bf16[2,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,8]{1,0} all-gather(%a), dimensions={0}, frontend_attributes={chain_id="0"}
}

%inner_condition (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%inner (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  %h = f32[4]{0} get-tuple-element(%p), index=1
  %r = f32[4]{0} all-reduce(%h), to_apply=%add
  %g = bf16[8,8]{1,0} fusion(%a), kind=kCustom, calls=%under_way.2
  ROOT %out = (s32[], f32[4]{0}) tuple(%i, %r)
}

%outer (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  ROOT %w = (s32[], f32[4]{0}) while(%p), condition=%inner_condition, body=%inner, metadata={op_name="time"}
}

%anything (p: (s32[], f32[4])) -> pred[] {
  ROOT %b = pred[] custom-call(%p), custom_call_target="?"
}

%unknown (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), dimensions={0}
  %x = f32[2]{0} constant({0, 0})
}

ENTRY %main (x: f32[64,32]) -> f32[] {
  %x = f32[64,32]{1,0} parameter(0)
  %c = f32[16,32]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %d = bf16[8,8]{1,0} fusion(%a), kind=kCustom, calls=%under_way.1
  %e = (s32[], f32[4]{0}) while(%p), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
  %f = (s32[], f32[4]{0}) while(%p), condition=%anything, body=%unknown, metadata={op_name="?"}
  ROOT %z = f32[] constant(0)
}
"""


def test_a_text_by_hand():
    assert sorted(collectives(TEXT), key=str) == sorted(
        [
            Collective("reduce-scatter", 64 * 32 * 4, 1, ()),
            Collective("all-gather", 8 * 8 * 2, 1, ()),  # under way in the loop, begun outside
            Collective("all-reduce", 4 * 4, 15, ("", "time")),
            Collective("all-gather", 8 * 4, 1, ("?",), exact=False),
        ],
        key=str,
    )


@pytest.mark.parametrize("length", [7, 1])
def test_a_real_program(length):
    """One gather before a loop in a loop, one sum in it; a loop of one step is none."""
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=False)
    def program(x):
        y = jax.lax.all_gather(x, "d", axis=0, tiled=True)

        def step(h, _):
            return jnp.sin(jax.lax.psum(h, "d")) + y[:4].sum(), None

        def steps(h, _):
            return jax.lax.scan(step, h, length=length)

        return jax.lax.scan(steps, x, length=3)[0]

    text = program.lower(jnp.ones((16, 2), jnp.float32)).compile().as_text()
    found = {c.kind: c for c in collectives(text)}
    assert len(collectives(text)) == 2
    assert (found["all-gather"].bytes, found["all-gather"].times) == (16 * 2 * 4, 1)
    assert found["all-gather"].loops == ()
    assert (found["all-reduce"].bytes, found["all-reduce"].times) == (4 * 2 * 4, 3 * length)
    assert len(found["all-reduce"].loops) == (2 if length > 1 else 1)
    assert all(c.exact for c in found.values())
