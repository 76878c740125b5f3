"""A growing text that a guard looks at: what is sent of it, and what may be shown. Knows no network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from . import v1
from .errors import ProtocolError, whole_text

#: Most bytes of a chunk.
_CHUNK_BYTES = 65536

#: What the server says of a growing text.
GuardEvent: TypeAlias = (
    "v1.GuardReleased | v1.GuardLook | v1.GuardRetracted | v1.GuardHeartbeat | v1.GuardEnded"
)


def check_text_is_final(mode: v1.GuardMode.ValueType) -> None:
    """Refuses a mode that takes back text that was given, which a plain iterator of texts cannot say."""
    if mode == v1.GUARD_MODE_OPTIMISTIC:
        raise ValueError("in OPTIMISTIC mode text may have to be taken back: use events(), which says when")


class GrowingText:
    """The bytes that were sent, and how many of them are released."""

    def __init__(self, start: v1.GuardStart) -> None:
        self.start = start
        self._sent = bytearray()
        self._released = 0
        #: How the text ended; None before its end.
        self.ended: v1.GuardEnded | None = None

    def begin(self) -> v1.GuardStreamRequest:
        """The first message."""
        return v1.GuardStreamRequest(start=self.start)

    def grow(self, chunk: str | bytes) -> Iterator[v1.GuardStreamRequest]:
        """The messages of the next piece of the text. A code point may be split between two pieces."""
        data = chunk.encode() if isinstance(chunk, str) else bytes(chunk)
        self._sent += data
        for begin in range(0, len(data), _CHUNK_BYTES):
            yield v1.GuardStreamRequest(chunk=data[begin : begin + _CHUNK_BYTES])

    @staticmethod
    def end() -> v1.GuardStreamRequest:
        """The message that says that the text is complete."""
        return v1.GuardStreamRequest(end=v1.GuardEnd())

    def take(self, response: v1.GuardStreamResponse) -> GuardEvent | None:
        """Takes what the server says; None for an event of a later version, which releases nothing."""
        if self.ended is not None:
            raise ProtocolError("an event after the end of the text")
        kind = response.WhichOneof("event")
        if kind == "released":
            return response.released
        if kind == "look":
            return response.look
        if kind == "retracted":
            return response.retracted
        if kind == "heartbeat":
            return response.heartbeat
        if kind == "ended":
            self.ended = response.ended
            return response.ended
        return None

    def newly_released(self, event: GuardEvent) -> str:
        """The text that may be shown since this event; empty for most events."""
        if not isinstance(event, v1.GuardReleased):
            return ""
        if not self._released <= event.released_bytes <= len(self._sent):
            raise ProtocolError(
                f"{event.released_bytes} bytes are released of {len(self._sent)} that were sent"
            )
        text = whole_text(self._sent[self._released : event.released_bytes])
        self._released = event.released_bytes
        return text

    def check_ended(self) -> None:
        """Refuses a stream that is over without having said how the text ended."""
        if self.ended is None:
            raise ProtocolError("the stream is over, and the text has no end")
