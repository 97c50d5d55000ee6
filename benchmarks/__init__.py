"""How kernels are measured: cases, inputs, clocks, the sweep, the store, and the command line."""

import os

# Read when JAX starts: preallocation would take three quarters of a GPU's memory in every worker process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
