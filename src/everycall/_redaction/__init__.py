"""Patterns and names of secrets, for `everycall.masks`."""
