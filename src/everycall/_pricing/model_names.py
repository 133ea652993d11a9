"""The names under which the price list may have a model that a record names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from everycall._pricing.providers import list_id

__all__ = ["candidates", "host_of", "is_free", "unlisted_region"]

_PATHS: Final = ("arn:", "models/", "publishers/", "projects/")
"""Prefixes of names whose last part is the model's: of Bedrock's profiles, and of Google's resources."""
_PREFIX: Final = re.compile(r"([a-z0-9._-]+)[/:](.+)", re.IGNORECASE)
_REGION: Final = re.compile(r"([a-z]{2}(?:-[a-z]+)+-\d)/")
"""A region of AWS in front of a model's name, as LiteLLM has it: `bedrock/eu-west-1/amazon.nova-lite-v1:0`."""
_LISTED_REGIONS: Final = frozenset({"us-east-1", "us-east-2", "us-west-2"})
"""The regions whose prices the list has for Bedrock."""
_FIREWORKS: Final = ("accounts/fireworks/models/", "accounts/fireworks/routers/")
_BEDROCK_VERSIONS: Final = ("-1:0", "-v1:0")
_FREE_SUFFIX: Final = ":free"
_FREE_ROUTER: Final = "openrouter/free"


def candidates(name: str, provider_id: str) -> Iterator[str]:
    """Yield the names to look up at a provider (by its id in the list), the most likely first.

    A name may have its provider in front (`openai/gpt-4o`, `openai:gpt-4o`, `bedrock/us.anthropic.claude-...`), as
    libraries for several providers write it. A prefix that names another provider is part of the name: at Groq,
    `openai/gpt-oss-120b` is Groq's own model.
    """
    name = name.strip()
    if name.startswith(_PATHS):
        name = name.rpartition("/")[2]
    yield name
    prefixed = _PREFIX.fullmatch(name)
    if prefixed is not None and list_id(prefixed[1].lower()) == provider_id:
        name = prefixed[2]
        region = _REGION.match(name)
        if region is not None and provider_id == "aws":
            name = name[region.end() :]
        yield name
    if provider_id == "fireworks":
        for path in _FIREWORKS:
            yield f"{path}{name}"
    if provider_id == "aws":
        for version in _BEDROCK_VERSIONS:  # which Bedrock's API on OpenAI's protocol leaves out
            yield f"{name}{version}"


def is_free(name: str, provider_id: str) -> bool:
    """Return whether a name says that the model costs nothing: OpenRouter's `:free` models, and its router to them."""
    return provider_id == "openrouter" and (name.endswith(_FREE_SUFFIX) or name == _FREE_ROUTER)


def unlisted_region(name: str, provider_id: str) -> str | None:
    """Return the region that a name of Bedrock's has in it, if the list has no prices of that region."""
    region = _REGION.match(name.removeprefix("bedrock/")) if provider_id == "aws" else None
    return region[1] if region is not None and region[1] not in _LISTED_REGIONS else None


def host_of(name: str, provider_id: str) -> tuple[str, str]:
    """Return a model's name and the list's id of the host that serves it.

    Hugging Face's router names the host behind the model: `Qwen/Qwen3-32B:groq`.
    """
    model, colon, host = name.rpartition(":")
    if provider_id == "huggingface" and colon:
        return model, f"huggingface_{host}"
    return name, provider_id
