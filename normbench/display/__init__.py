"""How figures are written and coloured, wherever they appear."""
