"""How time is taken: the clocks, the rule that ends sampling, the ceilings."""
