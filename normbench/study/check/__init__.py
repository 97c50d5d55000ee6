"""Whether a result is right: inputs on which a missing step shows, and the error against the reference."""
