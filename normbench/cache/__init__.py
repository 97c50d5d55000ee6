"""Compilations on disk by content: what was compiled once is read the next time, by whoever shares the folder."""
