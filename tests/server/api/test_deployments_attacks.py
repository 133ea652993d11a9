"""Templates are data: nothing in them or in a value is executed, opened or imported, and none costs more than its size.

The watch is `sys.addaudithook`, which cannot be taken off again, so it runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import httpx
import pytest

from everycall import limits
from everycall.server.diff import changes, lines, unified
from everycall.server.gateway.templates import fill, fill_messages, pieces, variables_of
from everycall.server.store.values import Deployment

HOSTILE = [
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{cycler.__init__.__globals__}}",
    "{{x.__class__.__mro__[1].__subclasses__()}}",
    "{x.__class__.__init__.__globals__}",
    "{0.__class__} {x!r:>1000000000} {{{x}}}",
    "%(x)s %c%n%s %1000000000d" + "%c" * 10,
    "${x} $x $(id) `id` #{x} <%= x %> {% include '/etc/passwd' %} {%- for a in x -%}",
    "__import__('os').system('id')",
    "{{x|attr('__class__')}} {{x()}} {{ x }} {{x y}} {{}} {{{{x}}}}",
    "{{__import__}}{{exec}}{{open}}{{self}}{{config}}",
    "!!python/object/apply:os.system ['id']",
    "f'{x}' rf\"{y}\" \\x7b\\x7bx\\x7d\\x7d \\N{LEFT CURLY BRACKET}",
    "{{\u202ex}} {{x\u0000}} {{ｘ}} {{\ud800}}",
]

WATCHED = """
import json, sys
import msgspec
from everycall.server.deployments import DeploymentRequest, as_deployment
from everycall.server.diff import changes, lines, unified
from everycall.server.gateway.preparation import merge
from everycall.server.gateway.request import CompletionRequest
from everycall.server.gateway.templates import fill, pieces, variables_of

hostile = json.loads(sys.stdin.read())
decoder = msgspec.json.Decoder(DeploymentRequest)
values = {"x": hostile[0], "y": {"z": hostile[1:]}, "exec": "{{x}}", "open": 1, "__import__": None}

def everything():
    for text in hostile:
        body = {"name": text, "model": text, "messages": [{"content": text}, {"content": [{"text": text}]}]}
        given = decoder.decode(msgspec.json.encode(body))
        made = as_deployment(given, "p", "me")
        filled = merge(CompletionRequest(deployment_id="d", llm_inputs=values), made)
        variables_of(made.messages), list(pieces(text)), fill(text, values)
        changes(None, made), unified(None, made), filled.as_json()

hostile = [text for text in hostile if text.isprintable()] or hostile
everything()  # imports what is imported late
seen = []
sys.addaudithook(lambda event, arguments: seen.append(event))
everything()
harmless = {"object.__getattr__", "builtins.id"}  # of the JSON encoder
json.dump(sorted(set(seen) - harmless), sys.stdout)
"""


def test_nothing_is_executed_opened_or_imported() -> None:
    import json

    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input=json.dumps(HOSTILE),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_the_audit_hook_would_notice_it() -> None:
    """With a template engine, the same hook notices compilation and execution."""
    program = (
        "import sys, jinja2\nseen = []\nsys.addaudithook(lambda event, _: seen.append(event))\n"
        "jinja2.Template('{{ x.__class__ }}').render(x=1)\nprint('compile' in seen, 'exec' in seen)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["True", "True"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_unchanged(text: str) -> None:
    assert "".join(piece for piece, _ in pieces(text)) == text
    assert fill("{{x}}", {"x": text}) == text
    assert fill("a {{x}} {{x}} b", {"x": text, "y": "never"}) == f"a {text} {text} b"
    assert fill(text, {"no such name": "never"}) == text


def test_a_value_is_not_a_template() -> None:
    """Not if a value names another one, nor if it becomes a variable together with the text around it."""
    values = {"x": "{{y}}", "y": "{{x}}", "z": "{{", "w": "}}"}
    assert fill("{{x}} {{y}}", values) == "{{y}} {{x}}"
    assert fill("{{z}}x{{w}}", values) == "{{x}}"
    assert fill("{{{{x}}}}", values) == "{{{{y}}}}"
    assert fill_messages([{"role": "user", "content": "{{z}}y}}"}], values)[0]["content"] == "{{y}}"


def test_ten_thousand_variables_in_a_long_template() -> None:
    names = [f"v{number}" for number in range(10_000)]
    template = " ".join(f"{{{{{name}}}}}" for name in names)
    assert 64_000 < len(template) < limits.TEMPLATE_CHARS_MAX
    assert variables_of([{"content": template}]) == names
    assert fill(template, {name: name.upper() for name in names}) == " ".join(names).upper()
    assert fill("{{v1}}", dict.fromkeys(names, "x")) == "x"


@pytest.mark.parametrize(
    "piece", ["{{", "{{a", "}}", "{{{{}}", "{{a}", "{{" + "a" * 500, "{ {", "{{é", "{{x}}{"], ids=range(9)
)
def test_templates_that_almost_match_take_linear_time(piece: str) -> None:
    """The longest template of each kind is read in linear time."""
    template = piece * (limits.TEMPLATE_CHARS_MAX // len(piece))
    assert fill(template, {"b": "c"}) == template
    assert "".join(text for text, _ in pieces(template)) == template


def test_hostile_text_is_sent_to_the_provider_unchanged(gateway_server: Any, provider: Any) -> None:
    texts = [text for text in HOSTILE if text.isprintable()]
    with httpx.Client(base_url=gateway_server.address, headers={"x-api-key": gateway_server.key}) as client:
        for number, text in enumerate(texts):
            body = {"name": "n", "model": "gpt-4o", "messages": [{"role": "user", "content": f"{{{{v}}}} {text}"}]}
            client.put(f"/api/deployments/d{number}", json=body).raise_for_status()
            asked = {"deployment_id": f"d{number}", "llm_inputs": {"v": text, "x.__class__": "no"}}
            assert client.post("/api/parea/v1/completion", json=asked).json()["status"] == "success"
            prompt = client.post("/api/parea/v1/deployed-prompt", json=asked).json()["prompt"]
            assert prompt["messages"][0]["content"] == f"{text} {text}"
    assert [request.messages[0]["content"] for request in provider.requests] == [f"{text} {text}" for text in texts]


# --- comparing has a bound too ---


def version(number: int, content: str) -> Deployment:
    messages = ({"role": "user", "content": content},)
    return Deployment("d", number, "p", "n", messages, "m", "p")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n".join(str(n % 97) for n in range(90_000)), "\n".join(str(n % 89) for n in range(90_000))),
        ("a\n" * 120_000, "b\n" * 120_000),
        ("\n".join(map(str, range(999))), "\n".join(map(str, reversed(range(999))))),
        ("x" * 250_000, "y" * 250_000),
    ],
    ids=["cycles", "repeats", "reversed", "one line"],
)
def test_long_texts_are_compared_within_a_bound(old: str, new: str) -> None:
    """And the result is right: the lines of each side, in order, are the text of that side."""
    before, after = version(1, old), version(2, new)
    compared = lines(before, after)
    assert [line.text for line in compared if line.before] == [line.text for line in lines(None, before)]
    assert [line.text for line in compared if line.after] == [line.text for line in lines(None, after)]
    assert [line.before for line in compared if line.before] == list(range(1, old.count("\n") + 7))
    assert [one.field for one in changes(before, after)] == ["messages[0].content"]
    assert unified(before, after).startswith("--- d version 1\n+++ d version 2\n@@ -")


def test_unified_text_can_be_applied() -> None:
    """Hunks count their lines as `patch` expects them."""
    old = "\n".join(f"line {n}" for n in range(60))
    new = old.replace("line 7\n", "").replace("line 30", "changed\ntwice").replace("line 59", "end")
    before, after = version(1, old), version(2, new)
    source = [line.text for line in lines(None, before)]
    target: list[str] = []
    at = 0
    for line in unified(before, after).splitlines()[2:]:
        if line.startswith("@@ "):
            first = int(line.split()[1].lstrip("-").split(",")[0]) - 1
            target += source[at:first]
            at = first
        elif line[0] in " -":
            assert source[at] == line[1:]
            at += 1
            target += [line[1:]] if line[0] == " " else []
        else:
            target.append(line[1:])
    assert target + source[at:] == [line.text for line in lines(None, after)]
