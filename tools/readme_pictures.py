"""Draws the fusion picture of the README into docs/images: group norm as one would write it, compiled for the H200.

python tools/readme_pictures.py
"""

import os
from pathlib import Path

from normbench.fusion.targets import compile_environment

os.environ.update(compile_environment())

import jax
import jax.numpy as jnp

from normbench import explain

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"


def group_norm(x, gamma, beta):
    groups = x.reshape(16, 32, 10, 28, 28).astype(jnp.float32)
    mean = groups.mean((2, 3, 4), keepdims=True)
    variance = jnp.square(groups - mean).mean((2, 3, 4), keepdims=True)
    y = ((groups - mean) * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
    return (y * gamma[:, None, None] + beta[:, None, None]).astype(x.dtype)


if __name__ == "__main__":
    x = jax.ShapeDtypeStruct((16, 320, 28, 28), jnp.bfloat16)
    channels = jax.ShapeDtypeStruct((320,), jnp.float32)
    print(explain(group_norm, x, channels, channels, target="h200").picture.write(FOLDER / "fusion.svg"))
