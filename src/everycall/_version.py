"""The version, in one place for the SDK's own labels."""

__version__ = "0.1.0"
SDK = f"everycall-python/{__version__}"
