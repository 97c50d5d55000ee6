"""The tables of a run as data frames, their statistics and summaries."""
