"""The search for the block sizes of a kernel."""
