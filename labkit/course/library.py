"""The checks of all lessons."""
