"""What the tests share: fake providers and endpoints that are real servers on loopback, and fixtures for clients."""
