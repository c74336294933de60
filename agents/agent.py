"""Who acts: the two protocols `Agent` and `Policy`, and what a policy's sample looks like.

An `Agent` answers a conversation with a message (experts, heuristics, endpoints). A `Policy`
continues token ids (engines). `ChatAgent` makes the second into the first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..core import Message, ToolSpec
from ..envs import Env


class Agent(Protocol):
    """Acts in one episode. `act` may be a coroutine function."""

    def act(
        self, conversation: Sequence[Message], tools: Sequence[ToolSpec]
    ) -> Message | Awaitable[Message]: ...


AgentMaker = Callable[[Env, int], Agent]
"""Makes the agent of one episode from its environment and a seed."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample one reply.

    `noise` keys the randomness: the same ids, weights and key give the same reply, whatever else
    is in the batch. `temperature=0` is greedy.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[int, ...] = ()
    noise: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a policy sampled: ids, their log-probabilities under the distribution sampled from.

    `finish` is "stop" (the last id is a stop id) or "length". `version` counts weight updates.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]
    version: int = 0


class ContextFull(Exception):
    """The ids and the tokens to sample do not fit into the policy's context."""


class Policy(Protocol):
    """A token engine. `session` lets it keep the KV cache between the turns of an episode."""

    max_context: int

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, session: str = ""
    ) -> Completion: ...

    def release(self, session: str) -> None:
        """The episode is over: forget its cache."""

    def load(self, weights: Any, version: int) -> None:
        """Replace the weights; later completions carry `version`."""

    def close(self) -> None: ...
