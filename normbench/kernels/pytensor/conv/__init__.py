"""Convolutions, transposed convolutions and poolings for PyTensor."""
