"""What the three packages of normbench share: errors, the schema of a run, and the way into JAX's unstable parts.

`normbench` is a leaf: it imports none of `kernels`, `benchmarks` and `analysis`.
"""

__version__ = "0.1.0"
