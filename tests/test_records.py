"""Episodes on disk: what was written is read, and can be priced again."""

import math

import pytest

import palaestra
from palaestra.agents import evaluate, records
from palaestra.agents.rollout import Envs
from palaestra.agents.scripted import SCRIPTED
from palaestra.agents.trajectory import Segment, Trajectory
from palaestra.core import (
    Entry,
    Episode,
    Fault,
    Ledger,
    Message,
    PalaestraError,
    StopReason,
    Task,
    ToolCall,
    Turn,
)

IDS = ["palaestra/Stockroom-v0", "palaestra/Search-v0", "palaestra/SQL-v0"]


def play(id, policy, n=4):
    jobs = evaluate.jobs_for(id, 100, n, 1, seed=3)
    return evaluate.run(jobs, Envs(palaestra.make), SCRIPTED[policy], policy=policy)


@pytest.mark.parametrize("policy", ["expert", "random", "null"])
@pytest.mark.parametrize("id", IDS)
def test_what_was_played_is_read_as_it_was_and_priced_the_same(tmp_path, id, policy):
    played = play(id, policy)
    records.write(tmp_path / "deep" / "episodes.jsonl", played)
    read = list(records.read(tmp_path / "deep" / "episodes.jsonl"))
    assert read == played
    rubric = palaestra.make(id).rubric
    assert [rubric.price(each.episode) for each in read] == [each.ledger for each in played]


def strange() -> Trajectory:
    """Everything that a record can hold, with values that are easy to lose."""
    text = 'line\nline\r\u2028 "quoted" \\ \x00 é 漢 🎲 <|im_end|>'
    call = ToolCall("look", {"shelf": 1, "deep": {"list": [None, True, 0.1, text]}}, "call_0")
    message = Message("assistant", text, "because", (call,), raw=text)
    turn = Turn(message, (Message("tool", text, tool_call_id="call_0"),), {"seen": [1]}, (message,))
    task = Task("t", "me/Mine-v0", "test", (message,), {"a": [1]}, {"b": None}, 7, ("x", "y"))
    fault = Fault("machine", "no power")
    episode = Episode(task, (message,), (turn,), {"seen": [1]}, StopReason.BROKEN, fault, 2**40)
    ledger = Ledger((Entry(0, 0, "fault", "outcome", None, 1.0, text, False, "closed"),))
    segments = (Segment((1, 2), False, 0, -1), Segment((3,), True, 0, 0, (-1 / 3,), 4))
    return Trajectory(episode, ledger, segments, "3/1", 2, "tiny", {"env": 1e-9})


def test_no_text_or_number_changes_on_its_way(tmp_path):
    records.write(tmp_path / "one.jsonl", [strange(), strange()])
    assert (tmp_path / "one.jsonl").read_bytes().count(b"\n") == 2
    assert list(records.read(tmp_path / "one.jsonl")) == [strange(), strange()]
    read = next(records.read(tmp_path / "one.jsonl"))
    assert type(read.episode.stop) is StopReason
    assert math.isclose(read.segments[1].logprobs[0], -1 / 3, rel_tol=0, abs_tol=0)


@pytest.mark.parametrize(
    ("line", "why"), [("{oops", "JSON"), ("{}", "episode"), ("", "JSON"), ("[]", "object")]
)
def test_a_broken_line_is_named_by_its_number(tmp_path, line, why):
    path = tmp_path / "episodes.jsonl"
    good = records.dump(strange())
    path.write_text(f"{good}\n{line}\n{good}\n", encoding="utf-8")
    reading = records.read(path)
    assert next(reading) == strange()
    with pytest.raises(PalaestraError, match=rf"episodes.jsonl, line 2: .*{why}"):
        next(reading)


def test_a_file_that_is_replaced_is_never_half_written(tmp_path):
    path = tmp_path / "episodes.jsonl"
    records.write(path, [strange()])

    def cut_short():
        yield strange()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write(path, cut_short())
    assert list(records.read(path)) == [strange()]
