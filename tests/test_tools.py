"""Tools: schemas from signatures, validation of what a model wrote, sentences for what is wrong."""

from enum import StrEnum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from palaestra.envs import ToolError, tool
from palaestra.envs.tools import tools_of


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    x: int
    y: int = 0


class Base:
    @tool
    def greet(self) -> str:
        """Say hello."""
        return "hello"


class Toolbox(Base):
    @tool
    def paint(
        self,
        colour: Colour,
        at: Place,
        mode: Literal["wet", "dry"] = "wet",
        coats: Annotated[int, Field(ge=1, le=3)] = 1,
        tags: list[str] = [],  # noqa: B006
    ) -> str:
        """Paint something.

        It takes a while.

        Args:
            colour: which paint
            at: where
        """
        return f"{colour}{at.x}{mode}{coats}{tags}"

    @tool
    def ask(self, schema: str, copy: bool = False, json: str | None = None) -> str:
        """Ask."""
        return schema

    def helper(self) -> None:
        """Not a tool."""


TOOLS = tools_of(Toolbox)


def test_tools_come_in_the_order_of_definition_bases_first():
    assert list(TOOLS) == ["greet", "paint", "ask"]


def test_a_schema_says_what_the_signature_and_the_docstring_say():
    spec = TOOLS["paint"].spec
    assert spec.description == "Paint something. It takes a while."
    assert spec.parameters["type"] == "object"
    assert spec.parameters["required"] == ["colour", "at"]
    assert spec.parameters["additionalProperties"] is False
    properties = spec.parameters["properties"]
    assert list(properties) == ["colour", "at", "mode", "coats", "tags"]
    assert properties["colour"]["description"] == "which paint"
    assert properties["coats"] == {"type": "integer", "minimum": 1, "maximum": 3, "default": 1}
    assert properties["mode"]["enum"] == ["wet", "dry"]
    assert "title" not in str(spec.parameters)


def test_a_tool_without_arguments_has_an_empty_object():
    assert TOOLS["greet"].spec.parameters["properties"] == {}
    assert TOOLS["greet"].bind({}) == {}
    assert TOOLS["greet"].usage() == "It takes no arguments."


def test_arguments_become_python_values():
    bound = TOOLS["paint"].bind({"colour": "red", "at": {"x": "4"}, "coats": 2.0})
    assert bound == {
        "colour": Colour.RED,
        "at": Place(x=4),
        "mode": "wet",
        "coats": 2,
        "tags": [],
    }
    assert Toolbox().paint(**bound) == "red4wet2[]"


def test_a_default_is_not_shared_between_calls():
    TOOLS["paint"].bind({"colour": "red", "at": {"x": 1}})["tags"].append("x")
    assert TOOLS["paint"].bind({"colour": "red", "at": {"x": 1}})["tags"] == []


def test_a_parameter_may_have_the_name_of_a_method_of_pydantic():
    assert TOOLS["ask"].bind({"schema": "s", "json": "j"}) == {
        "schema": "s",
        "copy": False,
        "json": "j",
    }


FITS = {"colour": "red", "at": {"x": 1}}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "the argument 'colour' is missing. the argument 'at' is missing."),
        ({**FITS, "size": 3}, "there is no argument 'size'."),
        ({**FITS, "colour": "green"}, "'colour' = \"green\": Input should be 'red' or 'blue'."),
        ({**FITS, "at": {"y": 2}}, "the argument 'at.x' is missing."),
        ({**FITS, "coats": 9}, "'coats' = 9: Input should be less than or equal to 3."),
        ({**FITS, "coats": "many"}, "'coats' = \"many\": Input should be a valid integer"),
        ({**FITS, "coats": 2**70}, "less than or equal to 3"),
        ({**FITS, "tags": "x"}, "'tags' = \"x\": Input should be a valid list."),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(arguments, sentence):
    with pytest.raises(ToolError) as caught:
        TOOLS["paint"].bind(arguments)
    assert str(caught.value).startswith("paint: ")
    assert sentence in str(caught.value)
    assert "Arguments: colour (any), at (any), mode (string, optional)" in str(caught.value)


def test_a_sentence_stays_short_whatever_was_given():
    flood = {"x" * 100_000: 1, "colour": "y" * 100_000, **{f"extra{i}": i for i in range(50)}}
    with pytest.raises(ToolError) as caught:
        TOOLS["paint"].bind(flood)
    assert len(str(caught.value)) < 1000


def test_a_tool_needs_a_docstring():
    with pytest.raises(TypeError, match="'mute' needs a docstring"):

        @tool
        def mute(self) -> str:
            return ""


def test_a_parameter_needs_a_type():
    class Untyped:
        @tool
        def go(self, where) -> str:
            """Go."""
            return ""

    with pytest.raises(TypeError, match="parameter 'where' of tool 'go' has no type"):
        tools_of(Untyped)
