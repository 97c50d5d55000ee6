"""How cases are measured: the schedule, the workers, the clocks and the checks."""

import os

# Read when JAX starts: preallocation would take three quarters of a GPU's memory in every worker process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
