"""Kernels in Pallas Triton."""
