"""The time of a launch from what it was compiled to, its range, and what bounds it; no device is needed."""
