"""Others' libraries as variants: PyTorch, Flax, JAX's own kernels, PyTensor."""
