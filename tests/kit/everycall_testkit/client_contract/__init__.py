"""The contract of client integrations: what holds for every client whose requests are recorded.

An integration derives a test class from each class here, and describes its client by a `ClientAdapter`. Its
`conftest.py` gives the adapter as the fixture `adapter` and calls `parametrize_ways` from `pytest_generate_tests`.
"""

from everycall_testkit.client_contract.adapter import (
    PIECES,
    TEXT,
    ClientAdapter,
    Embedding,
    Failure,
    Timeout,
    Way,
    parametrize_ways,
)
from everycall_testkit.client_contract.frameworks import Frameworks
from everycall_testkit.client_contract.installation import Installation
from everycall_testkit.client_contract.outcomes import Embeddings, Outcomes, StreamOutcomes, ask, open_to_text
from everycall_testkit.client_contract.raw_responses import RawResponses, StainlessAdapter
from everycall_testkit.client_contract.streams import Streams

__all__ = [
    "PIECES",
    "TEXT",
    "ClientAdapter",
    "Embedding",
    "Embeddings",
    "Failure",
    "Frameworks",
    "Installation",
    "Outcomes",
    "RawResponses",
    "StainlessAdapter",
    "StreamOutcomes",
    "Streams",
    "Timeout",
    "Way",
    "ask",
    "open_to_text",
    "parametrize_ways",
]
