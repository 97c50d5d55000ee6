"""A study from the outside: its units, its worker processes, and the store that a kill cannot spoil."""
