"""What cannot be compiled without the device is said in one line; what can be compiled another way is, and said so."""

import functools
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import explain
from normbench.errors import UserError
from normbench.explanation.call import prepared_call
from normbench.explanation.lowering import lowered_call
from normbench.fusion.compilation import compile_bytecode_for
from normbench.fusion.isolation import CompileError
from tests.explanation.programs import BF16, array, attention_arguments, attention_output

needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets"
)
X = array(8, 16)


def one_line(function, *args, error=UserError, target="h200"):
    with pytest.raises(error) as caught:
        explain(function, *args, target=target)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def _calls(kind):
    shape = jax.ShapeDtypeStruct((8, 16), np.float32)
    return {
        "pure_callback": lambda x: jax.pure_callback(np.sin, shape, x),
        "io_callback": lambda x: jax.experimental.io_callback(np.sin, shape, x),
        "debug_callback": lambda x: (jax.debug.callback(lambda y: None, x), x * 2)[1],
        "debug_print": lambda x: (jax.debug.print("{}", x), x * 2)[1],
    }[kind]


@needs_plugin
@pytest.mark.parametrize("kind", ["pure_callback", "io_callback", "debug_callback", "debug_print"])
def test_a_callback_is_named_wherever_it_is(kind):
    inside = _calls(kind)
    looped = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jax.lax.cond(y.sum() > 0, inside, jnp.sin, y), x))
    for function in (inside, looped):
        line = one_line(function, X)
        assert f"calls back into Python ({kind})" in line
        assert "'cpu'" in line


def test_a_callback_is_a_launch_on_the_cpu():
    report = explain(_calls("debug_print"), X, target="cpu")
    assert report.launches["kind"].str.contains("call|library").any()


@needs_plugin
def test_attention_of_cudnn_says_what_to_take_instead():
    attention = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    query = array(1, 128, 4, 64, dtype=BF16)
    assert "implementation='xla'" in one_line(attention, query, query, query)


@needs_plugin
def test_an_unknown_custom_call_is_named():
    called = lambda x: jax.ffi.ffi_call("of_somebody_else", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)  # noqa: E731
    assert "knows no custom call 'of_somebody_else'" in one_line(called, X, error=CompileError)


@needs_plugin
def test_what_cannot_be_lowered_is_one_line():
    assert "JAX cannot lower the function for 'h200'" in one_line(jnp.linalg.eig, array(8, 8), error=CompileError)


@needs_plugin
@pytest.mark.parametrize("target", ["h200", "a100"])
def test_what_does_not_fit_the_device_is_said_before_it_is_compiled(target, monkeypatch):
    monkeypatch.setattr("normbench.explanation.explain.compiler", lambda target: pytest.fail("it was compiled"))
    line = one_line(lambda x: x * 2, array(2**21, 2**21), target=target)
    assert f"arguments of 17.6 TB and results of 17.6 TB do not fit '{target}'" in line


@needs_plugin
def test_a_donated_argument_and_the_result_in_its_place_count_once():
    large = array(20_000_000_000)
    lowered_call(prepared_call(jax.jit(lambda x: x + 1, donate_argnums=0), (large,), {}), "h200")
    with pytest.raises(UserError, match=r"80\.0 GB and results of 80\.0 GB do not fit"):
        lowered_call(prepared_call(lambda x: x + 1, (large,), {}), "h200")


@needs_plugin
def test_attention_with_12_heads_and_197_tokens_compiles_and_the_report_says_how():
    report = explain(attention_output, *attention_arguments())
    assert len(report.launches) > 0
    if jax.__version_info__ < (0, 12):
        (note,) = report.notes
        assert note.startswith("compiled with --xla_gpu_enable_triton_gemm=false")
        assert "notes:\n  - compiled with --xla_gpu_enable_triton_gemm=false" in repr(report)
        assert note in json.loads(report.compilation.compiled_row()["hints"])
        assert "triton" not in set(report.launches["kind"][report.launches["source_ops"] == "dot_general"])
    else:
        assert report.notes == ()


@needs_plugin
def test_a_flag_of_the_users_own_is_left_alone(monkeypatch):
    if jax.__version_info__ >= (0, 12):
        pytest.skip("compiles at once")
    bytecode, _ = lowered_call(prepared_call(attention_output, attention_arguments(), {}), "h200")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true")
    with pytest.raises(Exception, match=r"tile sizes|No supported config"):
        compile_bytecode_for(bytecode, "h200", 0.0)


@needs_plugin
def test_what_does_not_fit_at_its_peak_is_noted():
    report = explain(lambda x: jax.lax.optimization_barrier(x * 2).sum(), array(20_000_000, 1000))
    (note,) = report.notes
    assert note.startswith("the program needs 160.0 GB at its peak, more than the 151.4 GB of 'h200'")
