"""Two runs, two variants, or two releases side by side: SAME, FASTER, SLOWER or AMBIGUOUS."""
