"""Palaestra: environments, rewards and GRPO training for tool-using language agents."""

from .core import (
    Broken,
    Entry,
    Episode,
    Ledger,
    Message,
    PalaestraError,
    StopReason,
    Task,
    ToolCall,
    ToolSpec,
    Turn,
    calling,
    system,
    user,
)
from .envs import Env, Finish, Generated, Tasks, ToolError, tool
from .envs.registry import make, register, register_all
from .rewards import Rubric, Score, Term

__version__ = "0.1.0"
__all__ = [
    "Broken",
    "Entry",
    "Env",
    "Episode",
    "Finish",
    "Generated",
    "Ledger",
    "Message",
    "PalaestraError",
    "Rubric",
    "Score",
    "StopReason",
    "Task",
    "Tasks",
    "Term",
    "ToolCall",
    "ToolError",
    "ToolSpec",
    "Turn",
    "calling",
    "make",
    "register",
    "system",
    "tool",
    "user",
]

register_all()
