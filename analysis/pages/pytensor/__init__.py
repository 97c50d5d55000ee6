"""What makes docs/pytensor.md."""
