"""What integrations of clients share: requests, streams, wrappers and content. `everycall.integration` exports it."""
