"""Collectives of HLO text that is written by hand, in the forms of the compilers."""

import pytest

from dalle_jax.plan.collectives import Collective, traffic

LOOP = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[], f32[8,16]{1,0:T(8,128)}) parameter(0)
  %w = f32[8,16]{1,0} get-tuple-element(%p), index=1
  %gathered = f32[32,16]{1,0:T(8,128)} all-gather(%w), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %summed = bf16[8,16]{1,0} all-reduce(%w), channel_id=2, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %out = (s32[], f32[8,16]{1,0}) tuple(%w, %w)
}

%condition (p: (s32[], f32[8,16])) -> pred[] {
  %p.1 = (s32[], f32[8,16]{1,0}) parameter(0)
  %bound = s32[]{:T(128)} constant(15)
  %other = s32[]{:T(128)} constant(99)
  %i = s32[] get-tuple-element(%p.1), index=0
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %start = (s32[], f32[8,16]{1,0}) tuple(%x, %x)
  %loop = (s32[], f32[8,16]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %last = f32[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""


def entry(*lines: str, before: str = "") -> str:
    return f"{before}ENTRY %main (x: f32[4]) -> f32[4] {{\n" + "\n".join(f"  {line}" for line in lines) + "\n}\n"


def only(text: str, devices: int = 8) -> Collective:
    (found,) = traffic(text, devices).collectives
    return found


def test_the_body_of_a_loop_counts_once_per_iteration():
    found = traffic(LOOP, 8)
    assert set(found.collectives) == {
        Collective("all-gather", 32 * 16 * 4, 4, 15),
        Collective("all-reduce", 8 * 16 * 2, 2, 15),
    }
    assert not found.loops
    table = found.by_kind()
    assert table["all-gather"] == {"operations": 1, "runs": 15, "bytes": 15 * 2048, "sent": 15 * 2048 * 3 / 4}
    assert table["all-reduce"]["sent"] == 15 * 256 * 2 / 2
    assert found.sent == table["all-gather"]["sent"] + table["all-reduce"]["sent"]


def test_the_trip_count_of_the_compiler_is_used():
    known = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert {one.times for one in traffic(known, 8).collectives} == {7}


def test_a_loop_of_unknown_length_is_named_and_counted_once():
    unknown = LOOP.replace("compare(%i, %bound)", "compare(%i, %i)")
    found = traffic(unknown, 8)
    assert found.loops == ("body",)
    assert {one.times for one in found.collectives} == {1}


def test_a_channel_in_several_computations_counts_once():
    repeated = LOOP.replace(
        "ENTRY",
        "%async (q: f32[8,16]) -> f32[32,16] {\n"
        "  %q = f32[8,16]{1,0} parameter(0)\n"
        "  ROOT %again = f32[32,16]{1,0} all-gather(%q), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}\n}\n\n"
        "ENTRY",
    ).replace("%start =", "%f = f32[32,16]{1,0} fusion(%x), kind=kCustom, calls=%async\n  %start =")
    assert traffic(repeated, 8).collectives == traffic(LOOP, 8).collectives


def test_a_channel_in_an_unreachable_computation_is_an_error():
    lost = LOOP.replace("while(%start), condition=%condition, body=%body", "custom-call(%start)")
    with pytest.raises(AssertionError, match=r"channels \['1', '2'\]"):
        traffic(lost, 8)


def test_operands_within_the_result_of_a_start_are_not_counted():
    gather = "(f32[4]{0}, f32[16]{0}) all-gather-start(%x), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}"
    several = (
        "((f32[4]{0}, bf16[4]{0}), (f32[16]{0}, bf16[16]{0})) all-gather-start(%x, %y), channel_id=3, "
        "replica_groups=[2,4]<=[8], dimensions={0}"
    )
    permute = (
        "(f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=3, source_target_pairs={{0,1}}"
    )
    assert only(entry(f"%g = {gather}")).bytes == 64
    assert only(entry(f"%g = {several}")).bytes == 64 + 32
    assert only(entry(f"%g = {permute}")) == Collective("collective-permute", 16, 8, 1)
    assert only(entry(f"%g = {permute}")).sent == 16


def test_a_reduce_scatter_counts_the_whole_array_in_either_of_its_forms():
    plain = "%r = f32[4]{0} reduce-scatter(%x), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add"
    assert only(entry(plain)) == Collective("reduce-scatter", 64, 4, 1)
    fused = (
        "%all-reduce-scatter.1 (p: f32[16]) -> f32[4] {\n  %p = f32[16]{0} parameter(0)\n"
        "  %r = f32[16]{0} all-reduce(%p), channel_id=5, replica_groups=[2,4]<=[8], to_apply=%add\n"
        "  ROOT %s = f32[4]{0} dynamic-slice(%r), dynamic_slice_sizes={4}\n}\n\n"
    )
    found = only(entry("%f = f32[4]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1", before=fused))
    assert found == Collective("reduce-scatter", 64, 4, 1)


def test_several_arrays_of_one_operation_count_together_and_branches_are_followed():
    branch = (
        "%yes (p: f32[4]) -> f32[4] {\n"
        "  %r = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce(%a, %b), channel_id=9, replica_groups={}, to_apply=%add\n}\n\n"
    )
    text = entry("%c = f32[4] conditional(%i, %x, %x), branch_computations={%yes, %yes}", before=branch)
    assert only(text, devices=6) == Collective("all-reduce", 16 + 12, 6, 2)
