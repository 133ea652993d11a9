"""The provider gateway: runs completions on OpenAI, Azure, Anthropic and compatible servers.

Its face is loaded at first use, because the options of a server read `gateway.settings` before there is a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everycall.server.gateway.gateway import Gateway
    from everycall.server.gateway.request import CompletionAnswer, CompletionRequest
    from everycall.server.gateway.settings import ProviderSettings, provider_settings

__all__ = ["CompletionAnswer", "CompletionRequest", "Gateway", "ProviderSettings", "provider_settings"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from everycall.server.gateway import gateway, request, settings

    return next(getattr(module, name) for module in (gateway, request, settings) if hasattr(module, name))
