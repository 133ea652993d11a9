"""Readers of the providers' reports of usage, one module each, for `everycall.usage`."""
