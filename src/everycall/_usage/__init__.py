"""Token reports of the providers, one by one, for `everycall.usage`."""
