"""The tests, which mirror the rooms of the package."""
