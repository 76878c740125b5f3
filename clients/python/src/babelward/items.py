"""The items of a stream: which are open, which are sent again, and which have their result. Knows neither network nor clock.

Items are matched by their ids. At most a window of them is taken from the input and has no result, so memory is bounded however
many there are.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import grpc

from .errors import CallError, Details, DuplicateIdError, ProtocolError, make_error
from .retry import RetryPolicy

Request = TypeVar("Request")
Event = TypeVar("Event")
Result = TypeVar("Result")
Event_contra = TypeVar("Event_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Collector(Protocol[Event_contra, Result_co]):
    """Makes the result of one item out of what the server sends for it."""

    @property
    def has_begun(self) -> bool:
        """Whether something was sent after which the item must not be sent again."""

    def take(self, event: Event_contra, /) -> Result_co | None:
        """Takes the next event; returns the result after the last one."""


class Single(Generic[Result]):
    """An item that has one message as its result."""

    #: It can be sent again until it has its result, because the server keeps nothing.
    has_begun = False

    def __init__(self, check: Callable[[Result], Result]) -> None:
        self._check = check

    def take(self, event: Result, /) -> Result | None:
        return self._check(event)


@dataclass
class Pending(Generic[Request, Event, Result]):
    """An item that has no result yet."""

    id: str
    request: Request
    #: Its number among the items, from 0.
    order: int
    collector: Collector[Event, Result]
    #: How many times in a row it has failed.
    failed: int = 0


class Items(Generic[Request, Event, Result]):
    """The items of one stream that were taken from the input and have no result."""

    def __init__(
        self,
        collector: Callable[[Request], Collector[Event, Result]],
        retry: RetryPolicy,
        jitter: Callable[[], float],
    ) -> None:
        self._new_collector = collector
        self._retry = retry
        self._jitter = jitter
        self._numbers = itertools.count()
        self._waiting: deque[Pending[Request, Event, Result]] = deque()
        self._open: dict[str, Pending[Request, Event, Result]] = {}
        # Items that failed and are sent again from a time on: a heap of time, number and item.
        self._delayed: list[tuple[float, int, Pending[Request, Event, Result]]] = []
        self._ids: set[str] = set()

    def __len__(self) -> int:
        """How many items have no result."""
        return len(self._ids)

    @property
    def open(self) -> int:
        """How many are sent and not answered."""
        return len(self._open)

    @property
    def has_waiting(self) -> bool:
        """Whether an item can be sent at once."""
        return bool(self._waiting)

    def add(self, id: str, request: Request) -> None:
        """Takes an item of the input."""
        if id in self._ids:
            raise DuplicateIdError(f"the item id `{id}` is used twice at the same time")
        self._ids.add(id)
        self._waiting.append(Pending(id, request, next(self._numbers), self._new_collector(request)))

    def next_to_send(self, now: float) -> Pending[Request, Event, Result] | None:
        """The next item to send, which is open from now on. Those whose delay is over go first."""
        if self._delayed and self._delayed[0][0] <= now:
            pending = heapq.heappop(self._delayed)[2]
        elif self._waiting:
            pending = self._waiting.popleft()
        else:
            return None
        pending.collector = self._new_collector(pending.request)
        self._open[pending.id] = pending
        return pending

    def next_wake(self) -> float | None:
        """When the next delayed item is to be sent; None without one."""
        return self._delayed[0][0] if self._delayed else None

    def receive(self, id: str, event: Event | CallError | None, now: float) -> Result | CallError | None:
        """Takes what the server says of an item; returns its result once it has one.

        An error that a retry can help with is no result until the retries are used up.
        """
        pending = self._open.get(id)
        if pending is None:
            raise ProtocolError(f"an answer for the item `{id}`, which is not open")
        if event is None:
            event = empty_answer("the answer has neither result nor error")
        if isinstance(event, CallError):
            del self._open[id]
            if event.is_retryable and not pending.collector.has_begun:
                pending.failed += 1
                delay = self._retry.delay(pending.failed, event.hint, self._jitter())
                if delay is not None:
                    heapq.heappush(self._delayed, (now + delay, pending.order, pending))
                    return None
            self._ids.remove(id)
            return event
        result: Result | CallError | None
        try:
            result = pending.collector.take(event)
        except ProtocolError as wrong:
            if pending.collector.has_begun:
                raise
            result = empty_answer(str(wrong))
        if result is not None:
            del self._open[id]
            self._ids.remove(id)
        return result

    def break_off(self, error: CallError) -> list[tuple[str, CallError]]:
        """The stream broke: what is open goes first into the next one, but for items that have begun to answer.

        Those end with the stream's error, and are returned.
        """
        begun = [pending for pending in self._open.values() if pending.collector.has_begun]
        again = [pending for pending in self._open.values() if not pending.collector.has_begun]
        self._open.clear()
        self._waiting.extendleft(sorted(again, key=lambda pending: pending.order, reverse=True))
        self._ids -= {pending.id for pending in begun}
        return [(pending.id, error) for pending in begun]


def empty_answer(message: str) -> CallError:
    """The error of an item whose answer has no result in it."""
    return make_error(grpc.StatusCode.INTERNAL, message, Details(reason="EMPTY_ANSWER"))


def ended_early() -> CallError:
    """The error of a stream that ended well before all of its items were answered."""
    return make_error(
        grpc.StatusCode.UNAVAILABLE,
        "the server ended the stream before all items were answered",
        Details(reason="STREAM_ENDED_EARLY"),
    )
