"""Libraries that are not installed here: stand-ins of the same names and signatures, which the adapters have to suit.

A stand-in computes what the library documents, and refuses layouts that the library's kernel does not take.
"""

import importlib
import sys
from functools import partial

import jax
import pytest

from normbench import kernels
from normbench.cases.case import Case
from normbench.kernels import Problem
from normbench.kernels.peers import jax_libraries as jax_peers
from normbench.kernels.peers import torch_variants
from normbench.kernels.registry import PEERS
from normbench.study.check.accuracy import Oracle
from normbench.study.worker.compiled_case import check, compile_case, inputs_of

LIGER = """
from torch.nn import functional as F

def liger_layer_norm(X, W, B, eps):
    assert X.shape[-1:] == W.shape
    return F.layer_norm(X, W.shape, W, B, eps)

def liger_rms_norm(X, W, eps, offset=0.0, casting_mode="llama", in_place=True):
    assert not in_place, "the cotangent would be written over"
    return F.rms_norm(X, W.shape, W, eps)

def liger_group_norm(X, affine_scaling_weight, affine_shifting_bias, num_channels, num_groups, eps):
    assert X.shape[1] == num_channels and X.is_contiguous()
    return F.group_norm(X, num_groups, affine_scaling_weight, affine_shifting_bias, eps)
"""
QUACK = """
import torch
from torch.nn import functional as F

def rmsnorm(x, weight=None, bias=None, residual=None, out_dtype=None, residual_dtype=None, eps=1e-6, prenorm=False):
    assert bias is None and residual is None and x.dim() == 2
    return F.rms_norm(x, weight.shape, weight, eps)

def layernorm_fwd(x, weight, bias=None, eps=1e-6, return_rstd=False, return_mean=False):
    assert x.dim() == 2 and weight.dtype == bias.dtype == torch.float32
    return F.layer_norm(x, weight.shape, weight, bias, eps)
"""
APEX = """
from torch.nn import functional as F

def fused_layer_norm_affine(input, weight, bias, normalized_shape, eps=1e-6, memory_efficient=False):
    assert input.dtype == weight.dtype == bias.dtype
    return F.layer_norm(input, normalized_shape, weight, bias, eps)

def fused_rms_norm_affine(input, weight, normalized_shape, eps=1e-6, memory_efficient=False):
    assert input.dtype == weight.dtype
    return F.rms_norm(input, normalized_shape, weight, eps)
"""
APEX_GROUPS = """
import torch
from torch.nn import functional as F

__all__ = ["GroupNorm"]
GroupNorm = None

def cuda_group_norm_nhwc_one_pass(x, G, weight, bias, eps, act=""):
    assert x.is_contiguous(memory_format=torch.channels_last) and x.shape[2] * x.shape[3] <= 1024
    return F.group_norm(x, G, weight, bias, eps)

def cuda_group_norm_nhwc_two_pass(x, G, weight, bias, eps, act=""):
    assert x.is_contiguous(memory_format=torch.channels_last) and x.shape[2] * x.shape[3] > 1024
    return F.group_norm(x, G, weight, bias, eps)
"""
TOKAMAX = """
import jax.numpy as jnp

def layer_norm(x, scale, offset, *, axis=-1, epsilon=1e-06, scale_offset=0.0, subtract_mean=True, implementation=None):
    assert scale.ndim == 1 and (offset is None) != subtract_mean
    wide = x.astype(jnp.float32)
    wide = wide - wide.mean(axis, keepdims=True) if subtract_mean else wide
    y = wide / jnp.sqrt((wide**2).mean(axis, keepdims=True) + epsilon) * scale
    return (y if offset is None else y + offset).astype(x.dtype)
"""
ENGINE = """
import jax.numpy as jnp

def layernorm(x, gamma, beta, norm_type, zero_centered_gamma=False, epsilon=1e-6, quantizer=None):
    assert gamma.dtype == x.dtype and gamma.shape == x.shape[-1:] and not zero_centered_gamma
    assert {"layernorm": beta is not None, "rmsnorm": beta is None}[norm_type]
    wide = x.astype(jnp.float32)
    wide = wide - wide.mean(-1, keepdims=True) if norm_type == "layernorm" else wide
    y = wide / jnp.sqrt((wide**2).mean(-1, keepdims=True) + epsilon) * gamma
    return (y if beta is None else y + beta).astype(x.dtype)
"""
STAND_INS = {
    "liger_kernel/transformers/functional": LIGER,
    "quack/rmsnorm": QUACK,
    "apex/normalization/fused_layer_norm": APEX,
    "apex/contrib/group_norm/group_norm": APEX_GROUPS,
    "tokamax/__init__": TOKAMAX,
    "transformer_engine/jax/layernorm": ENGINE,
}
NAMES = {
    # As the packages' own: these names hide the modules.
    "quack/__init__": "from quack.rmsnorm import rmsnorm\n",
    "apex/contrib/group_norm/__init__": "from .group_norm import *\n",
}
ROWS = {"shape": (2, 5, 16), "layout": "nlc"}
TORCH_CASES = (
    ("liger", Problem("layer_norm", **ROWS, pass_="forward_backward")),
    ("liger", Problem("rms_norm", **ROWS, dtype="bfloat16", param_dtype="bfloat16")),
    ("liger", Problem("group_norm", (2, 8, 3, 4), options=(("groups", 4),))),
    ("quack", Problem("layer_norm", **ROWS, dtype="bfloat16", param_dtype="bfloat16", context="residual")),
    ("quack", Problem("rms_norm", **ROWS, pass_="forward_backward", context="silu")),
    ("apex", Problem("layer_norm", **ROWS, dtype="bfloat16")),
    ("apex", Problem("rms_norm", **ROWS)),
    ("apex", Problem("group_norm", (2, 3, 4, 32), "nhwc", options=(("groups", 16),))),
    ("apex", Problem("group_norm", (1, 33, 32, 16), "nhwc", options=(("groups", 16),))),
)
JAX_CASES = tuple(
    (name, Problem(operator, **ROWS, dtype=dtype, pass_=pass_))
    for name in ("tokamax", "transformer_engine")
    for operator, dtype, pass_ in (("layer_norm", "float32", "forward_backward"), ("rms_norm", "bfloat16", "forward"))
)


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """The libraries, on the path ahead of any that are installed."""
    for name, text in {**STAND_INS, **NAMES}.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in list(path.relative_to(tmp_path).parents)[:-1]:
            (tmp_path / folder / "__init__.py").touch()
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    libraries = {name.partition("/")[0] for name in STAND_INS}

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] in libraries]:
            del sys.modules[name]
        importlib.invalidate_caches()

    forget()
    yield tmp_path
    forget()


@pytest.mark.parametrize(("name", "problem"), TORCH_CASES)
def test_a_library_for_pytorch_is_called_as_it_documents(stand_ins, monkeypatch, name, problem):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from normbench.kernels.peers.torch_libraries import LIBRARIES
    from normbench.kernels.peers.torch_program import hosted

    monkeypatch.setattr(torch_variants, "_without_cuda", lambda: False)
    assert kernels.get(problem.operator, name).supports(problem, "gpu") is None
    program = kernels.program(problem, name)
    one = hosted(LIBRARIES[name], problem, "cpu")
    oracle = Oracle(problem, seed=0)
    inputs = inputs_of(program, oracle, one)
    found = oracle.check(program, one.fetch(one.call(*inputs)))
    assert found.ok, found.reason


@pytest.mark.parametrize(("name", "problem"), JAX_CASES)
def test_a_library_for_jax_is_called_as_it_documents(stand_ins, name, problem):
    assert kernels.get(problem.operator, name).supports(problem, "gpu") is None
    program = kernels.program(problem, name)
    oracle = Oracle(problem, seed=0)
    found = oracle.check(program, jax.jit(program.function)(*inputs_of(program, oracle)))
    assert found.ok, found.reason


def test_a_library_for_jax_has_launches_as_ours_have(stand_ins, tmp_path):
    problem = Problem("rms_norm", **ROWS)
    (tmp_path / "hlo").mkdir()
    compiled, tables = compile_case(Case(problem, "tokamax"), "cpu", tmp_path)
    oracle = Oracle(problem, seed=0)
    assert check(compiled, inputs_of(compiled.program, oracle), oracle, "cpu").ok
    assert tables["launches"]


@pytest.mark.parametrize(("operator", "options"), [("layer_norm", (("ndim", 2),)), ("rms_norm", ())])
def test_the_kernels_of_jax_itself_compute_the_same(monkeypatch, operator, options):
    """Interpreted: a CPU cannot compile them."""
    from normbench.jax_compat import peers as jax_compat_peers

    name = f"pallas_ops_{operator}"
    kernel = getattr(jax_compat_peers, name)()
    monkeypatch.setattr(jax_compat_peers, name, lambda: partial(kernel, interpret=True))
    problem = Problem(operator, (2, 4, 8), "nlc", options=options)
    program = kernels.program(problem, "pallas_ops_gpu")
    oracle = Oracle(problem, seed=0)
    found = oracle.check(program, jax.jit(program.function)(*inputs_of(program, oracle)))
    assert found.ok, found.reason


@pytest.mark.parametrize("context", ["alone", "relu"])
def test_standardize_normalizes_with_statistics_that_are_given(context):
    problem = Problem("batch_norm", (2, 5, 4, 8), "nhwc", "bfloat16", context=context)
    program = kernels.program(problem, "jax_nn")
    oracle = Oracle(problem, seed=0)
    assert oracle.check(program, jax.jit(program.function)(*inputs_of(program, oracle))).ok


def test_flax_normalizes_with_statistics_that_are_given():
    pytest.importorskip("flax", reason="Flax is not installed")
    problem = Problem("batch_norm", (2, 8, 5, 4), pass_="forward_backward")
    program = kernels.program(problem, "flax")
    oracle = Oracle(problem, seed=0)
    assert oracle.check(program, jax.jit(program.function)(*inputs_of(program, oracle))).ok


@pytest.mark.parametrize(
    ("name", "problem", "target", "reason"),
    [
        ("liger", Problem("group_norm", (2, 3, 4, 64), "nhwc"), "gpu", "channels on axis 1"),
        ("liger", Problem("layer_norm", **ROWS), "cpu", "runs on the GPU"),
        ("quack", Problem("layer_norm", **ROWS, pass_="forward_backward"), "gpu", "no gradient"),
        ("quack", Problem("rms_norm", **ROWS, options=(("ndim", 2),)), "gpu", "last axis alone"),
        ("apex", Problem("group_norm", (2, 64, 3, 4)), "gpu", "channels last"),
        ("apex", Problem("rms_norm", **ROWS, dtype="float64", param_dtype="float64"), "gpu", "no float64"),
        ("tokamax", Problem("rms_norm", **ROWS), "h200", "device of this machine"),
        ("transformer_engine", Problem("rms_norm", **ROWS), "cpu", "runs on the GPU"),
        ("pallas_ops_gpu", Problem("rms_norm", **ROWS), "cpu", "for GPUs"),
        ("pallas_ops_gpu", Problem("rms_norm", **ROWS), "h200", None),
    ],
)
def test_reasons(monkeypatch, name, problem, target, reason):
    for module in (jax_peers, torch_variants):
        monkeypatch.setattr(module, "find_spec", lambda name: name)
    found = kernels.get(problem.operator, name).supports(problem, target)
    assert found is None if reason is None else reason in found


def test_every_library_that_is_missing_says_so(monkeypatch):
    for module in (
        "normbench.kernels.peers.jax_libraries",
        "normbench.kernels.peers.torch_variants",
        "normbench.kernels.peers.missing",
    ):
        monkeypatch.setattr(importlib.import_module(module), "find_spec", lambda name: None)
    part_of_jax = ("jax_nn", "pallas_ops_gpu")
    for operator in kernels.operators():
        for name in set(kernels.variants(operator, PEERS)) - set(part_of_jax):
            reason = kernels.get(operator, name).supports(Problem(operator, (2, 3, 4, 8), "nhwc"), "gpu")
            assert "is not installed" in reason
