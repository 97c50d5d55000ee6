"""Draws the pictures of the README into docs/images: the top of the report of the kept run `quick`, in Chromium, and
group norm as one would write it, compiled for the H200.

python tools/readme_pictures.py
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from normbench.fusion.targets import compile_environment

os.environ.update(compile_environment())

import jax
import jax.numpy as jnp

from normbench import explain
from normbench.errors import UserError
from normbench.report import load_run, write_report

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"


def group_norm(x, gamma, beta):
    groups = x.reshape(16, 32, 10, 28, 28).astype(jnp.float32)
    mean = groups.mean((2, 3, 4), keepdims=True)
    variance = jnp.square(groups - mean).mean((2, 3, 4), keepdims=True)
    y = ((groups - mean) * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
    return (y * gamma[:, None, None] + beta[:, None, None]).astype(x.dtype)


def report_picture(width: int = 1040, height: int = 744) -> Path:
    """The top of the report as Chromium shows it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise UserError("no Chromium: apt-get install chromium")
    picture = FOLDER / "report.png"
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(load_run(FOLDER.parents[1] / "results" / "runs" / "quick"), Path(folder) / "report.html")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        window = [f"--window-size={width},{height}", "--virtual-time-budget=5000", f"--screenshot={picture}"]
        subprocess.run([browser, *flags, *window, page.as_uri()], check=True, capture_output=True)
    return picture


if __name__ == "__main__":
    print(report_picture())
    x = jax.ShapeDtypeStruct((16, 320, 28, 28), jnp.bfloat16)
    channels = jax.ShapeDtypeStruct((320,), jnp.float32)
    print(explain(group_norm, x, channels, channels, target="h200").picture.write(FOLDER / "fusion.svg"))
