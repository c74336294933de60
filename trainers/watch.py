"""What a person sees of a run: progress bars with time left on stderr, and a clean Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Stopped(Exception):
    """A person asked for a stop, and this is a good place."""


class Watch:
    """Progress on stderr. The first Ctrl-C sets `stopping`; the second one interrupts at once."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.stopping = False

    def say(self, text: str) -> None:
        if not self.quiet:
            _console().print(text)

    @contextlib.contextmanager
    def phase(
        self, name: str, total: int, done: int, steps: bool = False
    ) -> Iterator[Callable[[str], None]]:
        """A bar over `total` units of which `done` are behind; call the result once per unit.

        The call raises `Stopped` when that was asked for, unless the units are training `steps`:
        these end with a checkpoint first.
        """

        def stop_here() -> None:
            if self.stopping and not steps:
                raise Stopped

        if self.quiet:
            yield lambda text: stop_here()
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns: tuple[Any, ...] = (
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=_console(), refresh_per_second=2) as progress:
            bar = progress.add_task(name, total=total, completed=done, text="")

            def tick(text: str) -> None:
                progress.update(bar, advance=1, text=text)
                stop_here()

            yield tick

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """While inside, Ctrl-C asks for a stop after the current step."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(*_: Any) -> None:
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            self.say("stopping after this step (Ctrl-C again stops at once, losing the step)")

        previous = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)
