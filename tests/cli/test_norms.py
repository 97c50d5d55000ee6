"""`normbench norms`: a page about a program, and one clear line for bad input."""

import importlib.util
import json

import pytest

from normbench.cli.main import main

needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets"
)


@needs_plugin
def test_a_page_is_printed_and_written(tmp_path, capsys):
    page = tmp_path / "page.html"
    arguments = ["norms", "--function", "jax.nn:standardize", "--shape", "64x128", "--dtype", "bf16"]
    assert main([*arguments, "--html", str(page)]) == 0
    assert "1 normalization" in capsys.readouterr().out
    assert "<table>" in page.read_text()
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sites"][0]["kind"] == "layer"


@needs_plugin
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "norms needs --function"),
        (["--function", "jax.nn:nothere"], "unknown function of jax.nn 'nothere'"),
        (["--function", "jax.nn:silu", "--shape", "8x8"], "has no normalization in it"),
        (["--function", "jax.nn:standardize"], "cannot be called with ()"),
        (["--function", "jax.nn:standardize", "--args", "jax.nn:nothere"], "unknown function of jax.nn 'nothere'"),
    ],
)
def test_bad_input_gives_one_clear_line(arguments, words, capsys):
    assert main(["norms", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
