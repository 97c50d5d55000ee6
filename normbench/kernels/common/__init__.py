"""What the variants of several operators share, be they plain JAX or kernels."""
