"""What looks like a secret: patterns and names, for `everycall.masks`."""
