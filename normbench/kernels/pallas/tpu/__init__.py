"""Hand-written kernels for TPUs: rows, channels that come last, and statistics that are given."""
