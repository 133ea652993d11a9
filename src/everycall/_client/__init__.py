"""The parts of `everycall.client`: models, streamed completions, retries."""
