"""Walks over PTX written for the purpose: what is counted, what is waited for, and that skipped loops lose nothing."""

import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench.fusion.targets import deviceless_target
from normbench.predict import repeats
from normbench.predict.devices import device_of
from normbench.predict.integers import signed
from normbench.predict.ptx import decode
from normbench.predict.timeline import Walk
from normbench.predict.trace import trace_of

H200 = device_of(deviceless_target("h200"))

LOOP = """.entry walk(
	.param .u64 .ptr .global walk_param_0,
	.param .u64 .ptr .global walk_param_1
)
.reqntid 128
{{
	.reg .pred 	%p<9>;
	.reg .b32 	%r<20>;
	.reg .b64 	%rd<20>;
	ld.param.u64 	%rd1, [walk_param_0];
	ld.param.u64 	%rd2, [walk_param_1];
	mov.u32 	%r1, %ctaid.x;
	mul.wide.u32 	%rd3, %r1, 4096;
	add.s64 	%rd4, %rd1, %rd3;
	mov.b32 	%r2, {start};
	mov.b32 	%r8, 0;
$L__outer:
	mov.b32 	%r4, 0;
$L__inner:
	ld.global.v4.b32 	{{%r10, %r11, %r12, %r13}}, [%rd4+16];
	ld.global.b32 	%r14, [%rd2+4];
	add.s32 	%r15, %r10, %r14;
	shfl.sync.bfly.b32 	%r16, %r15, 1, 31, -1;
	st.shared.b32 	[%r4], %r16;
	rem.u32 	%r5, %r4, 3;
	setp.eq.s32 	%p3, %r5, 0;
	@%p3 bar.sync 	0;
	add.s32 	%r4, %r4, 1;
	add.s64 	%rd4, %rd4, 64;
	setp.lt.s32 	%p1, %r4, {inner};
	@%p1 bra 	$L__inner;
	add.s32 	%r2, %r2, {step};
	add.s32 	%r8, %r8, 1;
	setp.{compare} 	%p2, %r2, {bound};
	@%p2 bra 	$L__outer;
	st.global.b32 	[%rd4], %r16;
	ret;
}}
"""


def turns(start, step, bound, compare):
    """How often the body of a loop that tests at its end runs."""
    holds = {"lt": int.__lt__, "gt": int.__gt__, "ne": int.__ne__}[compare]
    count = 0
    while True:
        start += step
        count += 1
        if not holds(start, bound):
            return count


@settings(max_examples=25, deadline=None)
@given(
    inner=st.integers(1, 200), outer=st.integers(1, 60), step=st.sampled_from([1, 3, -1, -2]),
    start=st.sampled_from([0, 7, -1, -64, -1000]), ends_at_0=st.booleans(), kind=st.sampled_from(["s32", "b32", "u32"]),
)  # fmt: skip
def test_skipped_loops_lose_nothing(inner, outer, step, start, ends_at_0, kind):
    """Among them such as count up from below 0 and end there, as LLVM likes to write them."""
    start = -outer * step if ends_at_0 else start
    bound = start + outer * step
    compare = "ne" if kind != "s32" else "lt" if step > 0 else "gt"
    text = LOOP.format(start=start, inner=inner, step=step, bound=bound, compare=f"{compare}.{kind}")
    found = trace_of(text, "264", "128", H200)
    times = inner * turns(start, step, bound, compare)
    assert found.loaded == 20 * times
    assert found.loaded_of_all == 4 * times  # its address is the same for all blocks
    assert found.stored == 4
    assert found.shuffles == times
    assert found.shared == 4 * times
    assert found.barriers == -(-inner // 3) * (times // inner)


def test_a_loop_is_skipped_and_takes_as_long(monkeypatch):
    text = LOOP.format(start=0, inner=300, step=1, bound=20, compare="lt.s32")
    executed = []
    plain = Walk._execute
    monkeypatch.setattr(Walk, "_execute", lambda self, step: (executed.append(step), plain(self, step)))
    quick = Walk(decode(text), H200, 0, (264, 1, 1), (128, 1, 1)).run()
    few = len(executed)
    monkeypatch.setattr(repeats.Repeats, "turn", lambda self, at, state: True)
    slow = Walk(decode(text), H200, 0, (264, 1, 1), (128, 1, 1)).run()
    assert few < (len(executed) - few) / 10
    assert quick.state.clock == pytest.approx(slow.state.clock, rel=0.02)
    assert quick.state.tally["walked"] == slow.state.tally["walked"]


def test_a_loop_that_never_ends_is_left():
    text = LOOP.format(start=0, inner=2, step=0, bound=5, compare="lt.s32")
    assert not trace_of(text, "1", "128", H200).truncated


SPIN = """.entry spin(
	.param .u64 spin_param_0
)
{
	mov.b32 	%r1, 64;
	mbarrier.arrive.expect_tx.shared.b64 	%rd3, [slot], %r1;
	mov.u32 	%r2, %ctaid.x;
	elect.sync 	%r7|%p2, -1;
	@%p2 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r3], [%rd1, {%r2, %r2}], [slot];
	{
	.reg .pred P1;
	LAB_WAIT:
	mbarrier.try_wait.parity.shared.b64 P1, [slot], %r4;
	@P1 bra.uni DONE;
	bra.uni LAB_WAIT;
	DONE:
	}
	{
	.reg .pred P1;
	LAB_WAIT:
	mbarrier.try_wait.parity.shared.b64 P1, [slot], %r4;
	@P1 bra.uni DONE;
	bra.uni LAB_WAIT;
	DONE:
	}
	mov.b32 	%r5, 4096;
	@%p2 cp.async.bulk.global.shared::cta.bulk_group [%rd4], [%r3], %r5;
	cp.async.bulk.commit_group;
	cp.async.bulk.wait_group 	0;
	ret;
}
"""


RUN = """.entry run(
	.param .u64 run_param_0
)
{
	elect.sync 	%r7|%p2, -1;
	mov.u32 	%r2, %ctaid.x;
	mul.wide.u32 	%rd1, %r2, 8160;
	selp.b32 	%r1, 8160, 0, %p2;
	mbarrier.arrive.expect_tx.shared.b64 	%rd3, [slot], %r1;
	mov.b32 	%r5, 8160;
	@%p2 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r3], [%rd1], %r5, [slot];
	ret;
}
"""


def test_a_run_is_as_long_as_its_copy_says_however_its_barrier_is_told():
    """8160 bytes are no whole number for each of 128 threads: one of them tells the barrier, the others nothing."""
    assert trace_of(RUN, "8", "128", H200).bulk == 8160


def test_a_tile_is_as_large_as_the_one_thread_says_that_tells_its_barrier():
    tile = RUN.replace("bulk.shared::cta", "bulk.tensor.1d.shared::cta").replace(
        "[%rd1], %r5, [slot]", "[%rd1, {%r2}], [slot]"
    )
    assert trace_of(tile, "8", "128", H200).bulk == 8160


def test_bulk_copies_are_waited_for_by_their_barrier():
    found = trace_of(SPIN, "8", "128", H200)
    assert (found.bulk, found.bulk_of_all) == (64 * 128, 0)  # each of 128 threads expects 64 bytes
    assert found.bulk_stored == 4096
    assert (found.bulk_waits, found.store_waits) == (2, 1)
    arrival = H200.memory_cycles + H200.bulk_cycles + 64 * 128 / H200.bulk_bytes_per_cycle
    assert found.waits["copy in"] == pytest.approx(arrival, rel=0.01)
    assert found.waits["copy out"] == pytest.approx(H200.store_cycles + 4096 / H200.bulk_bytes_per_cycle, rel=0.01)


@settings(deadline=None)
@given(
    st.sampled_from([operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]), st.booleans(),
    *[st.integers(0, 255)] * 2, *[st.integers(-9, 9)] * 2,
)  # fmt: skip
def test_a_comparison_is_foreseen_as_it_comes_out(f, sign, a, b, grows_a, grows_b):
    """Numbers of 8 bits that go round: never later than the outcome changes."""

    def outcome(periods):
        x, y = a + periods * grows_a, b + periods * grows_b
        return f(signed(x, 8), signed(y, 8)) if sign else f(x % 256, y % 256)

    now = ((a + grows_a) % 256, (b + grows_b) % 256)
    foreseen = repeats._changes((f, 8, sign), (a, b), now)
    changes = next((n for n in range(1, 600) if outcome(1 + n) != outcome(1)), None)
    if f in (operator.eq, operator.ne):
        assert foreseen == changes
    else:
        assert changes is None or foreseen <= changes
