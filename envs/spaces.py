"""Gymnasium spaces for conversations: `Messages` (observations) and `AssistantAction` (actions).

Gymnasium's own `Text` refuses blanks by default and knows no structure. Both spaces here sample,
contain, compare by value and pickle, as `check_env`, `make_vec` and wrappers need.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from ..core import Message, ToolCall, ToolSpec

_WORDS = ("the", "a", "shelf", "answer", "name", "city", "SELECT", "*", "0", "é", "\n", "<b>")


class Messages(gymnasium.Space[tuple[Message, ...]]):
    """Tuples of messages: the new ones since the agent's last turn."""

    def __init__(self, seed: int | np.random.Generator | None = None):
        super().__init__(shape=None, dtype=None, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> tuple[Message, ...]:
        count = int(self.np_random.integers(0, 3))
        roles = self.np_random.choice(["user", "tool"], size=count)
        return tuple(Message(str(role), _text(self.np_random)) for role in roles)  # type: ignore[arg-type]

    def contains(self, x: Any) -> bool:
        return isinstance(x, tuple) and all(isinstance(each, Message) for each in x)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Messages)

    def __repr__(self) -> str:
        return "Messages()"


class AssistantAction(gymnasium.Space["Message | str"]):
    """One assistant message, or its raw text. `sample()` is the random policy."""

    def __init__(
        self, tools: Sequence[ToolSpec] = (), seed: int | np.random.Generator | None = None
    ):
        self.tools = tuple(tools)
        super().__init__(shape=None, dtype=None, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> Message:
        """A random call of a random tool with arguments that fit its schema; sometimes text."""
        rng = self.np_random
        if not self.tools or rng.random() < 0.1:
            return Message("assistant", _text(rng))
        spec = self.tools[int(rng.integers(len(self.tools)))]
        arguments = _value(rng, spec.parameters)
        return Message("assistant", tool_calls=(ToolCall(spec.name, arguments, "call_0"),))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) or (isinstance(x, Message) and x.role == "assistant")

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AssistantAction) and _wire(self.tools) == _wire(other.tools)

    def __repr__(self) -> str:
        return f"AssistantAction({[spec.name for spec in self.tools]})"


def _wire(tools: Sequence[ToolSpec]) -> str:
    return json.dumps([spec.to_openai() for spec in tools], sort_keys=True)


def _text(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(_WORDS, size=int(rng.integers(0, 6))))


def _value(rng: np.random.Generator, schema: Mapping[str, Any], defs: Any = None) -> Any:
    """A random value that fits a JSON schema of the kinds that signatures produce."""
    defs = schema.get("$defs", defs or {})
    if "$ref" in schema:
        return _value(rng, defs[schema["$ref"].rpartition("/")[2]], defs)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][int(rng.integers(len(schema["enum"])))]
    if "anyOf" in schema:
        return _value(rng, schema["anyOf"][int(rng.integers(len(schema["anyOf"])))], defs)
    match schema.get("type"):
        case "object":
            required = schema.get("required", ())
            return {
                name: _value(rng, each, defs)
                for name, each in schema.get("properties", {}).items()
                if name in required or rng.random() < 0.5
            }
        case "array":
            low, high = schema.get("minItems", 0), schema.get("maxItems", 99)
            size = int(rng.integers(low, min(low + 2, high) + 1))
            return [_value(rng, schema.get("items", {}), defs) for _ in range(size)]
        case "integer":
            low, high = _range(schema)
            low = math.floor(low) + 1 if "exclusiveMinimum" in schema else math.ceil(low)
            high = math.ceil(high) - 1 if "exclusiveMaximum" in schema else math.floor(high)
            return int(rng.integers(low, max(low, high) + 1))
        case "number":
            low, high = _range(schema)
            return float(low + (high - low) * int(rng.integers(1, 1000)) / 1000)
        case "boolean":
            return bool(rng.random() < 0.5)
        case "null":
            return None
        case _:
            return _text(rng)


def _range(schema: Mapping[str, Any]) -> tuple[float, float]:
    """The schema's bounds; where it has none, about -2 to 9."""
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        low = -2 if high is None else min(-2, high - 2)
    return low, max(9, low + 9) if high is None else high
