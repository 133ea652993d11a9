"""The version of everycall and of its integrations: their build reads it here, and records carry it."""

__version__ = "0.1.0"
SDK = f"everycall-python/{__version__}"
