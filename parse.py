"""Reading a model's text into a Message: one function per call grammar, all total.

A parser never raises on model text. A call that cannot be read becomes a `ToolCall` whose
`error` says what is wrong; the environment answers it with that sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from .core import Message, ToolCall, flaw_in

Parser = Callable[[str], Message]

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_MARKS = ("<tool_call>", "</tool_call>", "</think>")
_ARRIVES = 'a call is <tool_call>{"name": ..., "arguments": {...}}</tool_call>'


def hermes(text: str) -> Message:
    """Hermes / Qwen grammar: `<think>...</think>` then text and `<tool_call>{json}</tool_call>`.

    >>> hermes('<tool_call>{"name": "look", "arguments": {"shelf": 1}}</tool_call>').tool_calls
    (ToolCall(name='look', arguments={'shelf': 1}, id='call_0', error=''),)
    """
    thought, closed, rest = text.partition("</think>")
    if not closed:
        thought, rest = "", text
    reasoning = thought.strip().removeprefix("<think>").strip()
    calls = tuple(_call(match.group(1), i) for i, match in enumerate(_CALL.finditer(rest)))
    content = _CALL.sub("", rest).strip()
    return Message("assistant", content, reasoning, calls, raw=text)


def _call(body: str, index: int) -> ToolCall:
    name, arguments, error = _read_call(body.strip())
    return ToolCall(name, arguments, f"call_{index}", error)


def _read_call(body: str) -> tuple[str, dict[str, Any], str]:
    try:
        wire = json.loads(body)
    except (ValueError, RecursionError) as error:
        return "", {}, f"this tool call is not valid JSON ({str(error)[:200]}); {_ARRIVES}"
    if not isinstance(wire, dict) or not isinstance(wire.get("name"), str):
        return "", {}, f"this tool call names no tool; {_ARRIVES}"
    if flaw := flaw_in(wire):
        return "", {}, f"this tool call cannot be used: {flaw}"
    arguments = wire.get("arguments", {})
    if isinstance(arguments, str):  # some models quote the object once more
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        return wire["name"], {}, f"the arguments of '{wire['name'][:80]}' are not a JSON object"
    if flaw := flaw_in(arguments):
        return wire["name"], {}, f"the arguments of '{wire['name'][:80]}' cannot be used: {flaw}"
    return wire["name"], arguments, ""


PARSERS: dict[str, Parser] = {"hermes": hermes}


def to_hermes(message: Message) -> str:
    """The text a model would have sampled for `message`; `hermes` reads it back."""
    parts = [f"<think>\n{message.reasoning}\n</think>\n"] if message.reasoning else []
    if message.content:
        parts.append(message.content)
    for call in message.tool_calls:
        wire = {"name": call.name, "arguments": dict(call.arguments)}
        body = json.dumps(wire, ensure_ascii=False)
        if any(mark in body for mark in _MARKS):  # quoted by the model: must not end the call
            body = body.replace("<", "\\u003c")
        parts.append(f"<tool_call>\n{body}\n</tool_call>")
    return "\n".join(parts)
