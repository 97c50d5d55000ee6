"""The normalizations of a program: where they are, which launches they take, what they could cost, what to change."""
