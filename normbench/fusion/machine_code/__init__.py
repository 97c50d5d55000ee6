"""The machine-level code of the launches: of XLA's dump, and of what compiles beside XLA."""
