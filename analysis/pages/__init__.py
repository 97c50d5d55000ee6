"""What makes the pages of docs/ out of results/."""
