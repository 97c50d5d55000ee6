"""Mosaic kernels for sizes that their tiles divide."""
