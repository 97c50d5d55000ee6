"""Convolution, batch norm, activation."""
