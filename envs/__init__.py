"""Environments: what an agent acts in. They state facts; `rewards/` prices them."""

from .core import Env, Facts, Snapshot
from .tasks import Generated, Tasks
from .tools import Finish, ToolError, tool

__all__ = ["Env", "Facts", "Finish", "Generated", "Snapshot", "Tasks", "ToolError", "tool"]
