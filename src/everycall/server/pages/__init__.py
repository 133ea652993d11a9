"""The pages that people read: the list of traces, one trace, the server's status. Each is a view of a JSON answer."""

from everycall.server.pages.routes import handlers

__all__ = ["handlers"]
