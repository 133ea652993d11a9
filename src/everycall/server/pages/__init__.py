"""The web pages: traces, one trace, deployments, the server's status. Each shows what its JSON twin has."""

from everycall.server.pages import deployment_edits, deployments, routes

__all__ = ["handlers"]

handlers = [*routes.handlers, *deployments.handlers, *deployment_edits.handlers]
