"""The contract of client integrations, held by Google's clients."""

from __future__ import annotations

from everycall_testkit import client_contract


class TestOutcomes(client_contract.Outcomes):
    pass


class TestStreamOutcomes(client_contract.StreamOutcomes):
    pass


class TestEmbeddings(client_contract.Embeddings):
    pass


class TestStreams(client_contract.Streams):
    pass


class TestInstallation(client_contract.Installation):
    pass


class TestFrameworks(client_contract.Frameworks):
    pass
