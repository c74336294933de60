"""The vocabulary: conversions, sums, and JSON that is unfit to be passed on."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core import (
    MAX_DEPTH,
    Entry,
    Episode,
    Fault,
    Ledger,
    Message,
    StopReason,
    Task,
    ToolCall,
    Turn,
    calling,
    did_you_mean,
    flaw_in,
    user,
)

NAMES = st.text("abc_", min_size=1)
CALLS = st.builds(
    ToolCall,
    NAMES,
    st.dictionaries(NAMES, st.none() | st.booleans() | st.integers() | st.text()),
    st.just("call_0"),
)
MESSAGES = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.text(),
    st.text(),
    st.lists(CALLS).map(tuple),
    st.sampled_from(["", "call_0"]),
)


@given(MESSAGES)
def test_a_message_survives_the_form_of_openai(message):
    wire = json.loads(json.dumps(message.to_openai()))
    assert Message.from_openai(wire) == message


@pytest.mark.parametrize(
    ("arguments", "flaw"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 5000, "not JSON"),
        ('{"x": 1e999}', "inf is not a number"),
        ('{"x": ["\\ud800"]}', "half of a surrogate pair"),
        ('{"x": ' + "[" * 40 + "]" * 40 + "}", f"more than {MAX_DEPTH} levels"),
    ],
)
def test_arguments_that_cannot_be_used_become_a_call_that_says_so(arguments, flaw):
    wire = {"id": "c", "function": {"name": "look", "arguments": arguments}}
    message = Message.from_openai({"role": "assistant", "content": None, "tool_calls": [wire]})
    (call,) = message.tool_calls
    assert (call.name, call.arguments, call.id) == ("look", {}, "c")
    assert flaw in call.error


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_json_without_a_flaw_can_be_written_and_encoded(value):
    if not flaw_in(value):
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def test_keys_are_looked_at_too():
    assert "surrogate" in flaw_in({"a": {"\ud800": 1}})


def an_episode():
    task = Task("t", "env", "train", (user("go"),))
    turns = (
        Turn(calling("look", shelf=0), (Message("tool", "rope"),), {"seen": 1, "tool_error": ""}),
        Turn(calling("look", shelf=9), (Message("tool", "Error"),), {"tool_error": "no shelf"}),
        Turn(calling("answer", shelf=0), (Message("tool", "Done."),), {"solved": True}),
    )
    facts = {"opened": 0, "seen": 1, "tool_error": "no shelf", "solved": True}
    return Episode(
        task, task.messages, turns, facts, StopReason.FINISHED, start={"opened": 0, "seen": 0}
    )


def test_an_episode_as_it_stood_earlier_knows_nothing_of_later():
    episode = an_episode()
    assert episode.upto(-1).facts == {"opened": 0, "seen": 0}
    assert episode.upto(0).facts == {"opened": 0, "seen": 1, "tool_error": ""}
    early = episode.upto(1)
    assert early.facts == {"opened": 0, "seen": 1, "tool_error": "no shelf"}
    assert len(early.turns) == 2
    assert early.stop is None
    assert episode.upto(2).facts == episode.facts


def test_the_conversation_holds_what_was_seen_and_written_in_order():
    contents = [message.content for message in an_episode().conversation()]
    assert contents == ["go", "", "rope", "", "Error", "", "Done."]


def test_a_fault_makes_an_episode_invalid():
    task = Task("t", "env", "train", ())
    assert Episode(task).valid
    assert not Episode(task, error=Fault("disk", "full")).valid


def test_records_pickle():
    assert pickle.loads(pickle.dumps(an_episode())) == an_episode()


LINES = (
    Entry(0, 0, "seen", "process", 0.5, weight=0.2),
    Entry(0, 2, "care", "process", 1.0, weight=0.1, gate="open"),
    Entry(1, 2, "care", "process", 1.0, weight=0.1, gate="closed"),
    Entry(2, 2, "solved", "outcome", 1.0, evidence="rows match"),
)


def test_a_ledger_sums_by_turn_by_kind_and_by_name():
    ledger = Ledger(LINES)
    assert ledger.total == pytest.approx(1.2)
    assert [ledger.paid(turn) for turn in range(3)] == pytest.approx([0.1, 0.0, 1.1])
    assert ledger.by_turn(3) == pytest.approx([0.2, 0.0, 1.0])
    assert ledger.by_kind() == pytest.approx({"process": 0.2, "outcome": 1.0})
    assert ledger.by_name() == pytest.approx({"seen": 0.1, "care": 0.1, "solved": 1.0})


def test_a_line_that_could_not_be_judged_takes_the_total_away():
    unjudged = Entry(1, 1, "judge", "outcome", None, valid=False)
    ledger = Ledger((*LINES, unjudged))
    assert not ledger.valid
    assert ledger.total is None
    assert ledger.paid(1) == 0.0


def test_a_line_without_weight_need_not_be_judged():
    ledger = Ledger((*LINES, Entry(1, 1, "judge", "outcome", None, weight=0.0, valid=False)))
    assert ledger.total == pytest.approx(1.2)


def test_a_ledger_can_be_read():
    unjudged = Entry(1, 1, "judge", "outcome", None, valid=False)
    lines = Ledger((*LINES, unjudged)).explain().splitlines()
    assert lines[0].split() == ["turn", "1", "process", "seen", "+0.100"]
    assert "gate closed" in lines[2]
    assert "rows match" in lines[3]
    assert "could not be judged" in lines[4]
    assert lines[-1] == "total invalid"


def test_a_wrong_name_gets_the_near_ones_and_all_known_ones():
    assert did_you_mean("stokroom", ["stockroom", "sql"]) == (
        " Did you mean 'stockroom'? Known: sql, stockroom."
    )
    assert did_you_mean("zzz", ["sql"]) == " Known: sql."
