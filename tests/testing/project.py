"""A small project outside of this one, with a Llama block and a convolutional network, and how its tests are run.

`python -m tests.testing.project` times a first and two later runs of its tests: the figures of docs/testing.md.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]

MODEL = """\
import jax
import jax.numpy as jnp


def rms(x, scale):
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)
    return (normed * scale).astype(x.dtype)


def layer(x, w):
    b, t, d = x.shape
    h = rms(x, w["norm1"])
    q, k, v = ((h @ w[name]).reshape(b, t, 4, d // 4) for name in "qkv")
    scores = jnp.einsum("bthd,bshd->bhts", q, k).astype(jnp.float32)
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores).astype(x.dtype), v)
    x = x + mixed.reshape(b, t, d) @ w["o"]
    h = rms(x, w["norm2"])
    return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"]


def llama(x, layers):
    return jax.lax.scan(lambda x, w: (layer(x, w), None), x, layers)[0]


def cnn(x, kernel, scale, shift):
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = y.astype(jnp.float32)
    mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    return jax.nn.relu((y - mean) * jax.lax.rsqrt(var + 1e-5) * scale + shift).astype(x.dtype)
"""

TESTS = """\
import jax
import model

BF16, F32 = "bfloat16", "float32"


def array(*shape, dtype=BF16):
    return jax.ShapeDtypeStruct(shape, dtype)


def layers(n=3, d=512):
    w = {name: array(n, d, d) for name in "qkvo"}
    w |= {"gate": array(n, d, 2 * d), "up": array(n, d, 2 * d), "down": array(n, 2 * d, d)}
    return w | {"norm1": array(n, d, dtype=F32), "norm2": array(n, d, dtype=F32)}


def test_llama(fusion):
    fusion.check(model.llama, array(8, 512, 512), layers())


def test_llama_gradient(fusion):
    loss = lambda layers, x: (model.llama(x, layers) ** 2).mean()
    fusion.check(jax.grad(loss), layers(), array(8, 512, 512))


def test_cnn(fusion):
    channels = array(64, dtype=F32)
    fusion.check(model.cnn, array(16, 32, 32, 64), array(3, 3, 64, 64), channels, channels)


def test_norm(fusion):
    fusion.check(model.rms, array(4096, 2048), array(2048, dtype=F32))
"""


@dataclass(frozen=True)
class Ran:
    """What pytest said, and how it ended."""

    status: int
    output: str

    def message(self, test):
        """The lines of the failure of one test."""
        _, _, rest = self.output.partition(f" {test} ")
        lines = rest.splitlines()[1:]
        end = next((place for place, line in enumerate(lines) if line.startswith(("___", "===", "---"))), len(lines))
        return [line for line in lines[:end] if line]


@dataclass(frozen=True)
class Project:
    """A folder with tests, and a folder for the cache."""

    folder: Path
    cache: Path

    def write(self, **files):
        for name, text in files.items():
            path = self.folder / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def replace(self, name, old, new):
        text = (self.folder / f"{name}.py").read_text()
        assert old in text
        (self.folder / f"{name}.py").write_text(text.replace(old, new))

    def pytest(self, *options, python=sys.executable, **environment):
        command = [str(python), "-m", "pytest", "-p", "normbench.testing.plugin", "-q", "-rs", *options]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(**environment), capture_output=True, text=True, check=False
        )
        return Ran(done.returncode, done.stdout + done.stderr)

    def environment(self, **more):
        paths = os.pathsep.join([str(ROOT), str(self.folder)])
        own = {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(self.cache), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        own["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # what else is installed here is none of the project's
        return {**os.environ, **own, **more}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project", Path(folder) / "cache")
        project.write(model=MODEL, test_model=TESTS)
        for options in (["--fusion-update"], [], []):
            start = perf_counter()
            ran = project.pytest(*options)
            print(f"{perf_counter() - start:.2f} s: {ran.output.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
