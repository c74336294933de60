"""Tools are ordinary methods: `@tool` derives name, description and JSON schema from the code.

Arguments written by a model are validated by pydantic against the signature; what does not fit
becomes a `ToolError`, a sentence that the model reads.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic  # by name only: its parts load when a tool is built, not at start

from ..core import ToolSpec


class ToolError(Exception):
    """The model's mistake, as the sentence it will read. The episode goes on."""


class Finish(Exception):
    """Raised by a tool that ends the episode; its text, if any, is the last reply."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool's spec, the model of its arguments, and the method it calls."""

    spec: ToolSpec
    arguments: type[pydantic.BaseModel]
    method: str

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Validated keyword arguments; raises ToolError saying what was wrong and what fits."""
        try:
            bound = self.arguments.model_validate(dict(arguments))
        except pydantic.ValidationError as error:
            raise ToolError(f"{self.spec.name}: {_sentence(error)} {self.usage()}") from None
        return {name: getattr(bound, name) for name in type(bound).model_fields}

    def usage(self) -> str:
        """`Arguments: query (string), k (integer, optional).`"""
        properties = self.spec.parameters["properties"]
        required = self.spec.parameters.get("required", ())
        parts = [
            f"{name} ({_type_word(schema)}{'' if name in required else ', optional'})"
            for name, schema in properties.items()
        ]
        return f"Arguments: {', '.join(parts)}." if parts else "It takes no arguments."


def tool(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method callable by the policy.

    Its first docstring paragraph is the description; an `Args:` section describes parameters.
    """
    if not inspect.getdoc(method):
        raise TypeError(f"the tool '{method.__name__}' needs a docstring: the model reads it")
    method.__palaestra_tool__ = True  # type: ignore[attr-defined]
    return method


@functools.cache
def tools_of(cls: type) -> dict[str, Tool]:
    """The tools of a class by name, in the order of definition, bases first."""
    names = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
    marked = [n for n in names if getattr(getattr(cls, n, None), "__palaestra_tool__", False)]
    return {name: _build(name, getattr(cls, name)) for name in marked}


def _build(name: str, method: Callable[..., Any]) -> Tool:
    description, about = _read_docstring(inspect.getdoc(method) or "")
    hints = typing.get_type_hints(method, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        if parameter.name not in hints:
            raise TypeError(f"parameter '{parameter.name}' of tool '{name}' has no type")
        default = ... if parameter.default is parameter.empty else parameter.default
        text = about.get(parameter.name)
        fields[parameter.name] = (hints[parameter.name], pydantic.Field(default, description=text))
    with warnings.catch_warnings():  # a parameter may well be called "schema" or "copy"
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
        model = pydantic.create_model(
            name, __config__=pydantic.ConfigDict(extra="forbid"), **fields
        )
    schema = _without_titles(model.model_json_schema())
    schema.setdefault("properties", {})
    return Tool(ToolSpec(name, description, schema), model, name)


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    head, _, section = text.partition("\nArgs:")
    about = dict(re.findall(r"^\s+(\w+):\s*(.+)$", section, re.MULTILINE))
    return " ".join(head.split()), about


def _without_titles(schema: Any) -> Any:
    """pydantic titles every field after its own name; models do not need to read that."""
    if isinstance(schema, dict):
        return {
            key: {k: _without_titles(v) for k, v in value.items()}
            if key in ("properties", "$defs")
            else _without_titles(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    if isinstance(schema, list):
        return [_without_titles(each) for each in schema]
    return schema


def _type_word(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type_word(each) for each in schema["anyOf"])
    return str(schema.get("type", "any"))


def _sentence(error: pydantic.ValidationError) -> str:
    parts = []
    for detail in error.errors():
        where = ".".join(str(part) for part in detail["loc"])[:80]
        if detail["type"] == "missing":
            parts.append(f"the argument '{where}' is missing.")
        elif detail["type"] == "extra_forbidden":
            parts.append(f"there is no argument '{where}'.")
        else:
            given = json.dumps(detail["input"], ensure_ascii=False, default=str)[:80]
            parts.append(f"'{where}' = {given}: {detail['msg']}.")
    return " ".join(parts[:4])
