"""Trace context across threads, HTTP clients and servers, for `everycall.propagation`."""
