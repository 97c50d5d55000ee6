"""The notebooks, and what makes the pages of docs/: for a checkout, not installed."""
