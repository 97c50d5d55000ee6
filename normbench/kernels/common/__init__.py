"""What the plain JAX variants of several operators share."""
