"""Commands about a program of the user's: its arguments, its explanation, its normalizations."""
