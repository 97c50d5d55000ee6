"""Published device times of normalizations, and the programs that reproduce their configurations."""
