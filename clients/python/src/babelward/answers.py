"""Answers of targets: from the events of a generation to its text.

Every delta says where it begins and the last event has a digest of the text, so an answer from which something is missing is
an error and no answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from . import v1
from .errors import ProtocolError, whole_text

#: Ends of a guarded answer after which the call ends well. After any other, its error follows.
_ENDS_WELL = (v1.GuardEnded.REASON_COMPLETE, v1.GuardEnded.REASON_POLICY)


@dataclass(frozen=True)
class Answer:
    """A generation that has come to its end."""

    #: What may be shown of it. Where a guard has blocked the answer this is its beginning: `finished.finish_reason` is then
    #: FINISH_REASON_GUARD, and `finished.guard` says why.
    text: str
    token_ids: tuple[int, ...]
    started: v1.GenerateStarted
    finished: v1.GenerateFinished


class AnswerBuilder:
    """Joins the events of one generation, and checks that they belong together."""

    def __init__(self, request: v1.GenerateRequest) -> None:
        self._is_guarded = request.HasField("guard")
        holding = (v1.GUARD_MODE_UNSPECIFIED, v1.GUARD_MODE_HOLD_BACK)
        self._holds_back = self._is_guarded and request.guard.options.mode in holding
        # Bytes that looks which found nothing unsafe cover.
        self._covered = 0
        self._text = bytearray()
        self._kept: int | None = None
        self._token_ids: list[int] = []
        self.started: v1.GenerateStarted | None = None
        self.finished: v1.GenerateFinished | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the server has answered with anything, so that the request must not be sent again."""
        return self.started is not None

    @property
    def text(self) -> str:
        """The text so far, without what was retracted."""
        return whole_text(self._text[: self._kept])

    def take(self, event: v1.GenerateResponse) -> Answer | None:
        """Takes the next event, and returns the answer after the last one."""
        kind = event.WhichOneof("event")
        if kind == "started":
            if self.started is not None:
                raise ProtocolError("an answer that has started twice")
            self.started = event.started
            return None
        if self.started is None or self.finished is not None:
            raise ProtocolError(f"an answer with {kind} before its start or after its end")
        if kind == "delta":
            self._take_delta(event.delta)
        elif kind == "look":
            if event.look.outcome != v1.GuardLook.OUTCOME_UNSAFE:
                self._covered = max(self._covered, event.look.text_bytes)
        elif kind == "retracted":
            self._kept = event.retracted.kept_bytes
        elif kind == "finished":
            return self._finish(self.started, event.finished)
        return None

    def _take_delta(self, delta: v1.GenerateDelta) -> None:
        if delta.offset_bytes != len(self._text):
            raise ProtocolError(
                f"a delta at byte {delta.offset_bytes} of an answer with {len(self._text)} bytes so far"
            )
        self._text += delta.text.encode()
        self._token_ids += delta.token_ids
        if self._holds_back and len(self._text) > self._covered:
            raise ProtocolError("the server does not guard the answer: is it older than this client?")

    def _finish(self, started: v1.GenerateStarted, finished: v1.GenerateFinished) -> Answer | None:
        if self._is_guarded and not finished.HasField("guard"):
            raise ProtocolError("the server does not guard the answer: is it older than this client?")
        if finished.text_digest != "sha256:" + hashlib.sha256(self._text).hexdigest():
            raise ProtocolError("the text of the answer is not the one that the server wrote")
        self.finished = finished
        if finished.HasField("guard") and finished.guard.reason not in _ENDS_WELL:
            return None
        return Answer(self.text, tuple(self._token_ids), started, finished)
