"""What a run says in the terminal."""
