"""The plots of a run, each of which answers one question."""
