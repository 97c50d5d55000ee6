"""Optimised modules written down as HLO text: what no compiler here emits, or only for several devices."""

from normbench.fusion.hlo import read_module
from normbench.fusion.program.graph import read_graph


def program(text):
    """The graph of a module given as HLO text."""
    from jax._src.lib import xla_client

    return read_graph(read_module(xla_client.hlo.hlo_module_from_text(text).as_serialized_hlo_module_proto()))


COPY_FROM_HOST = """
HloModule host, is_scheduled=true, entry_computation_layout={(f32[1024]{0:S(5)})->f32[1024]{0}}

ENTRY %main (x: f32[1024]) -> f32[1024] {
  %x = f32[1024]{0:S(5)} parameter(0)
  %copy-start = (f32[1024]{0}, f32[1024]{0:S(5)}, u32[]) copy-start(%x)
  ROOT %copy-done = f32[1024]{0} copy-done(%copy-start)
}
"""

COPY_ON_THE_DEVICE = """
HloModule device, is_scheduled=true, entry_computation_layout={(f32[1024]{0})->f32[1024]{0}}

ENTRY %main (x: f32[1024]) -> f32[1024] {
  %x = f32[1024]{0} parameter(0)
  %copy-start = (f32[1024]{0}, f32[1024]{0}, u32[]) copy-start(%x)
  ROOT %copy-done = f32[1024]{0} copy-done(%copy-start)
}
"""

COLLECTIVES = """
HloModule collectives, is_scheduled=true, replica_count=4, entry_computation_layout={(f32[256]{0})->(f32[1024]{0}, f32[256]{0})}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

ENTRY %main (x: f32[256]) -> (f32[1024], f32[256]) {
  %x = f32[256]{0} parameter(0)
  %all-gather-start = (f32[256]{0}, f32[1024]{0}) all-gather-start(%x), replica_groups={{0,1,2,3}}, dimensions={0}
  %all-gather-done = f32[1024]{0} all-gather-done(%all-gather-start)
  %all-reduce-start = f32[256]{0} all-reduce-start(%x), replica_groups={{0,1,2,3}}, to_apply=%sum
  %all-reduce-done = f32[256]{0} all-reduce-done(%all-reduce-start)
  ROOT %tuple = (f32[1024]{0}, f32[256]{0}) tuple(%all-gather-done, %all-reduce-done)
}
"""  # noqa: E501

LIBRARY_CALL = """
HloModule library, is_scheduled=true, entry_computation_layout={(f32[64,32]{1,0}, f32[32,16]{1,0})->f32[64,16]{1,0}}

ENTRY %main (x: f32[64,32], w: f32[32,16]) -> f32[64,16] {
  %x = f32[64,32]{1,0} parameter(0)
  %w = f32[32,16]{1,0} parameter(1)
  %gemm = (f32[64,16]{1,0}, s8[33554432]{0}) custom-call(%x, %w), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}
  ROOT %result = f32[64,16]{1,0} get-tuple-element(%gemm), index=0
}
"""  # noqa: E501

UPDATE_OF_ZEROS = """
HloModule zeros, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[1024]{0}}

%fused (update: f32[8]) -> f32[1024] {
  %update = f32[8]{0} parameter(0)
  %zero = f32[] constant(0)
  %zeros = f32[1024]{0} broadcast(%zero), dimensions={}
  %place = s32[] constant(16)
  ROOT %updated = f32[1024]{0} dynamic-update-slice(%zeros, %update, %place)
}

ENTRY %main (x: f32[8]) -> f32[1024] {
  %x = f32[8]{0} parameter(0)
  ROOT %fusion = f32[1024]{0} fusion(%x), kind=kLoop, calls=%fused
}
"""

SLICE_OF_A_SLICE = """
HloModule unrolled, is_scheduled=true, entry_computation_layout={(f32[5,4,256]{2,1,0}, s32[])->f32[256]{0}}

%fused (stacked: f32[5,4,256], place: s32[]) -> f32[256] {
  %stacked = f32[5,4,256]{2,1,0} parameter(0)
  %place = s32[] parameter(1)
  %zero = s32[] constant(0)
  %several = f32[1,4,256]{2,1,0} dynamic-slice(%stacked, %place, %zero, %zero), dynamic_slice_sizes={1,4,256}
  %rows = f32[4,256]{1,0} bitcast(%several)
  %row = f32[1,256]{1,0} slice(%rows), slice={[2:3], [0:256]}
  %flat = f32[256]{0} bitcast(%row)
  ROOT %result = f32[256]{0} negate(%flat)
}

ENTRY %main (x: f32[5,4,256], i: s32[]) -> f32[256] {
  %x = f32[5,4,256]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %fusion = f32[256]{0} fusion(%x, %i), kind=kLoop, calls=%fused
}
"""
