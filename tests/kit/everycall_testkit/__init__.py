"""What the tests share: fake providers and endpoints that are real servers on loopback, and fixtures for clients."""

import pytest

# The contract suite asserts: its failures are shown in detail, as those of a test module are.
pytest.register_assert_rewrite("everycall_testkit.client_contract")
