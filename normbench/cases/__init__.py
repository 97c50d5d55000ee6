"""What is studied: a case, its slug, and the presets, which are named lists of cases."""
