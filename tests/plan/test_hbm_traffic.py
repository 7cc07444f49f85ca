"""The count of bytes of HBM, on HLO text that was shortened from programs compiled for a v5e."""

import pytest

from dalle_jax.plan.hbm_traffic import HbmBytes, hbm_bytes

LOOP = """
HloModule steps

%fused_slice (param_0: bf16[4,16,128], param_1: s32[]) -> bf16[1,16,128] {
  %param_0 = bf16[4,16,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  ROOT %cut = bf16[1,16,128]{2,1,0:T(8,128)(2,1)S(1)} dynamic-slice(%param_0, %param_1), dynamic_slice_sizes={1,16,128}
}

%fused_write (param_2: bf16[4,16,128], param_3: bf16[1,1,128], param_4: s32[]) -> bf16[4,16,128] {
  %param_2 = bf16[4,16,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_3 = bf16[1,1,128]{2,1,0:T(1,128)S(1)} parameter(1)
  %param_4 = s32[]{:T(128)} parameter(2)
  ROOT %put = bf16[4,16,128]{2,1,0:T(8,128)(2,1)} dynamic-update-slice(%param_2, %param_3, %param_4)
}

%body (carried: (s32[], bf16[4,16,128], f32[10,64])) -> (s32[], bf16[4,16,128], f32[10,64]) {
  %carried = (s32[]{:T(128)}, bf16[4,16,128]{2,1,0:T(8,128)(2,1)}, f32[10,64]{1,0:T(8,128)}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%carried), index=0
  %cache = bf16[4,16,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%carried), index=1
  %weights = f32[10,64]{1,0:T(8,128)} get-tuple-element(%carried), index=2
  %read = bf16[1,16,128]{2,1,0:T(8,128)(2,1)S(1)} fusion(%cache, %at), kind=kLoop, calls=%fused_slice
  %ahead = (f32[10,64]{1,0:T(8,128)S(1)}, f32[10,64]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%weights)
  %here = f32[10,64]{1,0:T(8,128)S(1)} copy-done(%ahead)
  %row = bf16[1,1,128]{2,1,0:T(1,128)S(1)} custom-call(%read, %here), custom_call_target="product"
  %new = bf16[4,16,128]{2,1,0:T(8,128)(2,1)} fusion(%cache, %row, %at), kind=kLoop, calls=%fused_write
  ROOT %next = (s32[], bf16[4,16,128]{2,1,0:T(8,128)(2,1)}, f32[10,64]{1,0:T(8,128)}) tuple(%at, %new, %weights)
}

%test (carried.1: (s32[], bf16[4,16,128], f32[10,64])) -> pred[] {
  %carried.1 = (s32[]{:T(128)}, bf16[4,16,128]{2,1,0:T(8,128)(2,1)}, f32[10,64]{1,0:T(8,128)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%carried.1), index=0
  %bound = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%count, %bound), direction=LT
}

ENTRY %main (start: (s32[], bf16[4,16,128], f32[10,64])) -> (s32[], bf16[4,16,128], f32[10,64]) {
  %start = (s32[]{:T(128)}, bf16[4,16,128]{2,1,0:T(8,128)(2,1)}, f32[10,64]{1,0:T(8,128)}) parameter(0)
  ROOT %loop = (s32[], bf16[4,16,128], f32[10,64]) while(%start), condition=%test, body=%body
}
"""


def test_a_loop_reads_slices_and_padded_tiles_and_writes_the_new_row():
    layer, padded_weights, row = 16 * 128 * 2, 16 * 128 * 4, 128 * 2
    assert hbm_bytes(LOOP) == HbmBytes(5.0 * (layer + padded_weights), 5.0 * row)


def test_an_array_that_is_copied_whole_counts_whole():
    copied = LOOP.replace("fusion(%cache, %row, %at), kind=kLoop, calls=%fused_write", "copy(%cache)")
    whole = 4 * 16 * 128 * 2
    assert hbm_bytes(copied).written == 5 * whole
    assert hbm_bytes(copied).read == hbm_bytes(LOOP).read + 5 * whole


def test_a_loop_of_unknown_length_is_an_error():
    with pytest.raises(ValueError, match="expected loops of known length, got body"):
        hbm_bytes(LOOP.replace("s32[]{:T(128)} constant(5)", "s32[]{:T(128)} get-tuple-element(%carried.1), index=0"))
