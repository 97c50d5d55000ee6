"""Folding and freezing: the nodes that remain, and that the values stay."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile import get_mode
from pytensor.compile.mode import Mode
from pytensor.graph.rewriting.db import RewriteDatabaseQuery
from pytensor.link.jax.linker import JAXLinker

from normbench.errors import UserError
from normbench.kernels.pytensor import BatchNormalization, Convolution, batch_normalization, conv2d, freeze, silu
from tests.kernels.pytensor.pytensor_cases import assert_same, draw, draw_parameters, symbols

FILTERS, PARAMETERS = draw(8, 2, 3, 3, dtype="float64"), draw_parameters(8, "float64")
IMAGE = draw(2, 4, 7, 6, dtype="float64")
KEYWORDS = {"stride": 2, "groups": 2}


def mode(*tags, linker="JAX"):
    """PyTensor fuses elementwise nodes under JAX before 3.1, and leaves them to XLA since: here it fuses them."""
    if linker == "JAX":
        return Mode(JAXLinker(), RewriteDatabaseQuery(include=["fast_run", "jax", *tags]))
    return get_mode(linker).including(*tags)


def block(x, filters=FILTERS, parameters=PARAMETERS, bias=None):
    return silu(batch_normalization(conv2d(x, filters, bias, **KEYWORDS), *parameters, epsilon=1e-3))


def compiled(outputs, *tags, inputs=None, linker="JAX"):
    return pytensor.function(inputs, outputs, mode=mode(*tags, linker=linker))


def kinds(f):
    """The nodes of a compiled function in order: "conv", "norm", or "elementwise"."""
    names = {Convolution: "conv", BatchNormalization: "norm", pt.elemwise.Elemwise: "elementwise"}
    return [names.get(type(node.op), str(node.op)) for node in f.maker.fgraph.toposort()]


@pytest.mark.parametrize("biased", [False, True], ids=["no bias", "bias"])
def test_constants_fold_into_the_convolution(biased):
    (x,) = symbols([IMAGE])
    y = block(x, bias=draw(8, dtype="float64") if biased else None)
    plain, folded = compiled(y, inputs=[x]), compiled(y, "conv_bn_fold", "batchnorm_fold", inputs=[x])
    assert kinds(plain) == ["conv", "norm", "elementwise"]
    assert kinds(folded) == ["conv", "elementwise"]
    assert_same([np.asarray(folded(IMAGE))], [np.asarray(plain(IMAGE))])


def test_constants_fold_into_scale_and_shift():
    (x,) = symbols([IMAGE])
    plain, folded = compiled(block(x), inputs=[x]), compiled(block(x), "batchnorm_fold", inputs=[x])
    assert kinds(folded) == ["conv", "elementwise"]
    assert_same([np.asarray(folded(IMAGE))], [np.asarray(plain(IMAGE))])


@pytest.mark.parametrize("linker", ["CVM", "FAST_COMPILE"])
def test_other_backends(linker):
    (x,) = symbols([IMAGE])
    folded = compiled(block(x), "conv_bn_fold", inputs=[x], linker=linker)
    assert "norm" not in kinds(folded)
    assert_same([folded(IMAGE)], [compiled(block(x), inputs=[x], linker=linker)(IMAGE)])


def test_shared_statistics_fold_after_freezing():
    (x,) = symbols([IMAGE])
    variance = pytensor.shared(PARAMETERS[3], name="variance")
    shared = [*(pytensor.shared(value) for value in PARAMETERS[:3]), variance]
    y = block(x, pytensor.shared(FILTERS), shared)
    tags = ("conv_bn_fold", "batchnorm_fold")
    live, frozen = compiled(y, *tags, inputs=[x]), compiled(freeze(y), *tags, inputs=[x])
    assert kinds(live) == ["conv", "norm", "elementwise"]
    assert kinds(frozen) == ["conv", "elementwise"]
    before = np.asarray(live(IMAGE))
    assert_same([np.asarray(frozen(IMAGE))], [before])
    variance.set_value(PARAMETERS[3] * 4)
    assert not np.allclose(live(IMAGE), before)
    assert_same([np.asarray(frozen(IMAGE))], [before])


def test_freezing_some():
    a, b = pytensor.shared(2.0, name="a"), pytensor.shared(3.0, name="b")
    one, two = freeze([a * b, a + b], [a])
    a.set_value(10.0)
    b.set_value(5.0)
    assert pytensor.function([], [one, two], mode="FAST_COMPILE")() == [10.0, 7.0]
    with pytest.raises(UserError, match="is not a shared tensor"):
        freeze(a * b, [pt.scalar("s")])


def test_symbolic_parameters_are_left_alone():
    inputs = symbols([IMAGE, FILTERS, *PARAMETERS])
    f = compiled(block(inputs[0], inputs[1], inputs[2:]), "conv_bn_fold", "batchnorm_fold", inputs=inputs)
    assert kinds(f) == ["conv", "norm", "elementwise"]


def test_a_convolution_that_is_used_twice_is_left_alone():
    (x,) = symbols([IMAGE])
    convolved = conv2d(x, FILTERS, **KEYWORDS)
    outputs = [silu(batch_normalization(convolved, *PARAMETERS)), convolved]
    plain, folded = compiled(outputs, inputs=[x]), compiled(outputs, "conv_bn_fold", inputs=[x])
    assert kinds(folded) == kinds(plain) == ["conv", "norm", "elementwise"]
    assert_same([np.asarray(r) for r in folded(IMAGE)], [np.asarray(r) for r in plain(IMAGE)])


def test_two_norms_of_one_convolution():
    (x,) = symbols([IMAGE])
    convolved = conv2d(x, FILTERS, **KEYWORDS)
    outputs = [batch_normalization(convolved, *draw_parameters(8, "float64", seed)) for seed in (1, 2)]
    f = compiled(outputs, "conv_bn_fold", inputs=[x])
    assert kinds(f).count("norm") == 2


def test_dtype_and_static_shape_are_kept():
    x = pt.tensor("x", dtype="float32", shape=(2, 4, 7, 6))
    y = block(x, FILTERS.astype("float32"), [p.astype("float64") for p in PARAMETERS])
    plain, folded = compiled(y, inputs=[x]), compiled(y, "conv_bn_fold", "batchnorm_fold", inputs=[x])
    assert kinds(folded) == ["conv", "elementwise"]
    image = IMAGE.astype("float32")
    assert folded.maker.fgraph.outputs[0].type == plain.maker.fgraph.outputs[0].type
    assert_same([np.asarray(folded(image))], [np.asarray(plain(image))])
