"""The SDK's settings: one frozen value, from `everycall.init(...)` and the environment, checked once.

No other module reads `EVERYCALL_*`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from everycall import limits
from everycall.errors import ConfigurationError
from everycall.paths import local_key_path, spool_root
from everycall.semconv import DEFAULT_ENDPOINT, DEFAULT_PROJECT

__all__ = [
    "ENVIRONMENT",
    "OMIT_ALL",
    "OMIT_INPUTS",
    "OMIT_NOTHING",
    "OMIT_OUTPUTS",
    "Mask",
    "Settings",
    "Variable",
    "is_disabled",
    "omit_flags",
    "omitted_sides",
]

Mask = Callable[[str, Any], Any]
"""`mask(field, value)` returns what to keep of a record's field; `value` is plain JSON (or text)."""


class Variable(NamedTuple):
    """An environment variable that everycall reads, as README lists it."""

    name: str
    default: str
    meaning: str


ENVIRONMENT: Final = (
    Variable("EVERYCALL_ENDPOINT", DEFAULT_ENDPOINT, "where records are sent: an http or https URL"),
    Variable("EVERYCALL_API_KEY", "the local key, on loopback", "the key that is sent, as `x-api-key`"),
    Variable("EVERYCALL_PROJECT", DEFAULT_PROJECT, "the project of the records"),
    Variable("EVERYCALL_DISABLED", "0", "1 switches recording off: decorators return the function itself"),
    Variable("EVERYCALL_LOG_OMIT", "none", "what to leave out: `inputs`, `outputs`, `all`, or several with commas"),
    Variable("EVERYCALL_SAMPLE_RATE", "1.0", "the share of traces that is recorded, from 0.0 to 1.0"),
    Variable("EVERYCALL_SPOOL_DIR", "`spool` in the state directory", "where records wait until they are delivered"),
    Variable(
        "EVERYCALL_HOME", "`~/.local/state/everycall`", "the state directory: spool, local key, the server's data"
    ),
    Variable("EVERYCALL_EXIT_TIMEOUT", f"{limits.EXIT_TIMEOUT_S:g}", "seconds that the exit of a process may wait"),
    Variable("EVERYCALL_PROPAGATE_THREADS", "1", "0 leaves the context of a call out of threads it starts"),
    Variable("EVERYCALL_PROPAGATE_TO", "none", "hosts that get `traceparent` and `baggage`, with commas"),
)
"""Every `EVERYCALL_*` variable. README's table is generated from it."""

OMIT_NOTHING, OMIT_INPUTS, OMIT_OUTPUTS, OMIT_ALL = 0, 1, 2, 4
_OMIT_NAMES = {"": OMIT_NOTHING, "none": OMIT_NOTHING, "inputs": OMIT_INPUTS, "outputs": OMIT_OUTPUTS, "all": OMIT_ALL}
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})
_HOST_PATTERN = re.compile(r"(?:(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


def omit_flags(log_omit: bool = False, log_omit_inputs: bool = False, log_omit_outputs: bool = False) -> int:
    """Return the three omit flags as one bit set. Sets are joined with `|`, so the strictest flags win."""
    return (
        (OMIT_ALL if log_omit else 0)
        | (OMIT_INPUTS if log_omit_inputs else 0)
        | (OMIT_OUTPUTS if log_omit_outputs else 0)
    )


def omitted_sides(flags: int) -> tuple[str, ...]:
    """Return the sides of a call that a bit set of flags leaves out, as `Record.omitted` names them."""
    return tuple(side for side, flag in (("inputs", OMIT_INPUTS), ("outputs", OMIT_OUTPUTS)) if flags & flag)


def is_disabled(environment: Mapping[str, str] | None = None) -> bool:
    """Return whether EVERYCALL_DISABLED is set to a true value. Decorators then return the function itself."""
    return (os.environ if environment is None else environment).get("EVERYCALL_DISABLED", "").strip().lower() in _TRUE


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one process. Raise `ConfigurationError` if a value is invalid."""

    endpoint: str = DEFAULT_ENDPOINT
    api_key: str | None = None
    project_name: str = DEFAULT_PROJECT
    spool_dir: Path | None = None
    omit: int = OMIT_NOTHING
    mask: Mask | None = None
    sample_rate: float = 1.0
    exit_timeout_s: float = limits.EXIT_TIMEOUT_S
    propagate_threads: bool = True
    propagate_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"endpoint must be an http or https URL such as {DEFAULT_ENDPOINT}, not {self.endpoint!r}"
            )
        if not 0.0 <= self.sample_rate <= 1.0:
            raise ConfigurationError(f"sample_rate must be between 0.0 and 1.0, not {self.sample_rate!r}")
        if not self.project_name or len(self.project_name) > 256:
            raise ConfigurationError("project_name must have 1 to 256 characters")
        if self.mask is not None and not callable(self.mask):
            raise ConfigurationError("mask must be a function mask(field, value) that returns the value to keep")
        if self.exit_timeout_s < 0:
            raise ConfigurationError("exit_timeout_s must not be negative")
        for pattern in self.propagate_to:
            if not _HOST_PATTERN.fullmatch(pattern):
                raise ConfigurationError(
                    "propagate_to takes host names such as 'api.internal.example', '*.internal.example', '127.0.0.1', "
                    f"'[::1]', each with or without a port, not {pattern!r}"
                )

    @classmethod
    def build(cls, environment: Mapping[str, str] | None = None, **options: Any) -> Settings:
        """Return settings from options and the environment (`os.environ` by default).

        An option that is not None takes precedence over its variable; omit flags of both are joined. Read
        EVERYCALL_ENDPOINT, EVERYCALL_API_KEY, EVERYCALL_PROJECT, EVERYCALL_SPOOL_DIR, EVERYCALL_LOG_OMIT ("all",
        "inputs", "outputs", or several with commas), EVERYCALL_SAMPLE_RATE, EVERYCALL_EXIT_TIMEOUT,
        EVERYCALL_PROPAGATE_THREADS (0 disables it), EVERYCALL_PROPAGATE_TO (hosts with commas). Raise
        `ConfigurationError` if a value is invalid.
        """
        env = os.environ if environment is None else environment
        spool_dir = options.get("spool_dir") or env.get("EVERYCALL_SPOOL_DIR") or None
        return cls(
            endpoint=(options.get("endpoint") or env.get("EVERYCALL_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/"),
            api_key=(options.get("api_key") or env.get("EVERYCALL_API_KEY") or "").strip() or None,
            project_name=_text(options.get("project_name") or env.get("EVERYCALL_PROJECT") or DEFAULT_PROJECT),
            spool_dir=_path("spool_dir", spool_dir) if spool_dir else None,
            omit=_omit_from(env.get("EVERYCALL_LOG_OMIT", ""))
            | omit_flags(
                bool(options.get("log_omit")),
                bool(options.get("log_omit_inputs")),
                bool(options.get("log_omit_outputs")),
            ),
            mask=options.get("mask"),
            sample_rate=_number("sample_rate", options.get("sample_rate"), env.get("EVERYCALL_SAMPLE_RATE"), 1.0),
            exit_timeout_s=_number(
                "exit_timeout_s",
                options.get("exit_timeout_s"),
                env.get("EVERYCALL_EXIT_TIMEOUT"),
                limits.EXIT_TIMEOUT_S,
            ),
            propagate_threads=_switch(options.get("propagate_threads"), env.get("EVERYCALL_PROPAGATE_THREADS", "")),
            propagate_to=_hosts(options.get("propagate_to"), env.get("EVERYCALL_PROPAGATE_TO", "")),
        )

    @property
    def on_loopback(self) -> bool:
        """Whether the endpoint is this machine: then bodies are not compressed and the local key is used."""
        return _is_loopback(urlsplit(self.endpoint).hostname or "")

    def key(self) -> str | None:
        """Return the key to send: `api_key`, or else this user's local key if the endpoint is on loopback."""
        if self.api_key or not self.on_loopback:
            return self.api_key
        try:
            return local_key_path().read_text(encoding="ascii").strip() or None
        except (OSError, ValueError, ConfigurationError):
            return None

    @property
    def requires_proof(self) -> bool:
        """Whether the server must prove that it is this user's before anything is sent to it; see `_local_server`.

        It must if the local key would be sent, and at the default endpoint. It need not if the user set an API key.
        """
        if self.api_key or not self.on_loopback:
            return False
        return self.endpoint == DEFAULT_ENDPOINT or self.key() is not None

    def spool_root(self) -> Path:
        """Return the directory that contains this process's spool folder."""
        return self.spool_dir or spool_root()


def _is_loopback(host: str) -> bool:
    """Return whether a host is this machine, in any spelling that the system takes. Names are not resolved."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = socket.inet_aton(name)  # also 127.1, 0x7f000001 and 2130706433
    except OSError:
        try:
            address = socket.inet_pton(socket.AF_INET6, name.partition("%")[0])
        except OSError:
            return False
        if address[:12] == b"\0" * 10 + b"\xff\xff":
            address = address[12:]
        elif address == b"\0" * 15 + b"\1":
            return True
    return address[0] == 127 or not any(address)  # an address of zeros reaches this machine too


def _omit_from(text: str) -> int:
    flags = OMIT_NOTHING
    for word in text.lower().split(","):
        name = word.strip()
        if name in _TRUE:
            name = "all"
        if name not in _OMIT_NAMES:
            raise ConfigurationError(f"EVERYCALL_LOG_OMIT may be all, inputs, outputs or none, not {word.strip()!r}")
        flags |= _OMIT_NAMES[name]
    return flags


def _text(name: str) -> str:
    """Return a project's name as UTF-8 text. In the C locale, Python reads it as text that cannot be encoded."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _path(name: str, path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"{name} is {str(path)!r}, and this user has no home directory") from error


def _switch(value: bool | None, text: str) -> bool:
    return bool(value) if value is not None else text.strip().lower() not in _FALSE


def _hosts(hosts: str | Iterable[str] | None, text: str) -> tuple[str, ...]:
    if hosts is None:
        hosts = text
    if isinstance(hosts, str):
        hosts = hosts.split(",")
    return tuple(host.strip().lower().rstrip(".") for host in hosts if host.strip())


def _number(name: str, value: float | None, text: str | None, default: float) -> float:
    if value is not None:
        return float(value)
    if not text:
        return default
    try:
        return float(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} in the environment must be a number, not {text!r}") from error
