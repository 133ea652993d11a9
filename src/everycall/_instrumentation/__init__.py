"""What integrations of clients share: requests, streams, wrapping, content. `everycall.integration` exposes it."""
