"""Prompt files: reading and writing deployments as YAML. `deploy` and `deployment` use it.

A file is data, and nothing in it is executed. It is read with the core schema of YAML 1.2 (`no` is a string, and so is
a date) and without tags. A message can take its text from another file, which must be in the same folder or below it.
What `written` writes, `load` reads back unchanged.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

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
"""The keys of a file, in the order in which they are written; they are the members of the API's request body."""
PARAMETERS = (
    "temp", "top_p", "top_k", "max_length", "stop", "seed", "frequency_penalty", "presence_penalty", "logit_bias",
    "response_format", "reasoning_effort", "verbosity", "service_tier", "parallel_tool_calls", "safe_prompt",
)  # fmt: skip
MESSAGE_FIELDS = (
    "role", "content", "content_file", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio",
    "reasoning_content", "cache_control",
)  # fmt: skip
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
"""The core schema (YAML 1.2.2, section 10.3.2): tag, pattern and first characters of plain scalars but strings."""


def _core_schema(cls: Any) -> Any:
    """Make a loader or dumper class resolve plain scalars with the core schema."""
    cls.yaml_implicit_resolvers = {}
    for tag, pattern, first in _CORE:
        cls.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), first)
    return cls


@_core_schema
class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Parses a file into nodes; `_Reader` turns them into values."""


@_core_schema
class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes text of several lines as a block."""


def _block_text(dumper: Any, text: str) -> Any:
    style: str | None
    if not all(c.isprintable() or c == "\n" for c in text):
        style = '"'  # with escapes: a reader would change other line ends and control characters
    else:
        style = "|" if "\n" in text and text == "\n".join(line.rstrip() for line in text.split("\n")) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _block_text)


class PromptFileError(Exception):
    """A file is invalid. `line` is the line of the error, or 0 if it is unknown; `detail` says what to do."""

    def __init__(self, path: Path, line: int, detail: str) -> None:
        super().__init__(f"{path}:{line}: {detail}" if line else f"{path}: {detail}")
        self.path = path
        self.line = line
        self.detail = detail


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A deployment in a file: its id, the request body, and the line of each part (such as `messages[0].content`)."""

    path: Path
    deployment_id: str
    body: Mapping[str, Any]
    lines: Mapping[str, int] = field(repr=False)

    def line_of(self, part: str) -> int:
        """Return the line of a part, or of the nearest part that contains it, or 0 if there is none."""
        while part:
            if part in self.lines:
                return self.lines[part]
            part = re.sub(r"(?:\.?[^.\[]+|\[[^\]]*\])\Z", "", part)
        return 0


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the files, and all `*.yaml` and `*.yml` files below the folders, each once.

    Hidden files and folders are skipped. Raise `PromptFileError` for a path that does not exist, a folder without such
    files, and more than `limits.DEPLOY_FILES_MAX` files.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise PromptFileError(path, 0, "there is no such file or folder")
        inside = list(_below(path)) if path.is_dir() else [path]
        if not inside:
            raise PromptFileError(path, 0, f"there is no file here that ends in {' or '.join(SUFFIXES)}")
        files.update(dict.fromkeys(inside))
        if len(files) > limits.DEPLOY_FILES_MAX:
            raise PromptFileError(path, 0, f"too many files: deploy at most {limits.DEPLOY_FILES_MAX} at once")
    return list(files)


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in SUFFIXES and path.is_file() and not hidden:
            yield path


def load(path: Path) -> PromptFile:
    """Read a file. Raise `PromptFileError`, with the line of the error, if it is invalid."""
    return parse(_text_of(path), path)


def parse(text: str, path: Path) -> PromptFile:
    """Read `text` as the content of a file at `path`, which need not exist. Raise as `load`."""
    reader = _Reader(path)
    body = reader.document(text)
    deployment_id = body.pop("deployment_id", None) or path.stem
    if not isinstance(deployment_id, str) or not ID_PATTERN.match(deployment_id):
        raise reader.error(
            "deployment_id",
            f"invalid deployment_id {str(deployment_id)!r}: use letters, digits, - and _ only. The default is the "
            "file's name.",
        )
    body.setdefault("name", deployment_id)
    reader.check(body)
    return PromptFile(path, deployment_id, body, reader.lines)


def written(deployment: Mapping[str, Any]) -> str:
    """Return a deployment of the API as the text of a file. `load` reads the same deployment back."""
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
            raise PromptFileError(path, 0, f"the file is larger than {limits.DEPLOYMENT_BYTES_MAX} bytes")
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise PromptFileError(path, 0, f"the file cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise PromptFileError(path, 0, f"the file is not UTF-8: {error.reason} at byte {error.start}") from error


class _Reader:
    """Reads one file: its values, and the line of each value."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values_left = limits.DEPLOY_VALUES_MAX
        self.lines: dict[str, int] = {}

    def error(self, part: str, detail: str) -> PromptFileError:
        """Return the error to raise for a part."""
        return PromptFileError(self._path, self.lines.get(part, 0), detail)

    def document(self, text: str) -> dict[str, Any]:
        """Return the mapping that the file contains. Raise `PromptFileError` for anything else."""
        try:
            node = _Loader(text).get_single_node()
            value = None if node is None else self._value(node, "", 0)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            detail = f"invalid YAML: {error.problem or error.context}"
            raise PromptFileError(self._path, mark.line + 1 if mark else 0, detail) from None
        except yaml.YAMLError as error:
            raise PromptFileError(self._path, 0, f"invalid YAML: {error}") from None
        except RecursionError:
            raise PromptFileError(self._path, 0, "values are nested too deeply") from None
        if not isinstance(value, dict):
            raise PromptFileError(self._path, 1, "the file must be a mapping with name, model and messages")
        return value

    def check(self, body: dict[str, Any]) -> None:
        """Raise for unknown and missing keys, and replace each `content_file` with the text of that file."""
        self._check_keys(body, FIELDS, "")
        for required in ("model", "messages"):
            if body.get(required) in (None, "", []):
                raise self.error(required, f"{required} is missing: a deployment has a model and at least one message")
        if isinstance(body.get("model_params"), dict):
            self._check_keys(body["model_params"], PARAMETERS, "model_params")
        for name, fields in (("messages", MESSAGE_FIELDS), ("fallbacks", FALLBACK_FIELDS)):
            entries = body.get(name)
            if entries is not None and not isinstance(entries, list):
                raise self.error(name, f"{name} must be a list")
            for index, entry in enumerate(entries or ()):
                part = f"{name}[{index}]"
                if not isinstance(entry, dict):
                    raise self.error(part, f"{part} must be a mapping with {', '.join(fields[:2])}")
                self._check_keys(entry, fields, part)
                if "content_file" in entry:
                    entry["content"] = self._content_file(entry, part)

    def _check_keys(self, value: Mapping[str, Any], fields: Sequence[str], part: str) -> None:
        for name in value:
            if name in fields:
                continue
            synonym = _OTHER_NAMES.get(name)
            near = [synonym] if synonym in fields else difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(fields)}."
            raise self.error(f"{part}.{name}" if part else name, f"unknown key {name!r}: {hint}")

    def _content_file(self, message: dict[str, Any], part: str) -> str:
        """Return the text of the file that a message names, without its last line end."""
        name = message.pop("content_file")
        location = f"{part}.content_file"
        if "content" in message:
            raise self.error(location, "use content or content_file, not both")
        if not isinstance(name, str) or not name:
            raise self.error(location, "content_file must be the name of a file in this folder")
        folder = self._path.parent.resolve()
        target = (folder / name).resolve()
        if not target.is_relative_to(folder):
            raise self.error(location, f"{name!r} is not in the folder of this file; other files are not read")
        try:
            text = _text_of(target)
        except PromptFileError as error:
            raise self.error(location, f"{name!r}: {error.detail}") from None
        self.lines[f"{part}.content"] = self.lines.get(location, 0)
        return text.removesuffix("\n")

    def _value(self, node: Any, part: str, depth: int) -> Any:
        """Return the JSON value of a node. Each use of an alias counts as all the values that it stands for."""
        self.lines.setdefault(part, node.start_mark.line + 1)
        self._values_left -= 1
        if self._values_left < 0:
            raise self.error(part, f"the file has more than {limits.DEPLOY_VALUES_MAX} values, with aliases expanded")
        if depth > limits.NESTING_MAX:
            raise self.error(part, f"values are nested more than {limits.NESTING_MAX} deep")
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._value(item, f"{part}[{index}]", depth + 1) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, part, depth)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, part)
        raise self._error_at(node, f"tags such as {node.tag} are not supported: use plain lists, mappings and values")

    def _mapping(self, node: Any, part: str, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error_at(key, "a key must be a word")
            name = str(key.value)
            if name == "<<" and key.style is None:
                raise self._error_at(key, "merging with << is not supported: write the keys out")
            if name in mapping:
                raise self._error_at(key, f"{name!r} appears twice")
            child = f"{part}.{name}" if part else name
            self.lines.setdefault(child, key.start_mark.line + 1)
            mapping[name] = self._value(value, child, depth + 1)
        return mapping

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
                raise self._error_at(node, f"{text} is not a JSON number")
            return float(text)
        raise self._error_at(
            node, f"tags such as {node.tag} are not supported ({part or 'the file'}): use a plain value"
        )

    def _error_at(self, node: Any, detail: str) -> PromptFileError:
        return PromptFileError(self._path, node.start_mark.line + 1, detail)
