"""Values into bounded JSON, and the processors that omit, mask and limit a record before it is written."""
