"""Problems of one's own: what is meant where nothing was typed, and what is refused in one line."""

import pytest

from normbench.cases.own import PROVENANCE, Wanted, layout_of, own_cases
from normbench.errors import UserError


def test_every_variant_of_every_shape_dtype_and_pass_the_baseline_first():
    wanted = Wanted(dtypes=("bf16", "float32"), passes=("forward", "backward"))
    found = own_cases(("layer_norm",), ("8x197x768", "4x16"), wanted)
    assert found[0].variant == "naive"
    assert {case.problem.shape for case in found} == {(8, 197, 768), (4, 16)}
    assert {(case.dtype, case.problem.pass_) for case in found} == {
        (dtype, pass_) for dtype in ("bfloat16", "float32") for pass_ in ("forward", "backward")
    }
    assert {case.model for case in found} == {PROVENANCE}


@pytest.mark.parametrize(
    ("operator", "shape", "layout"),
    [
        ("layer_norm", (8, 197, 768), "nlc"),
        ("rms_norm", (8192, 4096), "nc"),
        ("batch_norm", (8, 64, 56, 56), "nchw"),
        ("group_norm", (8, 64, 56, 56), "nchw"),
    ],
)
def test_rows_come_last_and_channels_first_where_no_layout_was_typed(operator, shape, layout):
    assert layout_of(operator, shape, None) == layout


def test_a_layout_that_was_not_typed_is_not_blamed():
    with pytest.raises(UserError) as caught:
        own_cases(("instance_norm",), ("8",), Wanted())
    assert "8" in str(caught.value)
    assert "layout" not in str(caught.value)


def test_shapes_from_a_file_keep_where_they_come_from(tmp_path):
    file = tmp_path / "shapes.txt"
    file.write_text("# of our model\n8x197x768 bf16  # ViT-B/16\n\n2x16\n")
    found = own_cases(("layer_norm",), (), Wanted(), ("naive",), file)
    assert [(case.problem.shape, case.dtype, case.model) for case in found] == [
        ((8, 197, 768), "bfloat16", "ViT-B/16"),
        ((2, 16), "float32", PROVENANCE),
    ]


@pytest.mark.parametrize(
    ("operators", "shapes", "variants", "text", "said"),
    [
        ((), ("8x16",), None, None, "name an operator"),
        (("layer_nrom",), ("8x16",), None, None, "layer_norm"),
        (("layer_norm",), ("8x",), None, None, "8x"),
        (("layer_norm",), ("8x16",), ("fast",), None, "fast"),
        (("layer_norm",), (), None, "8x16 float99", "shapes.txt:1"),
        (("layer_norm",), (), None, "# nothing", "has no shape"),
    ],
)
def test_what_cannot_be_studied_is_one_line(tmp_path, operators, shapes, variants, text, said):
    file = None
    if text is not None:
        file = tmp_path / "shapes.txt"
        file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        own_cases(operators, shapes, Wanted(), variants, file)
    assert "\n" not in str(caught.value)
