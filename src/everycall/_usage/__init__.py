"""Readers of the providers' usage reports, one module for each, used by `everycall.usage`."""
