"""The command line: what it prints, how it ends, and one line for whatever is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from normbench.cases.case import cases
from normbench.cli import main as cli
from normbench.cli import study as cli_study
from normbench.report.findings.conclusion import resume_command

ROOT = Path(__file__).resolve().parents[2]


def normbench(*arguments, **environment):
    """Runs the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "normbench.cli.main", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
    )


def refused(capsys, *arguments):
    """The one line with which the command refuses, after checking that it is one."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("normbench: error: ")
    return lines[0]


def test_the_package_runs_as_the_command():
    for words, status in ((["list", "--help"], 0), (["study", "--preset", "none"], 2)):
        done = subprocess.run([sys.executable, "-m", "normbench", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == status
        assert "normbench" in done.stdout + done.stderr


def test_help_imports_neither_jax_nor_pandas():
    code = (
        "import sys\nfrom normbench.cli import main as cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "heavy = {'jax', 'pandas', 'numpy', 'normbench.kernels', 'normbench.report'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in ("list", "study", "explain", "report", "gpu", "merge", "doctor"):
        assert command in done.stdout


def _lists_in_a_process(**how):
    code = "import sys\nfrom normbench.cli import main as cli\nsys.exit(cli.main(sys.argv[1:]))"
    words = ("list", "--shapes", how.pop("shapes"), "layer_norm", *TARGET)
    return subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True, **how)


def test_what_an_encoding_lacks_becomes_a_question_mark(tmp_path):
    (tmp_path / "shapes").write_text("4x8x16 # ViT → mine\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = _lists_in_a_process(shapes=str(tmp_path / "shapes"), env=environment, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[ViT ? mine]" in done.stdout


def test_a_current_folder_that_was_removed_is_named(monkeypatch, capsys, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the current folder is no longer there" in refused(capsys, "cache", "stats", "--cache", "x")


def test_standard_output_may_be_closed(tmp_path):
    (tmp_path / "shapes").write_text("4x8x16\n")
    done = _lists_in_a_process(shapes=str(tmp_path / "shapes"), preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["list", "study", "explain", "report", "gpu", "merge", "doctor"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([command, "--help"])
    assert done.value.code == 0
    assert f"normbench {command}" in capsys.readouterr().out


SHAPE = ("--shape", "2x3x4x4")
TARGET = ("--target", "cpu")
BATCH_NORM = ("explain", "batch_norm", "naive")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "COMMAND"),
        (("measure",), "invalid choice: 'measure'"),
        (("list", "--presets", "smoke"), "unrecognized arguments"),
        (("list", "--preset", "tiny"), "unknown preset 'tiny'; allowed: smoke, quick, standard, full, exhaustive"),
        (("list", "--operator", "bn"), "unknown operator 'bn'; allowed: batch_norm"),
        (
            ("list", "--operator", "batch_norm", "--variant", "fast"),
            "unknown variant of batch_norm 'fast'; allowed: naive",
        ),
        (("list", "--target", "h300"), "unknown target 'h300'; allowed: cpu, gpu, h200"),
        (("list", "--import", "no.such.module"), "module 'no.such.module' cannot be imported"),
        (("study", "--target", "h300"), "unknown target 'h300'"),
        (("study", "--processes", "0"), "processes 0: allowed: 1 to 100"),
        (("study", "--processes", "many"), "invalid int value: 'many'"),
        (("study", "--executor", "slurm"), "invalid choice: 'slurm'"),
        (("study", "--resume", "no/such/run"), "no/such/run"),
        (("study", "--resume", "run", "--preset", "smoke"), "leave out --preset"),
        (("study", "--out", "/proc/nowhere", "--target", "cpu"), "output folder '/proc/nowhere' cannot be written"),
        (("report", "no/such/run"), "no/such/run"),
        (("report",), "RUN"),
        (("explain", *TARGET), "OPERATOR"),
        (("explain", "batch_norm", *TARGET), "OPERATOR and VARIANT"),
        (BATCH_NORM, "--shape"),
        ((*BATCH_NORM, *TARGET), "takes one --shape"),
        (("explain", "layernorm", "naive", *SHAPE, *TARGET), "unknown operator 'layernorm'"),
        (("explain", "batch_norm", "fast", *SHAPE, *TARGET), "unknown variant of batch_norm 'fast'"),
        ((*BATCH_NORM, *SHAPE, "--target", "h300"), "unknown target 'h300'"),
        ((*BATCH_NORM, "--shape", "2,3", *TARGET), "shape '2,3'"),
        ((*BATCH_NORM, "--shape", "2x0x4x4", *TARGET), "0 channels"),
        ((*BATCH_NORM, *SHAPE, "--dtype", "int8", *TARGET), "unknown dtype 'int8'"),
        ((*BATCH_NORM, *SHAPE, "--param-dtype", "f8", *TARGET), "unknown dtype 'f8'"),
        ((*BATCH_NORM, *SHAPE, "--layout", "chwn", *TARGET), "unknown layout 'chwn'"),
        ((*BATCH_NORM, *SHAPE, "--layout", "nc", *TARGET), "layout 'nc' has 2 axes but the shape has 4"),
        ((*BATCH_NORM, *SHAPE, "--epsilon", "-1", *TARGET), "epsilon -1.0"),
        ((*BATCH_NORM, *SHAPE, "--epsilon", "nan", *TARGET), "epsilon nan"),
        ((*BATCH_NORM, *SHAPE, "--context", "tanh", *TARGET), "unknown context 'tanh'"),
        ((*BATCH_NORM, *SHAPE, "--pass", "sideways", *TARGET), "invalid choice: 'sideways'"),
        ((*BATCH_NORM, *SHAPE, "--option", "kernel=3", *TARGET), "unknown option of batch_norm 'kernel'"),
        ((*BATCH_NORM, *SHAPE, "--option", "kernel", *TARGET), "expected NAME=VALUE"),
        ((*BATCH_NORM, *SHAPE, "--html", "/proc/x.html", *TARGET, "--function", "a:b"), "--function takes no operator"),
        (("explain", "--function", "jax.nn", *SHAPE, *TARGET), "expected MODULE:NAME"),
        (("explain", "--function", "jax.nn:nothing", *SHAPE, *TARGET), "unknown function of jax.nn 'nothing'"),
        (("explain", "--function", "nowhere:f", *SHAPE, *TARGET), "module 'nowhere' cannot be imported"),
        (("explain", "--function", "math:pi", *SHAPE, *TARGET), "is a float, which cannot be called"),
        (
            ("explain", "--function", "jax.numpy:dot", "--shape", "2x3", "--shape", "4x5", *TARGET),
            "cannot be called with (float32[2, 3], float32[4, 5])",
        ),
        (("explain", "--function", "jax.nn:silu", *TARGET), "cannot be called with ()"),
        (
            ("explain", "--function", "jax.nn:silu", *SHAPE, "--dtype", "f32", "--dtype", "f32", *TARGET),
            "2 --dtype for 1 --shape",
        ),
        (("explain", "--function", "jax.nn:silu", "--shape", "2x-3", *TARGET), "shape '2x-3'"),
        (
            ("explain", "--function", "jax.nn:silu", *SHAPE, "--dtype", "f9", *TARGET),
            "unknown dtype 'f9'; allowed: float32",
        ),
        (
            ("explain", "--function", "jax.nn:silu", "--args", "nowhere", *TARGET),
            "args 'nowhere': expected MODULE:NAME",
        ),
        (("explain", "--function", "jax.nn:silu", "--args", "math:pi", *TARGET), "args 'math:pi' is a float"),
        (("explain", "--function", "jax.nn:silu", "--args", "math:sqrt", *TARGET), "args 'math:sqrt' cannot be called"),
        (("explain", "--function", "jax.nn:silu", "--args", "a:b", *SHAPE, *TARGET), "leave out --shape and --dtype"),
        ((*BATCH_NORM, *SHAPE, "--args", "a:b", *TARGET), "--args makes the arguments of a --function"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments, message, capsys):
    assert message in refused(capsys, *arguments)


def test_bad_usage_has_no_traceback_in_a_process_of_its_own():
    done = normbench("explain", "batch_norm", "naive", "--shape", "2xx3", "--target", "cpu")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "normbench: error: shape '2xx3': expected sizes >= 0 joined by 'x', e.g. 32x64x56x56"
    ]


def test_a_missing_compiler_for_gpu_targets_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    for targets in ((), ("--target", "h200")):
        line = refused(capsys, "study", "--preset", "smoke", "--out", str(tmp_path / "runs"), *targets)
        assert "pip install 'normbench[gpu-targets]'" in line
        assert "--target cpu" in line
    assert not (tmp_path / "runs").exists()


def test_the_target_gpu_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr("normbench.study.machine.environment.gpu_present", lambda: False)
    assert "target 'gpu' is the GPU of this machine, which has none" in refused(capsys, "study", "--target", "gpu")


def test_an_out_that_is_a_file_is_refused_and_kept(capsys, tmp_path):
    path = tmp_path / "runs"
    path.write_text("mine")
    assert "cannot be written" in refused(capsys, "study", "--preset", "smoke", "--target", "cpu", "--out", str(path))
    assert path.read_text() == "mine"


def test_list_has_a_line_per_case_with_its_reasons_and_a_count(capsys):
    assert cli.main(["list", "--preset", "smoke", "--operator", "batch_norm", "--target", "cpu", "h200"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    found = cases("smoke", ["batch_norm"])
    assert [line.split("  ")[0] for line in lines] == [case.slug for case in found]
    unsupported = [line for line in lines if "unsupported on" in line]
    kernels = [case.slug for case in found if case.variant == "native" or case.variant.startswith("pallas_")]
    assert [line.split()[0] for line in unsupported] == kernels
    assert all(("unsupported on cpu" in line) != (".native " in line) for line in unsupported)
    every, some = len(found) - len(kernels), len(kernels)
    assert total == (
        f"{len(found)} cases: {every} supported on every target (cpu, h200), {some} not supported on at least one"
    )


def test_list_is_quiet_when_its_reader_leaves():
    code = f"{sys.executable} -m normbench.cli.main list --preset full | head -n 1"
    done = subprocess.run(code, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_a_module_of_the_users_own_adds_a_variant(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from normbench.kernels.registry import Variant, get, register_variant\n"
        "register_variant(Variant('batch_norm', 'mine', get('batch_norm', 'naive').function, 'A copy.'))\n"
    )
    done = normbench("list", "--preset", "smoke", "--import", "mine", "--variant", "mine", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert ".mine" in done.stdout


def test_doctor_prints_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {"name", "status", "found", "advice"} == set(checks[0])


def test_doctor_prints_a_line_per_finding(capsys):
    assert cli.main(["doctor"]) == 0
    assert "processor" in capsys.readouterr().out


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(monkeypatch, capsys):
    monkeypatch.setattr("normbench.cli.doctor.examine", lambda: 1 / 0)
    assert cli.main(["doctor"]) == 1
    line = "normbench: error: ZeroDivisionError: division by zero (the traceback: repeat the command with --debug)"
    assert capsys.readouterr().err.splitlines() == [line]
    assert cli.main(["doctor", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupted_study_says_how_to_resume(monkeypatch, capsys, tmp_path):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("normbench.study.schedule.study.study", interrupted)
    assert cli.main(["study", "--preset", "smoke", "--target", "cpu", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.splitlines() == ["normbench: interrupted; no run was begun"]

    monkeypatch.undo()
    monkeypatch.setattr("normbench.study.schedule.study._sweep", interrupted)
    assert cli.main(["study", "--preset", "smoke", "--target", "cpu", "--out", str(tmp_path)]) == 130
    (folder,) = tmp_path.iterdir()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"normbench: interrupted; resume with: {resume_command(folder)}"
    assert line.endswith(f"study --resume {folder}")


def test_a_study_is_told_what_was_asked_for(monkeypatch, tmp_path):
    seen = {}

    def study(config):
        seen["config"] = config
        return tmp_path / "run"

    monkeypatch.setattr("normbench.study.schedule.study.study", study)
    monkeypatch.setattr(cli_study, "_conclude", lambda folder, full: seen.setdefault("folder", folder) and 0)
    out = str(tmp_path / "deep" / "runs")
    arguments = ["study", "--preset", "smoke", "--operator", "batch_norm", "--variant", "naive", "folded"]
    assert cli.main([*arguments, "--target", "cpu", "--target", "cpu", "--out", out, "--processes", "2"]) == 0
    config = seen["config"]
    assert config.targets == ("cpu",)
    assert config.processes == 2
    assert config.preset == "smoke"
    assert {case.variant for case in config.cases} == {"naive", "folded"}
    assert config.command.startswith("normbench study --preset smoke")
    assert seen["folder"] == tmp_path / "run"


OURS = "batch_norm.silu.1x256x20x20.nchw.f32.f32.forward.eps0p001.naive"
THEIRS = OURS.replace("naive", "flax")


def _table(statuses, case):
    return pd.DataFrame({"status": pd.array(statuses, "string"), "case": case})


def _tables(case=OURS, **statuses):
    """The three tables that say whether a case failed, all well but for the given ones."""
    names = ("compiled", "timings", "accuracy")
    return SimpleNamespace(**{name: _table(statuses.get(name, ["ok"]), case) for name in names})


def test_unsupported_and_absent_are_no_failures():
    assert not cli_study.any_failed(_tables(compiled=["ok", "unsupported", None], timings=[]))


def test_a_timing_that_is_refused_is_no_failure_of_the_case():
    assert not cli_study.any_failed(_tables(timings=["ok", "impossible"]))


@pytest.mark.parametrize("table", ["compiled", "timings", "accuracy"])
@pytest.mark.parametrize("status", ["failed", "crashed", "out_of_memory", "timeout", "wrong"])
def test_every_other_status_is_a_failure(table, status):
    assert cli_study.any_failed(_tables(**{table: ["ok", status]}))


def test_what_a_peer_gets_wrong_is_no_failure_of_ours():
    assert not cli_study.any_failed(_tables(case=THEIRS, accuracy=["ok", "wrong"]))


def test_explain_of_an_operator_prints_its_report_and_writes_html(capsys, tmp_path):
    page = tmp_path / "explained.html"
    options = ("--shape", "4x8x6x6", "--dtype", "bf16", "--context", "relu", "--html", str(page), "--target", "cpu")
    assert cli.main(["explain", "batch_norm", "naive", *options]) == 0
    assert "launch" in capsys.readouterr().out
    assert "<" in page.read_text()


def test_explain_of_any_function(capsys):
    options = ("--shape", "8x16", "--shape", "16x4", "--dtype", "bfloat16", "--target", "cpu")
    assert cli.main(["explain", "--function", "jax.numpy:dot", *options]) == 0
    assert "launch" in capsys.readouterr().out


def test_explain_of_what_a_variant_does_not_support_says_why(capsys):
    line = refused(capsys, "explain", "batch_norm", "pallas_triton", *SHAPE, *TARGET)
    assert "batch_norm pallas_triton is not supported here on cpu: " in line


def test_explain_where_the_html_cannot_be_written(capsys):
    assert cli.main(["explain", "batch_norm", "naive", *SHAPE, *TARGET, "--html", "/proc/x.html"]) == 2
    assert "HTML file '/proc/x.html' cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shapes", "dtypes", "taken"),
    [
        (("8x16", "()"), ("bf16", "i32"), "(bf16[8,16]{1,0}, s32[])->bf16[8,16]"),
        (("8", "scalar"), ("int8", "bool"), "(s8[8]{0}, pred[])->s8[8]"),
        (("2x3x4x5x6x7", "7"), ("u8",), "(u8[2,3,4,5,6,7]{5,4,3,2,1,0}, u8[7]{0})->u8[2,3,4,5,6,7]"),
        (("8", "8"), ("f8e4m3fn",), "(f8e4m3fn[8]{0}, f8e4m3fn[8]{0})->f8e4m3fn[8]"),
    ],
)
def test_explain_of_a_function_takes_any_shape_and_dtype(shapes, dtypes, taken, monkeypatch, capsys):
    seen = _seen_by_explain(monkeypatch)
    options = [*(part for shape in shapes for part in ("--shape", shape)), *(p for d in dtypes for p in ("--dtype", d))]
    assert cli.main(["explain", "--function", "jax.numpy:multiply", *options, *TARGET]) == 0
    assert taken in seen["report"].hlo.split("\n")[0]


MAKER = """
import jax, jax.numpy as jnp

def step(state, batch, *, target, scale=1):
    return {"w": state["w"] - scale * (batch @ state["w"] - target).mean()}

def args():
    return ({"w": jax.ShapeDtypeStruct((16, 4), jnp.float32)}, jnp.ones((8, 16))), {"target": 2.0}

def positional():
    return {"w": jnp.ones((16, 4))}, jnp.ones((8, 16))

def one():
    return jnp.ones((3, 5))

def double(x):
    return x * 2
"""


def test_explain_of_a_function_whose_arguments_another_makes(monkeypatch, capsys, tmp_path):
    (tmp_path / "made_by_hand.py").write_text(MAKER)
    monkeypatch.syspath_prepend(tmp_path)
    seen = _seen_by_explain(monkeypatch)
    assert cli.main(["explain", "--function", "made_by_hand:step", "--args", "made_by_hand:args", *TARGET]) == 0
    assert "f32[16,4]" in seen["report"].hlo.split("\n")[0]
    assert capsys.readouterr().out.startswith("made_by_hand:step on cpu")
    assert cli.main(["explain", "--function", "made_by_hand:double", "--args", "made_by_hand:one", *TARGET]) == 0
    assert "f32[3,5]" in seen["report"].hlo.split("\n")[0]
    capsys.readouterr()
    line = refused(capsys, "explain", "--function", "made_by_hand:step", "--args", "made_by_hand:positional", *TARGET)
    assert "cannot be called with (dict, float32[8, 16]): " in line
    assert "target" in line


def test_a_module_that_fails_when_it_is_imported_is_one_line(monkeypatch, capsys, tmp_path):
    for name, text in (("broken_syntax", "def f(:"), ("broken_value", "1 / 0"), ("broken_exit", "raise SystemExit(3)")):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        line = refused(capsys, "explain", "--function", f"{name}:f", *SHAPE, *TARGET)
        assert f"module '{name}' cannot be imported: " in line


@pytest.mark.parametrize("call", [("ends:f", *SHAPE), ("ends:g", "--args", "ends:f")])
def test_a_function_that_ends_the_process_has_failed(call, monkeypatch, capsys, tmp_path):
    (tmp_path / "ends.py").write_text("import sys\n\ndef f(*args):\n    sys.exit(0)\n\ndef g(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "'ends:f' cannot be called" in refused(capsys, "explain", "--function", *call, *TARGET)


def test_explain_prints_everything_on_request(capsys):
    options = ("--function", "jax.numpy:dot", "--shape", "8x16", "--shape", "16x4", *TARGET)
    assert cli.main(["explain", *options, "--full"]) == 0
    assert "launch" in capsys.readouterr().out


def _seen_by_explain(monkeypatch):
    """The report that the command prints."""
    import normbench

    seen, explain_call = {}, normbench.explain_call

    def explained(*args, **kwargs):
        seen["report"] = explain_call(*args, **kwargs)
        return seen["report"]

    monkeypatch.setattr(normbench, "explain_call", explained, raising=False)
    return seen
