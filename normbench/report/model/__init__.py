"""How far a model's predictions are from the times of a run, and where they can be trusted."""
