"""Reading a model's text: total on every text, and the inverse of writing."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from palaestra.core import Message, ToolCall, calling
from palaestra.parse import hermes, to_hermes

MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
PIECES = st.sampled_from(
    [
        *MARKS,
        "\n",
        " ",
        '{"name": "look", "arguments": ',
        '{"shelf": 1}',
        "}",
        '"',
        "\\ud800",
        "NaN",
    ]
)


@given(st.text() | st.lists(PIECES | st.text(max_size=3)).map("".join))
@example("<tool_call>" * 100)
@example("\ud800")
def test_every_text_is_read(text):
    message = hermes(text)
    assert message.role == "assistant"
    assert message.raw == text
    assert all(call.error or call.name for call in message.tool_calls)
    assert [call.id for call in message.tool_calls] == [
        f"call_{i}" for i in range(len(message.tool_calls))
    ]


PROSE = st.text(st.characters(exclude_categories=["Cs"])).map(str.strip)
QUOTED = st.lists(st.sampled_from(MARKS) | st.text(max_size=5)).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | QUOTED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(QUOTED, inner, max_size=3),
    max_leaves=5,
)


@given(
    reasoning=PROSE.filter(lambda text: not any(mark in text for mark in MARKS)),
    content=PROSE.filter(lambda text: not any(mark in text for mark in MARKS)),
    calls=st.lists(st.tuples(st.text(min_size=1), st.dictionaries(QUOTED, VALUES)), max_size=3),
)
def test_what_is_written_is_read_back(reasoning, content, calls):
    made = tuple(ToolCall(name, args, f"call_{i}") for i, (name, args) in enumerate(calls))
    written = to_hermes(Message("assistant", content, reasoning, made))
    assert hermes(written) == Message("assistant", content, reasoning, made, raw=written)


def test_a_quoted_mark_does_not_end_the_call():
    query = "what does </tool_call> mean, and <tool_call>, and </think>?"
    (call,) = hermes(to_hermes(calling("search", query=query))).tool_calls
    assert call.arguments == {"query": query}


def test_text_thought_and_calls_are_told_apart():
    message = hermes(
        "<think>\nfirst look\n</think>\n\nI look.\n"
        '<tool_call>\n{"name": "look", "arguments": {"shelf": 1}}\n</tool_call>\n'
        '<tool_call>{"name": "look", "arguments": "{\\"shelf\\": 2}"}</tool_call>'
    )
    assert message.reasoning == "first look"
    assert message.content == "I look."
    assert [call.arguments for call in message.tool_calls] == [{"shelf": 1}, {"shelf": 2}]


def test_a_thought_that_the_template_opened_is_a_thought():
    message = hermes('hm</think><tool_call>{"name": "look"}</tool_call>')
    assert (message.reasoning, message.content) == ("hm", "")
    assert message.tool_calls == (ToolCall("look", {}, "call_0"),)


def test_a_call_cut_off_at_the_end_is_still_read():
    (call,) = hermes('<tool_call>{"name": "look", "arguments": {}}').tool_calls
    assert call == ToolCall("look", {}, "call_0")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("{", "not valid JSON"),
        ("[" * 50_000, "not valid JSON"),
        ("9" * 5000, "not valid JSON"),
        ("[]", "names no tool"),
        ("{}", "names no tool"),
        ('{"name": 3}', "names no tool"),
        ('{"name": "look", "arguments": 3}', "not a JSON object"),
        ('{"name": "look", "arguments": null}', "not a JSON object"),
        ('{"name": "look", "arguments": "{"}', "not a JSON object"),
        ('{"name": "look", "arguments": {"x": NaN}}', "not a number that JSON knows"),
        ('{"name": "look", "arguments": "{\\"x\\": NaN}"}', "not a number that JSON knows"),
        ('{"name": "\\udc00", "arguments": {}}', "surrogate"),
        ('{"name": "look", "arguments": ' + '{"x":' * 60 + "1" + "}" * 61, "levels deep"),
    ],
)
def test_a_call_that_cannot_be_used_says_why(body, error):
    (call,) = hermes(f"<tool_call>{body}</tool_call>").tool_calls
    assert error in call.error
    assert call.arguments == {}
    assert len(call.error) < 500


@pytest.mark.parametrize(
    "unit", [" ", "<think>", "<tool_call>", "{", "<", "</think>", "\n<tool_call"]
)
def test_reading_takes_time_in_proportion_to_the_text(unit):
    started = time.perf_counter()
    hermes(unit * (200_000 // len(unit)))
    assert time.perf_counter() - started < 2
