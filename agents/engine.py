"""The embedded engine: any Hugging Face causal LM in torch, many episodes at once.

Every episode is a *session* that owns a slot of the KV cache for its whole life, so that a turn
costs only its new tokens; siblings copy the cache of their shared prompt. The engine runs in a
thread of its own and batches whatever is waiting.

It is batch-invariant by construction: every forward pass has a fixed number of rows (idle ones are
filled with a scratch slot), the visible cache is padded to a length that depends on the row's own
length only, and the noise of a token is keyed by (noise key, position). So an episode comes out bit
for bit the same alone, among many, and in any order of arrival (same machine, threads and weights).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import queue
import struct
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from .agent import Completion, ContextFull, Sampling

DECODE_ROWS = 32
PREFILL_ROWS = 8
PREFILL_CHUNK = 32


@dataclass
class _Session:
    """An episode's place in the cache: `ids[:cached]` have their keys and values stored."""

    slot: int
    ids: list[int] = field(default_factory=list)
    cached: int = 0
    request: _Request | None = None

    @property
    def waiting(self) -> int:
        """Ids that must be in the cache before the next token can be sampled."""
        return len(self.ids) - 1 - self.cached


@dataclass
class _Request:
    session: str
    ids: list[int]
    sampling: Sampling
    future: Future[Completion]
    version: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TorchEngine:
    """A `Policy` over a transformers model; see the module's docstring.

    Args:
        model: a causal LM in eval mode; the engine owns it (weights come in through `load`).
        slots: how many episodes may be alive at once; more wait for a free slot.
        max_context: tokens an episode may have in all.
    """

    def __init__(self, model: Any, slots: int = 128, max_context: int = 1024):
        self.model = model.eval()
        self.max_context = max_context
        self.version = 0
        self.sampled_tokens = 0
        self.audit: list[tuple[str, tuple[int, ...], tuple[int, ...]]] | None = None
        """When set to a list, gets (session, ids consumed, ids produced) of every request."""
        self._cache = _SlotCache(model, slots + 1, max_context + PREFILL_CHUNK)
        self._free = list(range(slots))[::-1]
        self._scratch = slots
        self._sessions: dict[str, _Session] = {}
        self._backlog: list[_Request] = []
        self._inbox: queue.Queue[Any] = queue.Queue()
        self._door = threading.Lock()
        self._dead: BaseException | None = None
        self._once = itertools.count()
        self._thread = threading.Thread(target=self._serve, name="palaestra-engine", daemon=True)
        self._thread.start()

    # ---- the Policy protocol ---------------------------------------------------------------

    async def sample(self, ids: Sequence[int], sampling: Sampling, session: str = "") -> Completion:
        """Continue `ids`. Raises ContextFull when not even one token fits."""
        if len(ids) + 1 > self.max_context:
            raise ContextFull(f"{len(ids)} tokens; the context holds {self.max_context}")
        name = session or f"once-{next(self._once)}"
        request = _Request(name, list(ids), sampling, Future())
        self._put(request)
        try:
            return await asyncio.wrap_future(request.future)
        finally:
            if not session:
                self.release(name)

    def release(self, session: str) -> None:
        with contextlib.suppress(RuntimeError):  # a dead engine holds no session
            self._put(session)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Copy `weights` (a state dict) in; caches made with the old ones are forgotten."""
        done: Future[None] = Future()
        self._put((weights, version, done))
        done.result(timeout=600)

    def close(self) -> None:
        """Stop the thread; requests under way fail. May be called twice."""
        with contextlib.suppress(RuntimeError):
            self._put(None)
        self._thread.join(timeout=60)

    def _put(self, item: Any) -> None:
        """Hand something to the thread; raises when there is nobody to take it."""
        with self._door:
            if self._dead is not None:
                raise RuntimeError(f"the engine has stopped: {self._dead}") from self._dead
            self._inbox.put(item)

    # ---- the thread ------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            with torch.inference_mode():
                while self._receive():
                    self._admit()
                    if not self._prefill():
                        self._decode()
            self._fail(RuntimeError("it was closed"))
        except BaseException as error:  # the callers get it; a thread has nobody to tell
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """No caller may wait forever: everything under way, and all that comes, gets the error."""
        with self._door:
            self._dead = error
        waiting: list[Future[Any]] = [request.future for request in self._backlog]
        waiting += [s.request.future for s in self._sessions.values() if s.request]
        while not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, _Request):
                waiting.append(item.future)
            elif isinstance(item, tuple):
                waiting.append(item[2])
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    def _receive(self) -> bool:
        """Take in everything that has arrived; wait for something when there is nothing to do."""
        while True:
            busy = self._backlog or any(s.request for s in self._sessions.values())
            try:
                item = self._inbox.get(block=not busy)
            except queue.Empty:
                return True
            if item is None:
                return False
            if isinstance(item, _Request):
                item.version = self.version
                self._backlog.append(item)
            elif isinstance(item, str):
                self._drop(item)
            else:
                self._load(*item)

    def _load(self, weights: Mapping[str, Tensor], version: int, done: Future[None]) -> None:
        try:
            self.model.load_state_dict(weights)
            self.version = version
            for session in self._sessions.values():
                session.cached = 0
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    def _drop(self, name: str) -> None:
        self._backlog = [request for request in self._backlog if request.session != name]
        if session := self._sessions.pop(name, None):
            self._free.append(session.slot)

    def _admit(self) -> None:
        """Give every waiting request its session; a new one takes over a sibling's prompt."""
        later = []
        for request in self._backlog:
            session = self._sessions.get(request.session)
            if session is not None and session.request is not None:
                later.append(request)  # one reply of a session at a time
                continue
            if session is None:
                if not self._free:
                    later.append(request)
                    continue
                twin = self._twin(request.ids)
                if twin and twin.cached < len(request.ids) - 1:
                    if twin.request:  # the prompt is being computed: share it when done
                        later.append(request)
                        continue
                    twin = None
                session = self._sessions[request.session] = _Session(self._free.pop())
                if twin:
                    self._cache.copy(twin.slot, session.slot, len(request.ids) - 1)
                    session.ids, session.cached = list(request.ids), len(request.ids) - 1
            if session.ids[: session.cached] != request.ids[: session.cached]:
                session.cached = 0
            session.cached = min(session.cached, len(request.ids) - 1)
            session.ids = list(request.ids)
            session.request = request
        self._backlog = later

    def _twin(self, ids: list[int]) -> _Session | None:
        """A live session that began with the same prompt."""
        size = len(ids)
        for session in self._sessions.values():
            if len(session.ids) >= size and session.ids[:size] == ids:
                return session
        return None

    def _prefill(self) -> bool:
        """One chunk for the sessions that wait for the most; False when nobody waits."""
        waiting = [s for s in self._sessions.values() if s.request and s.waiting > 0]
        if not waiting:
            return False
        size = self._bucket(waiting[0].cached + PREFILL_CHUNK)
        rows = [s for s in waiting if self._bucket(s.cached + PREFILL_CHUNK) == size][:PREFILL_ROWS]
        ids = torch.zeros(PREFILL_ROWS, PREFILL_CHUNK, dtype=torch.long)
        for row, session in enumerate(rows):
            chunk = session.ids[session.cached : len(session.ids) - 1][:PREFILL_CHUNK]
            ids[row, : len(chunk)] = torch.tensor(chunk)
        self._forward(rows, ids, size, logits=False)
        for session in rows:
            session.cached += min(PREFILL_CHUNK, session.waiting)
        return True

    def _decode(self) -> None:
        """One token for every session that is ready, in batches of equal cache length."""
        batches: dict[int, list[_Session]] = {}
        for session in self._sessions.values():
            if session.request:
                batches.setdefault(self._bucket(len(session.ids)), []).append(session)
        for size, ready in batches.items():
            for start in range(0, len(ready), DECODE_ROWS):
                rows = ready[start : start + DECODE_ROWS]
                ids = torch.zeros(DECODE_ROWS, 1, dtype=torch.long)
                ids[: len(rows), 0] = torch.tensor([session.ids[-1] for session in rows])
                logits = self._forward(rows, ids, size, logits=True)
                tokens, logprobs = choose(logits[: len(rows)], *_how(rows))
                for session, token, logprob in zip(rows, tokens, logprobs, strict=True):
                    self._accept(session, token, logprob)

    def _forward(self, rows: list[_Session], ids: Tensor, size: int, logits: bool) -> Any:
        """Run `ids` [rows, time] after each row's cached ids, seeing `size` cache places."""
        device = self.model.device
        count, time = ids.shape
        slots = torch.full((count,), self._scratch, dtype=torch.long)
        starts = torch.zeros(count, dtype=torch.long)
        slots[: len(rows)] = torch.tensor([session.slot for session in rows])
        starts[: len(rows)] = torch.tensor([session.cached for session in rows])
        positions = starts[:, None] + torch.arange(time)
        visible = torch.arange(size) <= positions[..., None]  # [rows, time, cache]
        self._cache.aim(slots.to(device), positions.to(device), size)
        run = self.model if logits else self.model.base_model
        out = run(
            input_ids=ids.to(device),
            attention_mask=visible[:, None].to(device),
            position_ids=positions.to(device),
            past_key_values=self._cache,
            use_cache=True,
        )
        return out.logits[:, -1].float() if logits else None

    def _bucket(self, length: int) -> int:
        """The cache length that a row of `length` sees: 128, 256, 512, ..., at most all places."""
        return min(max(128, 1 << (length - 1).bit_length()), self.max_context + PREFILL_CHUNK)

    def _accept(self, session: _Session, token: int, logprob: float) -> None:
        request = session.request
        assert request is not None
        session.cached = len(session.ids)
        session.ids.append(token)
        request.tokens.append(token)
        request.logprobs.append(logprob)
        self.sampled_tokens += 1
        stopped = token in request.sampling.stop
        if stopped or len(request.tokens) >= request.sampling.max_tokens:
            session.request = None
            if self.audit is not None:
                self.audit.append((request.session, tuple(request.ids), tuple(request.tokens)))
            completion = Completion(
                tuple(request.tokens),
                tuple(request.logprobs),
                "stop" if stopped else "length",
                request.version,
            )
            if request.future.set_running_or_notify_cancel():  # its caller may have gone
                request.future.set_result(completion)


class _SlotCache(Cache):
    """Keys and values of every slot, preallocated; `aim` says which rows a forward pass is for.

    Stored per layer as [slots, heads, places, dim]; `update` writes the new places of the aimed
    rows and returns their first `size` places.
    """

    def __init__(self, model: Any, slots: int, places: int):
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (slots, heads, places, dim)
        layers = range(config.num_hidden_layers)
        kind = {"dtype": model.dtype, "device": model.device}
        self.layers = []
        self.keys = [torch.zeros(shape, **kind) for _ in layers]
        self.values = [torch.zeros(shape, **kind) for _ in layers]

    def aim(self, slots: Tensor, positions: Tensor, size: int) -> None:
        self._slots, self._positions, self._size = slots, positions, size

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """key, value: [rows, heads, time, dim]."""
        where = (self._slots[:, None], slice(None), self._positions)
        for store, new in ((self.keys[layer_idx], key), (self.values[layer_idx], value)):
            store[where] = new.transpose(1, 2)
        return (
            self.keys[layer_idx][self._slots, :, : self._size],
            self.values[layer_idx][self._slots, :, : self._size],
        )

    def copy(self, source: int, target: int, count: int) -> None:
        """Give `target` the first `count` places of `source`."""
        for store in (*self.keys, *self.values):
            store[target, :, :count] = store[source, :, :count]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    @property
    def is_compileable(self) -> bool:
        return False


def _how(rows: list[_Session]) -> tuple[list[Sampling], list[float]]:
    settings = [session.request.sampling for session in rows if session.request]
    noise = [
        uniform(setting.noise, len(session.ids))
        for setting, session in zip(settings, rows, strict=True)
    ]
    return settings, noise


def uniform(key: tuple[int, ...], position: int) -> float:
    """A number in [0, 1) that depends on the key and the position alone."""
    packed = ",".join(map(str, (*key, position))).encode()
    digest = hashlib.blake2b(packed, digest_size=8).digest()
    return int(struct.unpack("<Q", digest)[0] >> 11) / (1 << 53)


def choose(
    logits: Tensor, settings: Sequence[Sampling], noise: Sequence[float]
) -> tuple[list[int], list[float]]:
    """One token per row of `logits` [rows, vocabulary], with its log-probability.

    The log-probability is that of the distribution sampled from (temperature, top-k and top-p
    applied); greedy rows report the model's own distribution.
    """
    heat = torch.tensor([s.temperature or 1.0 for s in settings], device=logits.device)
    logits = logits / heat[:, None]
    for row, setting in enumerate(settings):
        if setting.temperature and (setting.top_k or setting.top_p < 1.0):
            logits[row] = _truncate(logits[row], setting)
    logprobs = torch.log_softmax(logits, dim=-1)
    cumulative = logprobs.double().exp().cumsum(dim=-1)
    point = torch.tensor(noise, dtype=torch.float64, device=logits.device)[:, None]
    sampled = torch.searchsorted(cumulative, point * cumulative[:, -1:], right=True)[:, 0]
    sampled = sampled.clamp(max=logits.shape[-1] - 1)
    greedy = torch.tensor([s.temperature == 0 for s in settings], device=logits.device)
    tokens = torch.where(greedy, logits.argmax(dim=-1), sampled)
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), chosen.tolist()


def _truncate(logits: Tensor, setting: Sampling) -> Tensor:
    """Outside the top k and the nucleus p, probability is zero. logits: [vocabulary]."""
    ranked, order = logits.sort(descending=True, stable=True)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if setting.top_k:
        keep[setting.top_k :] = False
    if setting.top_p < 1.0:
        mass = ranked.softmax(dim=-1).cumsum(dim=-1)
        keep &= (mass - ranked.softmax(dim=-1)) < setting.top_p
    dropped = order[~keep]
    logits = logits.clone()
    logits[dropped] = -torch.inf
    return logits
