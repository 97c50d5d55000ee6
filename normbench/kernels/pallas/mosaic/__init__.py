"""Kernels in Pallas Mosaic GPU, for Hopper: TMA copies, barriers and warpgroups."""
