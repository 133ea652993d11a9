"""The content of a record as blocks to draw: chat messages, text, JSON. Pure functions; called by `routes`.

Content is data, whatever it looks like: a shape that is not recognised as messages is shown as JSON. Values beyond
`limits.VIEW_VALUES_MAX` are counted instead of drawn; the JSON twin of the page has them all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from msgspec import Raw

from everycall.dialects.marks import MARKS
from everycall.record import Record, to_json
from everycall.semconv import GEN_AI_FINISH_REASONS
from everycall.server.pages.messages import Message, as_chats, as_message
from everycall.server.pages.origin import Origin
from everycall.server.pages.values import Node, Text, node_of, text_of

__all__ = ["Block", "Section", "error_text_of", "finish_reasons_of", "sections_of", "traceback_of"]

_FLAGS: Final = {"inputs": "log_omit_inputs", "outputs": "log_omit_outputs"}
_NO_MESSAGE: Final = "error"
"""The error of a record whose sender gave neither a type nor a message. The page has it as the heading."""
_REPETITIONS_MAX: Final = 3
"""How often a type may be repeated in front of a message, where an error wraps another of its type."""
_EXCEPTION_KEYS: Final = ("exception.type", "exception.message", "exception.stacktrace")


@dataclass(frozen=True, slots=True)
class Block:
    """One thing to draw: exactly one of `text`, `node` and `chat` is set. `label` is its heading within the section."""

    label: str | None = None
    text: Text | None = None
    node: Node | None = None
    chat: tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the record under one heading. `notes` say what is missing from it, and why.

    `not_sent` is the sender that did not send it, None if it was sent or is everycall's own.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()
    open: bool = True
    not_sent: str | None = None


def sections_of(record: Record, origin: Origin | None = None) -> tuple[Section, ...]:
    """Return the parts of a record that have something to show, in reading order.

    Of a record from another sender, inputs and output that it did not send are shown too, as not sent.
    """
    configuration = _value(record.llm_configuration)
    inputs, settings = _inputs(record, configuration)
    attributes = _shown_attributes(_value(record.attributes))
    absent = dict.fromkeys(origin.not_sent, origin.sender) if origin else {}
    input_notes = _notes(record, ("llm_inputs", "llm_configuration", "inputs"), "inputs")
    output_notes = _notes(record, ("content", "output"), "outputs")
    sections = (
        Section("inputs", "Inputs", inputs, input_notes, not_sent=absent.get("inputs")),
        Section("output", "Output", _output(record), output_notes, not_sent=absent.get("output")),
        Section("target", "Target", _blocks(_value(record.target)), _notes(record, ("target",))),
        Section("configuration", "Configuration", settings),
        Section("metadata", "Metadata", _blocks(_value(record.metadata)), _notes(record, ("metadata",), "metadata")),
        Section(
            "attributes", "Attributes", _blocks(attributes), _notes(record, ("attributes",), "attributes"), open=False
        ),
    )
    shown = tuple(section for section in sections if section.blocks or section.notes or section.not_sent)
    return tuple(replace(section, open=True) for section in shown) if len(shown) == 1 else shown


def error_text_of(record: Record) -> str | None:
    """Return the message of an error without the type in front of it, which the page shows as the heading.

    The message may have the type's short name or any qualified one: `RateLimitError`, `openai.RateLimitError`.
    """
    text, error_type = record.error, record.error_type
    if text == _NO_MESSAGE and not error_type:
        return None
    if not text or not error_type:
        return text
    short_name = re.escape(error_type.rpartition(".")[2])
    repeated = re.compile(rf"\A(?:[\w.]{{1,200}}\.)?{short_name}(?::\s*|\s*$)")
    for _ in range(_REPETITIONS_MAX):
        text = repeated.sub("", text, count=1)
    return text.strip() or None


def traceback_of(record: Record) -> Text | None:
    """Return the traceback that came with an error, from OpenTelemetry's `exception.stacktrace`."""
    attributes = _value(record.attributes)
    trace = attributes.get("exception.stacktrace") if isinstance(attributes, Mapping) else None
    return text_of(trace) if isinstance(trace, str) and trace.strip() else None


def finish_reasons_of(record: Record) -> str | None:
    """Return why the model stopped, in the provider's words: the attribute `gen_ai.response.finish_reasons`."""
    attributes = _value(record.attributes)
    reasons = attributes.get(GEN_AI_FINISH_REASONS) if isinstance(attributes, Mapping) else None
    words = [word for word in reasons if isinstance(word, str)] if isinstance(reasons, list) else [reasons]
    return ", ".join(word for word in words if isinstance(word, str)) or None


def _inputs(record: Record, configuration: Any) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    """Return the blocks of the inputs, and those of the configuration without its messages."""
    blocks: list[Block] = []
    messages = None
    if isinstance(configuration, Mapping):
        messages = configuration.get("messages")
        if chats := as_chats(messages):
            configuration = {key: value for key, value in configuration.items() if key != "messages"}
            blocks.extend(Block("Messages" if len(chats) == 1 else f"Messages {n}", chat=c) for n, c in _counted(chats))
    variables = _value(record.llm_inputs)
    if variables not in (None, {}):
        blocks.append(Block("Template variables", node=node_of(variables)))
    value = _value(record.inputs)
    if value is not None and not (isinstance(value, Mapping) and _same_messages(value, messages)):
        blocks.extend(_blocks(value, "Arguments" if blocks else None))
    return tuple(blocks), _blocks(configuration) if configuration not in (None, {}) else ()


def _output(record: Record) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if record.content is not None:
        blocks.append(Block(text=text_of(record.content)))
    value = _value(record.output)
    if value is not None and value != record.content:
        blocks.extend(_blocks(value, "Structured" if blocks else None))
    return tuple(blocks)


def _value(field: Raw) -> Any:
    """Return a field's value, or its text if the JSON is nested too deep to be decoded."""
    try:
        return to_json(field)
    except RecursionError:
        return bytes(field).decode()


def _blocks(value: Any, label: str | None = None) -> tuple[Block, ...]:
    """Return blocks for any JSON: messages where the value is messages or has them, text, else a JSON tree."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (Block(label, text=text_of(value)),)
    chats = as_chats(value)
    rest: Any = None
    if not chats and isinstance(value, Mapping):
        chats = as_chats(value.get("messages"))
        rest = {key: other for key, other in value.items() if key != "messages"}
        if not chats and (message := as_message(value)):
            chats, rest = ((message,),), None
    if not chats:
        return (Block(label, node=node_of(value)),)
    blocks = [Block(label if len(chats) == 1 else f"Messages {n}", chat=chat) for n, chat in _counted(chats)]
    if rest:
        blocks.append(Block("Other arguments", node=node_of(rest)))
    return tuple(blocks)


def _counted(chats: tuple[tuple[Message, ...], ...]) -> enumerate[tuple[Message, ...]]:
    return enumerate(chats, start=1)


def _same_messages(inputs: Mapping[str, Any], messages: Any) -> bool:
    """Return whether the inputs only repeat the configuration's messages, as those of instrumented clients do."""
    return bool(messages) and len(inputs) == 1 and inputs.get("messages") == messages


def _shown_attributes(attributes: Any) -> Any:
    """Return the attributes without the exception, which the page shows separately, and without the dialects' marks.

    Return None if none are left.
    """
    if not isinstance(attributes, Mapping):
        return attributes
    return {key: value for key, value in attributes.items() if key not in _EXCEPTION_KEYS and key not in MARKS} or None


def _notes(record: Record, fields: tuple[str, ...], omitted: str | None = None) -> tuple[str, ...]:
    """Return a note for content that was omitted, and one for each field that was truncated."""
    notes = []
    if omitted is not None and omitted in record.omitted:
        flag = _FLAGS.get(omitted)
        by = f" by {flag}" if flag else ""
        notes.append(f"{omitted} omitted{by}: never sent, never stored")
    for name in fields:
        if (cut := record.truncated.get(name)) is not None:
            size = "an unknown number of" if cut.bytes is None else f"{cut.bytes:,}"
            digest = f", SHA-256 of the whole {cut.sha256}" if cut.sha256 else ""
            notes.append(f"{name} truncated: {cut.kept:,} of {size} bytes kept{digest}")
    return tuple(notes)
