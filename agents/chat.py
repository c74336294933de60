"""From conversations to token ids and back, through the model's own chat template.

`ChatTemplate` renders append-only: the opening once, then only what came after the sampled reply,
so that no sampled token is ever encoded again. `ChatAgent` turns a token `Policy` into an `Agent`
and keeps the token ledger. What an environment or a user says is always encoded as ordinary text:
strings that look like special tokens get no special ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..core import Message, PalaestraError, StopReason, ToolSpec
from ..parse import Parser, hermes, to_hermes
from .agent import Policy, Sampling
from .trajectory import Segment

_MARK = re.compile("\ue000(\\d+)\ue001")


class ChatTemplate:
    """The template of a tokenizer, rendered piece by piece.

    Raises PalaestraError when there is no template, when it shows no tools, or when it is not
    append-only: rendering a conversation must extend the rendering of its beginning.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise PalaestraError(
                f"the model '{tokenizer.name_or_path}' has no chat template; use a chat model, or "
                "put a chat_template.jinja into its folder"
            )
        self._added = {id for id in tokenizer.get_added_vocab().values()}
        tokens = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
        self._lookalike = re.compile("|".join(map(re.escape, tokens))) if tokens else None
        self._openings: dict[str, tuple[int, ...]] = {}
        self._glue: dict[Any, list[str | int]] = {}
        self._probe()
        self.end = self._encode_pieces(self._after_reply([Message("user", "x")])[:1])[0]
        eos = tokenizer.eos_token_id
        self.stop_ids = tuple(dict.fromkeys([self.end, *([] if eos is None else [eos])]))

    def opening(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> tuple[int, ...]:
        """The ids of the conversation's start, up to where the assistant begins to write."""
        key = repr((messages, tools))
        if key not in self._openings:
            if len(self._openings) > 1024:
                self._openings.clear()
            pieces = self._render(messages, tools)
            self._openings[key] = tuple(self._encode_pieces(pieces))
        return self._openings[key]

    def follow(self, replies: Sequence[Message], ended: bool) -> tuple[int, ...]:
        """The ids between a sampled reply and the next one.

        `ended` says that the reply's last sampled id was its end token, which then is not
        repeated.
        """
        ids = self._encode_pieces(self._after_reply(replies))
        return tuple(ids[1:] if ended else ids)

    def reply(self, message: Message) -> tuple[int, ...]:
        """The ids of a recorded reply with its end token: encoded exactly once, for SFT."""
        return (*self._encode(message.raw or to_hermes(message)), self.end)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a sampled reply, without the token that ended it."""
        ids = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def encode_text(self, text: str) -> list[int]:
        """Ordinary text: bytes unchanged, never an added token's id."""
        ids: list[int] = []
        start = 0
        for match in self._lookalike.finditer(text) if self._lookalike else ():
            ids += self._encode(text[start : match.start() + 1])
            start = match.start() + 1
        ids += self._encode(text[start:])
        if not self._added.isdisjoint(ids):
            raise PalaestraError(f"ordinary text was encoded with special ids: {text[:80]!r}")
        return ids

    # ---- rendering -------------------------------------------------------------------------

    def _render(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), more: bool = True
    ) -> list[str | Message]:
        """The template's text with every content left out, as pieces: glue, message, glue, ..."""
        wires = []
        for index, message in enumerate(messages):
            wire = message.to_openai() | {"content": f"\ue000{index}\ue001"}
            calls = zip(wire.get("tool_calls", ()), message.tool_calls, strict=True)
            for shown, call in calls:  # templates want objects, not JSON strings
                shown["function"]["arguments"] = dict(call.arguments)
            wires.append(wire)
        text = self._apply(wires, [spec.to_openai() for spec in tools], more)
        pieces: list[str | Message] = []
        for position, part in enumerate(_MARK.split(text)):
            pieces.append(messages[int(part)] if position % 2 else part)
        shown = [piece for piece in pieces if isinstance(piece, Message)]
        if len(shown) != len(messages):
            roles = sorted({message.role for message in messages})
            raise PalaestraError(f"the chat template does not show every message (roles {roles})")
        return pieces

    def _apply(self, wires: list[dict[str, Any]], tools: list[Any], more: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    wires, tools=tools or None, add_generation_prompt=more, tokenize=False
                )
            )
        except Exception as error:  # a template raises whatever its author chose
            raise PalaestraError(f"the chat template refused a conversation: {error}") from None

    def _after_reply(self, replies: Sequence[Message]) -> list[str | Message]:
        """The pieces that follow an assistant's content when `replies` come next.

        The template runs once per sequence of roles; contents are filled in.
        """
        key = tuple((reply.role, reply.tool_call_id) for reply in replies)
        if key not in self._glue:
            stub = [Message("user", "x"), Message("assistant", "y")]
            numbered = [replace(reply, content=str(i)) for i, reply in enumerate(replies)]
            pieces = self._render([*stub, *numbered])
            after = pieces[pieces.index(stub[1]) + 1 :]
            self._glue[key] = [p if isinstance(p, str) else int(p.content) for p in after]
        return [piece if isinstance(piece, str) else replies[piece] for piece in self._glue[key]]

    def _encode_pieces(self, pieces: Sequence[str | Message]) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            ids += (
                self._encode(piece) if isinstance(piece, str) else self.encode_text(piece.content)
            )
        return ids

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _probe(self) -> None:
        """Refuse a template that hides tools or rewrites what was said before."""
        tool = ToolSpec("probe_tool", "A tool.", {"type": "object", "properties": {}})
        start = [Message("system", "s"), Message("user", "q")]
        reply, result = Message("assistant", "hello"), Message("tool", "r", tool_call_id="call_0")
        opening = _text(self._render(start, [tool]))
        if "probe_tool" not in opening:
            raise PalaestraError("the chat template does not show tools; use one that does")
        whole = _text(self._render([*start, reply, result], [tool]))
        after = _text(self._after_reply([result]))
        if not after or opening + reply.content + after != whole:
            raise PalaestraError(
                "the chat template is not append-only: a later message changes how earlier ones "
                "are rendered, so sampled tokens could not be kept"
            )
        if self.tokenizer.decode(self.encode_text("a <b>\n c")) != "a <b>\n c":
            raise PalaestraError("the tokenizer does not return the text that it was given")


def _text(pieces: Sequence[str | Message]) -> str:
    return "".join(piece if isinstance(piece, str) else piece.content for piece in pieces)


class ChatAgent:
    """One episode of a policy: samples replies, parses them, keeps every token in `segments`.

    After a reply that could not be finished, `stop` says why; the rollout then ends the episode.
    """

    def __init__(
        self,
        policy: Policy,
        template: ChatTemplate,
        sampling: Sampling,
        session: str,
        parser: Parser = hermes,
    ):
        self.policy, self.template, self.parser = policy, template, parser
        self.sampling = replace(sampling, stop=sampling.stop or template.stop_ids)
        self.session = session
        self.segments: list[Segment] = []
        self.stop: StopReason | None = None
        self._ids: list[int] = []
        self._seen = 0
        self._turn = 0
        self._ended = True

    async def act(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> Message:
        """Sample the next reply to the whole conversation so far."""
        if self._turn == 0:
            given = self.template.opening(conversation, tools)
        else:
            given = self.template.follow(conversation[self._seen :], self._ended)
        self._seen = len(conversation) + 1  # the reply comes next
        self._add(Segment(given, False, self._turn, len(self.segments) - 1))
        room = self.policy.max_context - len(self._ids)
        if room < 1:
            self.stop = StopReason.CONTEXT_FULL
            return Message("assistant")
        sampling = replace(self.sampling, max_tokens=min(self.sampling.max_tokens, room))
        done = await self.policy.sample(self._ids, sampling, self.session)
        self._add(
            Segment(
                done.tokens, True, self._turn, len(self.segments) - 1, done.logprobs, done.version
            )
        )
        self._turn += 1
        self._ended = done.finish == "stop"
        if not self._ended:
            full = room <= self.sampling.max_tokens
            self.stop = StopReason.CONTEXT_FULL if full else StopReason.MAX_TOKENS
        return self.parser(self.template.decode(done.tokens))

    def close(self) -> None:
        """The episode is over: the policy may forget its cache."""
        self.policy.release(self.session)

    def _add(self, segment: Segment) -> None:
        self.segments.append(segment)
        self._ids.extend(segment.ids)
