"""The suite is one of the CPU, also where JAX's CUDA plugin is installed and finds no GPU."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
