"""Spaces for conversations: they sample, contain, compare and pickle."""

import copy
import pickle
from typing import Annotated, Literal

import numpy as np
from gymnasium.vector.utils import batch_space
from pydantic import BaseModel, Field

from palaestra.core import Message, ToolSpec, user
from palaestra.envs import tool
from palaestra.envs.spaces import AssistantAction, Messages
from palaestra.envs.tools import tools_of


class Point(BaseModel):
    x: int
    y: Annotated[float, Field(gt=0.1, lt=0.2)]


class Toolbox:
    @tool
    def every(
        self,
        point: Point,
        const: Literal["only"],
        choice: Literal["a", "b"],
        near: Annotated[int, Field(gt=3, lt=5)],
        low: Annotated[int, Field(le=-7)],
        high: Annotated[int, Field(ge=100)],
        share: Annotated[float, Field(ge=0.0, le=1.0)],
        flag: bool,
        names: Annotated[list[str], Field(min_length=2, max_length=2)],
        maybe: int | None = None,
    ) -> str:
        """Every kind of argument that a signature can ask for."""
        return ""

    @tool
    def nothing(self) -> str:
        """No argument."""
        return ""


TOOLS = tools_of(Toolbox)


def actions(seed=0):
    return AssistantAction([each.spec for each in TOOLS.values()], seed=seed)


def test_sampled_calls_fit_their_schemas():
    space = actions()
    made = [call for _ in range(300) for call in space.sample().tool_calls]
    assert {call.name for call in made} == {"every", "nothing"}
    for call in made:
        TOOLS[call.name].bind(call.arguments)


def test_a_sample_is_sometimes_mere_text():
    space = actions()
    assert any(not space.sample().tool_calls for _ in range(100))
    assert AssistantAction().sample().tool_calls == ()


def test_samples_are_decided_by_the_seed():
    one, other = actions(seed=5), actions(seed=5)
    assert [one.sample() for _ in range(20)] == [other.sample() for _ in range(20)]
    space = Messages(seed=3)
    first = [space.sample() for _ in range(10)]
    space.seed(3)
    assert [space.sample() for _ in range(10)] == first


def test_an_action_is_an_assistant_message_or_text():
    space = actions()
    assert Message("assistant") in space
    assert "" in space
    assert user("hello") not in space
    assert 3 not in space


def test_an_observation_is_a_tuple_of_messages():
    space = Messages()
    assert () in space
    assert (user("hello"), Message("tool", "x")) in space
    assert [user("hello")] not in space
    assert ("hello",) not in space
    assert all(space.sample() in space for _ in range(20))


def test_spaces_are_equal_when_they_mean_the_same():
    assert actions(seed=1) == actions(seed=2)
    assert actions() != AssistantAction()
    assert actions() != AssistantAction([ToolSpec("every", "", {})])
    assert Messages() == Messages()
    assert Messages() != actions()


def test_spaces_pickle_copy_and_print():
    for space in (Messages(seed=1), actions(seed=1)):
        assert pickle.loads(pickle.dumps(space)) == space
        assert copy.deepcopy(space).sample() == space.sample()
    assert repr(actions()) == "AssistantAction(['every', 'nothing'])"


def test_a_batch_of_a_space_samples_and_contains():
    batch = batch_space(actions(), 3)
    sample = batch.sample()
    assert len(sample) == 3
    assert sample in batch


def test_a_generator_may_be_given_for_a_seed():
    rng = np.random.default_rng(0)
    assert Messages(seed=rng).np_random is rng
