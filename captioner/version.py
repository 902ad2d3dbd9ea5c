"""The version, where even the parts that know nothing of the package can ask for it."""

__version__ = "0.1.0"
