"""What each JAX release makes of the cases: kept, compared, renewed."""
