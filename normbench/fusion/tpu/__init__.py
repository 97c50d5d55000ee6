"""What is particular to programs that were compiled for a TPU."""
