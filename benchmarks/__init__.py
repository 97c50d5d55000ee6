"""Front ends: the asv classes, and the pytest-benchmark files in pytest/."""
