"""A worker process: compiles, checks and times cases."""
