"""The pages that people read: traces, one trace, deployments, the server's status. Each is a view of a JSON answer."""

from everycall.server.pages import deployment_edits, deployments, routes

__all__ = ["handlers"]

handlers = [*routes.handlers, *deployments.handlers, *deployment_edits.handlers]
