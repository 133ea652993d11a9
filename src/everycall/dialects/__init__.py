"""Translates spans of other instrumentations into everycall's records: one pure function for each vocabulary.

`translate(span)` calls the reader of every vocabulary that the span uses, and joins their readings field by field. The
server uses it for OTLP requests. Nothing here depends on a server, a store or a clock.
"""

from everycall.dialects.join import is_partial, join, join_halves
from everycall.dialects.labels import hand_down
from everycall.dialects.logs import is_of_a_call, translate_logs
from everycall.dialects.marks import DIALECT
from everycall.dialects.spans import Event, LogEvent, Scope, Span
from everycall.dialects.translate import inference_id, translate

__all__ = [
    "DIALECT",
    "Event",
    "LogEvent",
    "Scope",
    "Span",
    "hand_down",
    "inference_id",
    "is_of_a_call",
    "is_partial",
    "join",
    "join_halves",
    "translate",
    "translate_logs",
]
