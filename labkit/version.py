"""The version of labkit, where every layer can say it."""

__version__ = "0.1.0"
