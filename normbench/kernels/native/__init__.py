"""Hand-written kernels for a CPU, in C++, called through XLA's foreign functions: the variants `native`."""
