"""What a run shows, in sentences that were checked against its tables."""
