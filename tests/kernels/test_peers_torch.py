"""PyTorch as a peer: right in every pass and layout, refused with reasons, and never imported before it is compiled."""

import os
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest

from normbench import kernels
from normbench.cases.case import Case
from normbench.errors import UserError
from normbench.kernels import Problem
from normbench.kernels.peers import torch_variants
from normbench.study.check.accuracy import Oracle
from normbench.study.clocks.host import Instruments, pipelined
from normbench.study.clocks.memory import copies, tree_bytes
from normbench.study.worker.compiled_case import Refusal, check, compile_case, inputs_of, outcome_of

GROUPS = (("groups", 4),)
PROBLEMS = (
    Problem("batch_norm", (2, 8, 5, 4), context="relu"),
    Problem("batch_norm", (2, 5, 4, 8), "nhwc", "bfloat16", context="gelu"),
    Problem("batch_norm_training", (2, 8, 5, 4), dtype="bfloat16", context="cast"),
    Problem("batch_norm_training", (2, 5, 8), "nlc", pass_="forward_backward", context="residual"),
    Problem("layer_norm", (2, 5, 16), "nlc", "float16", pass_="forward_backward", context="residual"),
    Problem("layer_norm", (2, 5, 4, 8), "nhwc", options=(("ndim", 3),)),
    Problem("rms_norm", (2, 5, 16), "nlc", "bfloat16", context="silu"),
    Problem("group_norm", (2, 8, 5, 4), options=GROUPS),
    Problem("group_norm", (2, 9, 8), "nlc", "bfloat16", options=GROUPS),
    Problem("instance_norm", (2, 5, 4, 8), "nhwc", pass_="forward_backward"),
    Problem("local_response_norm", (2, 5, 4, 8), "nhwc", options=(("size", 4),)),
)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def compiled(problem, variant, folder):
    found, tables = compile_case(Case(problem, variant), "cpu", folder)
    return found, tables["compiled"][0]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: f"{problem.operator}-{problem.pass_}")
def test_eager_is_right(torch, problem, tmp_path):
    one, row = compiled(problem, "torch_eager", tmp_path)
    oracle = Oracle(problem, seed=0)
    inputs = inputs_of(one.program, oracle, one.hosted)
    leaves = jax.tree.leaves(inputs)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    found = check(one, inputs, oracle, "cpu")
    assert found.ok, found.reason
    assert row["status"] == "ok"
    assert row["minimum_bytes"] == tree_bytes(one.program.inputs) + tree_bytes(one.result(inputs))
    assert row.get("launches") is None


def test_float64_is_right(torch, tmp_path):
    with jax.enable_x64(True):
        problem = Problem("rms_norm", (4, 8), "nc", "float64", "float64")
        one, _ = compiled(problem, "torch_eager", tmp_path)
        oracle = Oracle(problem, seed=0)
        found = check(one, inputs_of(one.program, oracle, one.hosted), oracle, "cpu")
    assert found.max_rel < 1e-14


def test_compiled_is_right(torch, monkeypatch, tmp_path):
    """Traced and differentiated as ever; without the backend's C++, which takes many seconds."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    problem = Problem("layer_norm", (2, 5, 16), "nlc", pass_="forward_backward", context="gelu")
    if reason := kernels.get("layer_norm", "torch_compile").supports(problem, "cpu"):
        pytest.skip(reason)
    one, _ = compiled(problem, "torch_compile", tmp_path)
    oracle = Oracle(problem, seed=0)
    found = check(one, inputs_of(one.program, oracle, one.hosted), oracle, "cpu")
    assert found.ok, found.reason


def test_channels_last_are_placed_as_a_view_of_that_memory_format(torch, tmp_path):
    problem = Problem("batch_norm", (2, 5, 4, 8), "nhwc")
    one, _ = compiled(problem, "torch_eager", tmp_path)
    inputs = inputs_of(one.program, Oracle(problem, seed=0), one.hosted)
    assert inputs[0].shape == (2, 8, 5, 4)
    assert inputs[0].is_contiguous(memory_format=torch.channels_last)
    assert one.call(*inputs).is_contiguous(memory_format=torch.channels_last)
    assert one.result(inputs).shape == problem.shape


def test_copies_lie_in_memory_of_their_own_and_can_be_differentiated(torch, tmp_path):
    problem = Problem("layer_norm", (2, 5, 16), "nlc", "bfloat16", pass_="forward_backward", context="residual")
    one, _ = compiled(problem, "torch_eager", tmp_path)
    inputs = inputs_of(one.program, Oracle(problem, seed=0), one.hosted)
    sets = [inputs, *copies(inputs, 2, one.hosted.copy)]
    addresses = [leaf.data_ptr() for one_set in sets for leaf in jax.tree.leaves(one_set)]
    assert len(set(addresses)) == len(addresses)
    results = [jax.tree.leaves(one.result(one_set)) for one_set in sets]
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    sample = pipelined(one.call, sets, Instruments(block=one.block))
    assert sample.calls == len(sets)


def test_as_many_threads_as_there_are_cores_for_xla(torch, tmp_path):
    compiled(PROBLEMS[0], "torch_eager", tmp_path)
    assert torch.get_num_threads() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("problem", "variant", "target", "reason"),
    [
        (PROBLEMS[0], "torch_eager", "h200", "device of this machine"),
        (Problem("batch_norm", (4, 8), "nc", pass_="forward_backward"), "torch_eager", "cpu", "running statistics"),
        (Problem("batch_norm", (8,), "c"), "torch_compile", "cpu", "axes or more"),
        (Problem("layer_norm", (4, 8), "nc", pass_="backward"), "torch_eager", "cpu", "forward pass"),
        (Problem("layer_norm", (4, 8), "nc", param_dtype="float16"), "torch_eager", "cpu", "x's dtype"),
        (Problem("layer_norm", (4, 8), "nc", "float16"), "torch_eager", "cpu", None),
    ],
)
def test_reasons(monkeypatch, problem, variant, target, reason):
    monkeypatch.setattr(torch_variants, "find_spec", lambda name: name)
    found = kernels.get(problem.operator, variant).supports(problem, target)
    assert found is None if reason is None else reason in found


def test_the_reason_without_pytorch(monkeypatch, tmp_path):
    monkeypatch.setattr(torch_variants, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match="not installed") as raised:
        compile_case(Case(PROBLEMS[0], "torch_eager"), "cpu", tmp_path)
    assert raised.value.status == "unsupported"


@pytest.mark.parametrize("error", [ImportError("undefined symbol: f"), RuntimeError("not implemented for 'Half'")])
def test_what_a_library_cannot_do_is_not_supported_in_its_own_words(error):
    status, reason = outcome_of(Case(PROBLEMS[0], "torch_eager"), error)
    assert status == "unsupported"
    assert str(error) in reason
    assert outcome_of(Case(PROBLEMS[0], "naive"), error)[0] == "failed"
    assert outcome_of(Case(PROBLEMS[0], "torch_eager"), MemoryError())[0] == "out_of_memory"


def test_a_program_of_pytorch_is_not_called_as_jax():
    with pytest.raises(UserError, match="program of PyTorch"):
        kernels.get("layer_norm", "torch_eager")(np.ones((2, 4)), np.ones(4), np.ones(4))


def test_naming_the_peers_imports_none():
    code = (
        "import sys; from normbench import kernels; from normbench.kernels.registry import PEERS; "
        "names = kernels.variants('layer_norm', PEERS); assert {'torch_eager', 'apex', 'tokamax'} <= set(names); "
        "problem = kernels.Problem('layer_norm', (2, 4), 'nc'); "
        "[kernels.get('layer_norm', name).supports(problem, 'gpu') for name in names]; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'flax', 'tokamax', 'triton', 'apex', 'quack')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
