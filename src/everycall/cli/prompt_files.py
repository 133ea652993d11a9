"""Deployments as files: YAML under version control, read with care and written so that it reads back the same.

`deploy` and `deployment` call this. A file is data: it is read by the core schema of YAML 1.2 (so `no` is a word and a
date is text), without tags, and nothing in it is executed. It may name further files for the texts of its messages, but
none outside its own folder.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from everycall import limits

__all__ = [
    "FIELDS",
    "MESSAGE_FIELDS",
    "PARAMETERS",
    "PromptFile",
    "PromptFileError",
    "find",
    "load",
    "parse",
    "written",
]

FIELDS = (
    "deployment_id", "name", "description", "model", "provider", "fallbacks", "model_params", "messages", "functions",
    "function_call", "metadata",
)  # fmt: skip
"""What a file may say, in the order in which it is written; the members of the API's body."""
PARAMETERS = (
    "temp", "top_p", "max_length", "frequency_penalty", "presence_penalty", "response_format", "safe_prompt",
)  # fmt: skip
MESSAGE_FIELDS = ("role", "content", "content_file", "name", "tool_calls", "tool_call_id")
FALLBACK_FIELDS = ("model", "provider")
SUFFIXES = (".yaml", ".yml")
ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\Z")

_OTHER_NAMES = {
    "temperature": "temp", "max_tokens": "max_length", "max_completion_tokens": "max_length", "tools": "functions",
    "tool_choice": "function_call", "params": "model_params", "parameters": "model_params", "prompt": "messages",
    "id": "deployment_id", "text": "content", "file": "content_file", "fallback": "fallbacks",
}  # fmt: skip
_CORE = (
    ("null", r"null|Null|NULL|~|", ("n", "N", "~", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", tuple("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        tuple("-+.0123456789"),
    ),
)
"""YAML 1.2, 10.3.2: what a plain word is, by its form; everything else is text."""


def _by_core_schema(kind: Any) -> Any:
    kind.yaml_implicit_resolvers = {}
    for tag, pattern, first in _CORE:
        kind.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), first)
    return kind


@_by_core_schema
class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads the nodes of a file; the values are made here and not by it."""


@_by_core_schema
class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes text of several lines as it is read."""


def _block_text(dumper: Any, text: str) -> Any:
    style: str | None
    if not all(c.isprintable() or c == "\n" for c in text):
        style = '"'  # with escapes: other line ends and control characters do not read back as they are
    else:
        style = "|" if "\n" in text and text == "\n".join(line.rstrip() for line in text.split("\n")) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _block_text)


class PromptFileError(Exception):
    """A file cannot be used: which, where (a line, 0 where none is known), and what to do."""

    def __init__(self, path: Path, line: int, detail: str) -> None:
        super().__init__(f"{path}:{line}: {detail}" if line else f"{path}: {detail}")
        self.path = path
        self.line = line
        self.detail = detail


@dataclass(frozen=True, slots=True)
class PromptFile:
    """One deployment in a file: its id, the body to put, and the line of each of its parts (`messages[0].content`)."""

    path: Path
    deployment_id: str
    body: Mapping[str, Any]
    lines: Mapping[str, int] = field(repr=False)

    def line_of(self, part: str) -> int:
        """Return the line of a part, or of the nearest one around it; 0 for none."""
        while part:
            if part in self.lines:
                return self.lines[part]
            part = re.sub(r"(?:\.?[^.\[]+|\[[^\]]*\])\Z", "", part)
        return 0


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the files to read: those named, and all `*.yaml` and `*.yml` below the folders named, each once.

    Hidden files and folders are left out. Raises `PromptFileError` for a path that is not there, a folder without any
    file, or more than `limits.DEPLOY_FILES_MAX`.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise PromptFileError(path, 0, "there is no such file or folder")
        inside = list(_below(path)) if path.is_dir() else [path]
        if not inside:
            raise PromptFileError(path, 0, f"there is no file here that ends in {' or '.join(SUFFIXES)}")
        found.update(dict.fromkeys(inside))
        if len(found) > limits.DEPLOY_FILES_MAX:
            raise PromptFileError(path, 0, f"at most {limits.DEPLOY_FILES_MAX} files are deployed at once")
    return list(found)


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in SUFFIXES and path.is_file() and not hidden:
            yield path


def load(path: Path) -> PromptFile:
    """Read one file. Raises `PromptFileError` with the line of what cannot be used."""
    return parse(_text_of(path), path)


def parse(text: str, path: Path) -> PromptFile:
    """Read the text of a file that is or would be at `path`. Raises as `load` does."""
    reading = _Reading(path)
    body = reading.document(text)
    deployment_id = body.pop("deployment_id", None) or path.stem
    if not isinstance(deployment_id, str) or not ID_PATTERN.match(deployment_id):
        raise reading.wrong(
            "deployment_id",
            f"{str(deployment_id)!r} is no deployment_id: it has letters, digits, - and _ only. Without one, the "
            "file's name is taken.",
        )
    body.setdefault("name", deployment_id)
    reading.check(body)
    return PromptFile(path, deployment_id, body, reading.lines)


def written(deployment: Mapping[str, Any]) -> str:
    """Return the text of a file that says what a deployment of the API says. `load` reads the same back."""
    body = {name: deployment.get(name) for name in FIELDS}
    text: str = yaml.dump(
        {name: value for name, value in body.items() if value not in (None, "", [], {})},
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
    return text


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(limits.DEPLOYMENT_BYTES_MAX + 1)
        if len(data) > limits.DEPLOYMENT_BYTES_MAX:
            raise PromptFileError(path, 0, f"it is larger than {limits.DEPLOYMENT_BYTES_MAX} bytes")
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise PromptFileError(path, 0, f"it cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise PromptFileError(path, 0, f"it is not UTF-8 text: {error.reason} at byte {error.start}") from error


class _Reading:
    """One file being read: its values, and where each of them stands."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = limits.DEPLOY_VALUES_MAX
        self.lines: dict[str, int] = {}

    def wrong(self, part: str, detail: str) -> PromptFileError:
        """Return the error to raise for a part."""
        return PromptFileError(self._path, self.lines.get(part, 0), detail)

    def document(self, text: str) -> dict[str, Any]:
        """Return the file's mapping."""
        try:
            node = _Loader(text).get_single_node()
            value = None if node is None else self._value(node, "", 0)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            detail = f"this is not YAML: {error.problem or error.context}"
            raise PromptFileError(self._path, mark.line + 1 if mark else 0, detail) from None
        except yaml.YAMLError as error:
            raise PromptFileError(self._path, 0, f"this is not YAML: {error}") from None
        except RecursionError:
            raise PromptFileError(self._path, 0, "it is nested too deep") from None
        if not isinstance(value, dict):
            raise PromptFileError(self._path, 1, "it must be a mapping with name, model and messages")
        return value

    def check(self, body: dict[str, Any]) -> None:
        """Raise for unknown keys and missing ones, and put the texts of named files in their places."""
        self._known(body, FIELDS, "")
        for needed in ("model", "messages"):
            if body.get(needed) in (None, "", []):
                raise self.wrong(needed, f"{needed} is missing: a deployment has a model and at least one message")
        if isinstance(body.get("model_params"), dict):
            self._known(body["model_params"], PARAMETERS, "model_params")
        for name, known in (("messages", MESSAGE_FIELDS), ("fallbacks", FALLBACK_FIELDS)):
            listed = body.get(name)
            if listed is not None and not isinstance(listed, list):
                raise self.wrong(name, f"{name} must be a list")
            for at, one in enumerate(listed or ()):
                part = f"{name}[{at}]"
                if not isinstance(one, dict):
                    raise self.wrong(part, f"{part} must be a mapping with {', '.join(known[:2])}")
                self._known(one, known, part)
                if "content_file" in one:
                    one["content"] = self._other_file(one, part)

    def _known(self, value: Mapping[str, Any], known: Sequence[str], part: str) -> None:
        for name in value:
            if name in known:
                continue
            close = _OTHER_NAMES.get(name)
            near = [close] if close in known else difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
            raise self.wrong(f"{part}.{name}" if part else name, f"unknown key {name!r}: {hint}")

    def _other_file(self, message: dict[str, Any], part: str) -> str:
        """Return the text of the file that a message names, without its last line end."""
        name = message.pop("content_file")
        where = f"{part}.content_file"
        if "content" in message:
            raise self.wrong(where, "give content or content_file, not both")
        if not isinstance(name, str) or not name:
            raise self.wrong(where, "content_file is the name of a file in this folder")
        folder = self._path.parent.resolve()
        target = (folder / name).resolve()
        if not target.is_relative_to(folder):
            raise self.wrong(where, f"{name!r} is not in the folder of this file, and no other file is read")
        try:
            text = _text_of(target)
        except PromptFileError as error:
            raise self.wrong(where, f"{name!r}: {error.detail}") from None
        self.lines[f"{part}.content"] = self.lines.get(where, 0)
        return text.removesuffix("\n")

    def _value(self, node: Any, part: str, depth: int) -> Any:
        """Return a node's value as JSON has it. An alias counts as much as what it stands for."""
        self.lines.setdefault(part, node.start_mark.line + 1)
        self._left -= 1
        if self._left < 0:
            raise self.wrong(part, f"it has more than {limits.DEPLOY_VALUES_MAX} values, aliases counted each time")
        if depth > limits.NESTING_MAX:
            raise self.wrong(part, f"it is nested more than {limits.NESTING_MAX} deep")
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._value(one, f"{part}[{at}]", depth + 1) for at, one in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, part, depth)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, part)
        raise self._at(node, f"the tag {node.tag} is not taken here; write plain lists, mappings and values")

    def _mapping(self, node: Any, part: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._at(key, "a key must be a word")
            name = str(key.value)
            if name == "<<" and key.style is None:
                raise self._at(key, "merging with << is not taken here; write the keys out")
            if name in found:
                raise self._at(key, f"{name!r} is given twice")
            below = f"{part}.{name}" if part else name
            self.lines.setdefault(below, key.start_mark.line + 1)
            found[name] = self._value(value, below, depth + 1)
        return found

    def _scalar(self, node: Any, part: str) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        text = str(node.value)
        if kind == "str":
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)
        if kind == "float":
            if text.lower().lstrip("+-").startswith((".inf", ".nan")):
                raise self._at(node, f"{text} is no number that JSON has")
            return float(text)
        raise self._at(node, f"the tag {node.tag} is not taken here ({part or 'the file'}); write a plain value")

    def _at(self, node: Any, detail: str) -> PromptFileError:
        return PromptFileError(self._path, node.start_mark.line + 1, detail)
