"""One thread that starts processes which must die with this one.

The kernel's "die with the parent" means the parent's *thread*: a sandbox that a short-lived
thread opened would be killed with that thread. So one that lives as long as we do starts all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
Job = tuple[Callable[[], Any], Future[Any]]

_guard = threading.Lock()
_queues: dict[int, SimpleQueue[Job]] = {}  # by pid: a child of fork() has none of our threads


def spawn(start: Callable[[], T]) -> T:
    """Call `start` in the spawning thread; its result or exception is passed on."""
    with _guard:
        queue = _queues.get(os.getpid())
        if queue is None:
            _queues.clear()
            queue = _queues[os.getpid()] = SimpleQueue()
            threading.Thread(
                target=_serve, args=(queue,), name="palaestra-spawner", daemon=True
            ).start()
    future: Future[T] = Future()
    queue.put((start, future))
    return future.result()


def _serve(queue: SimpleQueue[Job]) -> None:
    while True:
        start, future = queue.get()
        try:
            future.set_result(start())
        except BaseException as error:
            future.set_exception(error)
        del start, future  # they hold a sandbox, which must not live until the next start


os.register_at_fork(after_in_child=_guard._at_fork_reinit)  # type: ignore[attr-defined]
