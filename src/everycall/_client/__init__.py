"""The parts of `everycall.client`: requests and responses, streams, retries."""
