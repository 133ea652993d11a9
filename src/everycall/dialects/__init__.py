"""Spans of other people's instrumentation as everycall's records: one pure function for each vocabulary.

`translate(span)` asks every dialect that speaks on the span and joins their readings field by field. The server uses it
for what arrives by OTLP; nothing here knows of a server, a store or a clock.
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
