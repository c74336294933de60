"""Policy specs: `tiny`, `hf:DIR_OR_ID`, `python:module:callable`, `expert`, `random`, `null`"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core import PalaestraError, did_you_mean
from ..envs import Env
from ..envs.registry import import_module
from .agent import Agent, AgentMaker, Policy, Sampling
from .scripted import SCRIPTED

SPECS = ("tiny", "hf:DIR_OR_ID", "python:module:callable", *SCRIPTED)


@dataclass
class LoadedPolicy:
    """What a spec names: how to make the agent of an episode, and what has to be closed."""

    spec: str
    make_agent: AgentMaker
    policy: Policy | None = None

    def close(self) -> None:
        if self.policy:
            self.policy.close()


def load_policy(
    spec: str, envs: list[Env], sampling: Sampling, max_context: int = 2048, slots: int = 64
) -> LoadedPolicy:
    """Read a spec; `envs` are those it will act in (the untrained `tiny` is built from them)."""
    kind, _, rest = spec.partition(":")
    if spec in SCRIPTED:
        return LoadedPolicy(spec, seeded(SCRIPTED[spec]))
    if kind == "python":
        return LoadedPolicy(spec, seeded(imported(spec, rest)))
    if kind == "hf" and rest:
        return chat_policy(spec, rest, sampling, max_context, slots)
    if spec == "tiny":
        from . import tiny

        with tempfile.TemporaryDirectory(prefix="palaestra-tiny-") as folder, quiet_transformers():
            tiny.build(Path(folder), envs)
            return chat_policy(spec, folder, sampling, max_context, slots)
    raise PalaestraError(f"no policy is called '{spec}'.{did_you_mean(spec, SPECS)}")


def imported(spec: str, path: str) -> AgentMaker:
    """The callable that `module:callable` names."""
    module, _, name = path.rpartition(":")
    if not module or not name:
        raise PalaestraError(f"'{spec}' is not of the form python:module:callable")
    found = getattr(import_module(module), name, None)
    if not callable(found):
        raise PalaestraError(f"the module '{module}' has no callable '{name}'")
    return found  # type: ignore[no-any-return]


def seeded(maker: AgentMaker) -> AgentMaker:
    """Agents whose seed is their episode's own: of its seed, and of which sibling it is."""

    def make(env: Env, sample: int) -> Agent:
        sequence = np.random.SeedSequence([env.episode.seed, sample])
        agent = maker(env, int(sequence.generate_state(1)[0]))
        if not callable(getattr(agent, "act", None)):
            raise PalaestraError(
                "an agent is an object with act(conversation, tools) -> Message; "
                f"the callable of this policy made {agent!r:.60}"
            )
        return agent

    return make


def chat_policy(
    spec: str, model: str, sampling: Sampling, max_context: int, slots: int
) -> LoadedPolicy:
    from .chat import ChatTemplate

    tokenizer, network = load_model(model)
    template = ChatTemplate(tokenizer)
    engine = make_engine(network, slots, max_context)
    return LoadedPolicy(spec, chat_maker(engine, template, sampling), engine)


def make_engine(network: Any, slots: int, max_context: int) -> Policy:
    """The embedded engine, its context no longer than the model's positions."""
    from .engine import TorchEngine

    positions = getattr(network.config, "max_position_embeddings", None) or max_context
    return TorchEngine(network, slots, min(max_context, positions))


def chat_maker(engine: Policy, template: Any, sampling: Sampling) -> AgentMaker:
    """Chat agents whose noise is keyed by (sampling seed, episode seed, sample)."""
    from .chat import ChatAgent

    def make(env: Env, sample: int) -> ChatAgent:
        task, seed = env.task, env.episode.seed
        keyed = replace(sampling, noise=(*sampling.noise, seed, sample))
        return ChatAgent(engine, template, keyed, f"{task.env}/{task.id}/{seed}/{sample}")

    return make


def load_model(model: str) -> tuple[Any, Any]:
    """Tokenizer and causal LM of a directory or hub id, in the dtype they were saved in."""
    folder = Path(model).expanduser()
    local = folder.is_dir() or model.startswith((".", "/", "~")) or model.count("/") > 1
    if local:
        _check_directory(folder, model)
    source = str(folder) if local else model
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            network = AutoModelForCausalLM.from_pretrained(source)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            first = str(error).strip().splitlines()[0]
            what = f"'{model}'" if local else f"'{model}' (there is no such folder here)"
            raise PalaestraError(f"cannot load the model {what}: {first}") from None
    return tokenizer, network


def _check_directory(folder: Path, model: str) -> None:
    if not folder.is_dir():
        raise PalaestraError(f"there is no model directory '{model}'")
    needed = {
        "config.json": ["config.json"],
        "weights (*.safetensors)": ["*.safetensors", "*.bin"],
        "tokenizer (tokenizer.json)": ["tokenizer.json", "*.model", "vocab.*", "*.tiktoken"],
    }
    for what, patterns in needed.items():
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            raise PalaestraError(f"the model directory '{model}' has no {what}")


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars for loading and saving a model that takes milliseconds."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
