"""ResNet-18 and the backbone and neck of YOLO11n in PyTensor alone, against PyTorch with the same parameters.

Small images and few channels here; the models at their full sizes, and Numba, with `-m torture`.
"""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from analysis.pages.pytensor.models import PyTensorLayers, TorchLayers, parameters, resnet18, yolo11n

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
LEARNED = ("filters", "gamma", "beta", "weight", "bias")


def image(batch, size, dtype="float32", seed=1):
    return np.random.default_rng([seed, size]).normal(size=(batch, 3, size, size)).astype(dtype)


def check_inference(model, x, mode):
    """Each output agrees within 1e-5 of its standard deviation."""
    given = parameters(model)
    with torch.no_grad():
        expected = model(torch.tensor(x), TorchLayers({name: torch.tensor(v) for name, v in given.items()}))
    symbol = pt.tensor("x", dtype=x.dtype.name, shape=x.shape)
    shared = {name: pytensor.shared(v, shape=v.shape) for name, v in given.items()}
    results = pytensor.function([symbol], model(symbol, PyTensorLayers(shared)), mode=mode)(x)
    for result, wanted in zip(results, (e.numpy() for e in expected), strict=True):
        assert result.dtype == wanted.dtype
        assert result.shape == wanted.shape
        assert wanted.std() > 0.1
        assert np.abs(np.asarray(result) - wanted).max() < 1e-5 * wanted.std()


def test_the_sizes_are_those_of_the_models():
    """torchvision's own count for ResNet-18; of YOLO11n the blocks before the head."""
    learned = {n: v.size for n, v in parameters(resnet18).items() if n.rsplit(".", 1)[1] in LEARNED}
    assert sum(learned.values()) == 11_689_512
    outputs = {name: v.shape for name, v in parameters(yolo11n).items() if name.endswith(".filters")}
    assert outputs["10.m.0.attn.qkv.filters"] == (256, 128, 1, 1)
    assert outputs["10.m.0.attn.pe.filters"] == (128, 1, 3, 3)
    assert outputs["22.cv1.filters"] == (256, 384, 1, 1)


@pytest.mark.parametrize("model", [resnet18, yolo11n])
def test_inference_jax(model):
    check_inference(model, image(1, 32), "JAX")


@pytest.mark.torture
@pytest.mark.parametrize("mode", ["JAX", "NUMBA"])
@pytest.mark.parametrize(("model", "size"), [(resnet18, 224), (yolo11n, 640)])
def test_inference_at_full_size(model, size, mode):
    check_inference(model, image(1, size), mode)


def train_in_torch(given, batches, rate, **options):
    """The losses, and the parameters and running statistics after the last step."""
    leaves = {name: torch.tensor(v) for name, v in given.items()}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name.rsplit(".", 1)[1] in LEARNED)
    learned = [leaf for leaf in leaves.values() if leaf.requires_grad]
    optimizer, losses = torch.optim.SGD(learned, lr=rate), []
    for x, labels in batches:
        (scores,) = resnet18(torch.tensor(x), TorchLayers(leaves, train=True), **options)
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses, {name: leaf.detach().numpy() for name, leaf in leaves.items()}


def train_in_pytensor(given, batches, rate, **options):
    """The same by one function with updates."""
    dtype = batches[0][0].dtype.name
    shared = {name: pytensor.shared(v, name=name, shape=v.shape) for name, v in given.items()}
    x, labels = pt.tensor("x", dtype=dtype, shape=batches[0][0].shape), pt.lvector("labels")
    layers = PyTensorLayers(shared, train=True)
    (scores,) = resnet18(x, layers, **options)
    chosen = pt.special.log_softmax(scores, axis=1) * pt.eq(labels[:, None], np.arange(options["classes"])).astype(
        dtype
    )
    loss = -chosen.sum(acc_dtype=dtype) / np.asarray(len(batches[0][1]), dtype)
    learned = [v for name, v in shared.items() if name.rsplit(".", 1)[1] in LEARNED]
    slopes = pytensor.grad(loss, learned)
    updates = [(v, v - np.asarray(rate, dtype) * slope.astype(dtype)) for v, slope in zip(learned, slopes, strict=True)]
    updates += [(shared[name], new) for name, new in layers.updates.items()]
    step = pytensor.function([x, labels], loss, updates=updates, mode="JAX")
    losses = [float(step(*batch)) for batch in batches]
    return losses, {name: np.asarray(v.get_value()) for name, v in shared.items()}


def check_training(steps, batch, size, dtype, tolerance, rate=0.01, **options):
    """Losses within `tolerance` of each other, and every array within it of its own size."""
    rng = np.random.default_rng(3)
    batches = [(image(batch, size, dtype, seed), rng.integers(0, options["classes"], batch)) for seed in range(steps)]
    given = {name: v.astype(dtype) for name, v in parameters(resnet18, **options).items()}
    expected, after = train_in_torch(given, batches, rate, **options)
    losses, found = train_in_pytensor(given, batches, rate, **options)
    np.testing.assert_allclose(losses, expected, rtol=tolerance)
    for name, wanted in after.items():
        assert found[name].dtype == wanted.dtype == dtype
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=tolerance * np.abs(wanted).max(), err_msg=name)
        assert np.abs(wanted - given[name]).max() > 1e3 * tolerance * np.abs(wanted).max() or dtype == "float32"


def test_twenty_steps_of_training():
    """Batch statistics, plain SGD and running updates; float64, in which rounding cannot grow into a difference."""
    check_training(20, 8, 48, "float64", 1e-10, width=4, classes=10)


@pytest.mark.torture
def test_twenty_steps_of_training_at_full_width():
    check_training(20, 8, 64, "float64", 1e-9, width=64, classes=1000)
