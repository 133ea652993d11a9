"""The error of a command that could not do its work."""

from everycall.errors import EverycallError

__all__ = ["CommandFailed"]


class CommandFailed(EverycallError):
    """A command could not do its work; the message is one line for the person who ran it."""
