"""Streams of grpc's blocking interface: items, answers, and growing texts."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import grpc

from . import v1
from .answers import Answer, AnswerBuilder
from .connection import Options
from .errors import CallError, ProtocolError, StreamGaveUpError, from_rpc
from .growing import GrowingText, GuardEvent, check_text_is_final
from .items import Event, Items, Request, Result, ended_early
from .methods import ItemMethod, Message, Reply, StreamOptions

Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)
Streamed = TypeVar("Streamed", bound="Streaming[Any]")


class StreamCall(Protocol[Response_co]):
    """A call of grpc's blocking interface that answers with several messages."""

    def __iter__(self) -> Iterator[Response_co]: ...
    def cancel(self) -> object: ...
    def initial_metadata(self) -> object: ...
    def is_active(self) -> bool: ...


#: How often the end of a call without headers is looked for, and how many seconds apart.
_END_LOOKS = 20
_END_PAUSE = 0.005


def is_accepted(call: StreamCall[Any]) -> bool:
    """Whether the server goes on with a call; waits for its headers.

    A refusal has none, and grpc shows the end of the call some time after that. This service's headers are never empty.
    """
    if call.initial_metadata():
        return True
    for _ in range(_END_LOOKS):
        if not call.is_active():
            return False
        time.sleep(_END_PAUSE)
    return True


#: A stub's method that takes a stream and answers with one.
OpenCall = Callable[[Iterator[Message]], "StreamCall[Reply]"]


class _Ended:
    """The last thing that a reader says."""


class _Connection(Generic[Message, Reply]):
    """One call of a stream: grpc takes the messages from a queue, and a thread puts the replies into another.

    The second has room for as many replies as items may be open, so that a slow caller slows the server down.
    """

    def __init__(self, open_call: OpenCall[Message, Reply], room: int) -> None:
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._replies: queue.Queue[Reply | CallError | _Ended] = queue.Queue(room)
        self._closed = threading.Event()
        self._ended = False
        self._call = open_call(iter(self._messages.get, None))
        threading.Thread(target=self._read, name="babelward-stream", daemon=True).start()

    def _read(self) -> None:
        try:
            for reply in self._call:
                self._replies.put(reply)
                if self._closed.is_set():
                    break
            else:
                self._replies.put(ended_early())
        except grpc.RpcError as error:
            self._replies.put(from_rpc(error))
        finally:
            self._replies.put(_Ended())

    def send(self, message: Message) -> None:
        """Sends a message, or keeps it until the server reads."""
        self._messages.put(message)

    def receive(self, timeout: float | None) -> Reply | None:
        """The next reply; None if there is none in this time, in seconds. Raises CallError when the call has ended."""
        try:
            reply = self._replies.get(timeout=timeout) if timeout != 0 else self._replies.get_nowait()
        except queue.Empty:
            return None
        if isinstance(reply, CallError):
            raise reply
        if isinstance(reply, _Ended):
            self._ended = True
            raise ended_early()
        return reply

    def half_close(self, patience: float) -> None:
        """Says that no message follows, and gives the server so many seconds to end the call."""
        self._messages.put(None)
        end = time.monotonic() + patience
        try:
            while not self._ended and (left := end - time.monotonic()) > 0:
                self.receive(left)
        except CallError:
            # Every item has its result, whatever the server says now.
            pass

    def close(self) -> None:
        """Ends the call, if it has not ended, and both of its threads."""
        self._closed.set()
        self._messages.put(None)
        self._call.cancel()
        while not self._ended:
            self._ended = isinstance(self._replies.get(), _Ended)


#: Seconds that a server has to end a stream whose items all have their results.
_CLOSE_PATIENCE = 1.0


class ItemStream(Generic[Request, Message, Reply, Event, Result]):
    """Sends items until each has its result, over as many streams as it takes."""

    def __init__(
        self,
        method: ItemMethod[Request, Message, Reply, Event, Result],
        open_call: OpenCall[Message, Reply],
        options: Options,
        stream: StreamOptions,
    ) -> None:
        self._method = method
        self._open_call = open_call
        self._options = options
        self._stream = stream
        self._items: Items[Request, Event, Result] = Items(method.collector, options.retry, options.jitter)
        self._answered = False

    def results(
        self, items: Iterable[tuple[str, Request]]
    ) -> Generator[tuple[str, Result | CallError], None, None]:
        """The results in the order of the answers. Items are taken from the input in the caller's thread."""
        source = _Source(items)
        failed = 0
        while self._wait_for_work(source):
            self._answered = False
            try:
                yield from self._one_stream(source)
                return
            except CallError as error:
                broken = error
            yield from self._items.break_off(broken)
            if not broken.is_retryable:
                raise broken
            failed = 1 if self._answered else failed + 1
            delay = self._options.retry.delay(failed, broken.hint, self._options.jitter())
            if delay is None:
                raise StreamGaveUpError(failed, len(self._items), broken)
            time.sleep(delay)

    def _wait_for_work(self, source: _Source[Request]) -> bool:
        """Waits until there is an item to send; false if there is none any more."""
        if not len(self._items) and (item := source.next()) is not None:
            self._items.add(*item)
        if not len(self._items):
            return False
        wake = self._items.next_wake()
        if wake is not None and not self._items.has_waiting:
            time.sleep(max(wake - time.monotonic(), 0.0))
        return True

    def _one_stream(self, source: _Source[Request]) -> Iterator[tuple[str, Result | CallError]]:
        connection: _Connection[Message, Reply] = _Connection(self._open_call, self._stream.window)
        try:
            while len(self._items) or not source.is_exhausted:
                sent = self._send_one(connection, source)
                reply = connection.receive(0 if sent else self._until_next_wake())
                if reply is None:
                    continue
                self._answered = True
                id, event = self._method.unpack(reply)
                result = self._items.receive(id, event, time.monotonic())
                if result is not None:
                    yield id, result
            connection.half_close(_CLOSE_PATIENCE)
        finally:
            connection.close()

    def _send_one(self, connection: _Connection[Message, Reply], source: _Source[Request]) -> bool:
        """Sends the next item if there is one and the window has room; whether there may be another."""
        if self._items.open >= self._stream.window:
            return False
        pending = self._items.next_to_send(time.monotonic())
        if pending is None:
            # Items that are sent again later keep their room: a busy server does not make this read all of the input.
            item = source.next() if len(self._items) < self._stream.window else None
            if item is None:
                return False
            self._items.add(*item)
            pending = self._items.next_to_send(time.monotonic())
        if pending is not None:
            connection.send(self._method.message(pending.id, pending.request, self._stream.duration()))
        return True

    def _until_next_wake(self) -> float | None:
        wake = self._items.next_wake()
        # While the window is full nothing can be sent, whenever its time is.
        if wake is None or self._items.open >= self._stream.window:
            return None
        return max(wake - time.monotonic(), 0.0)


class _Source(Generic[Request]):
    """The input, which may end."""

    def __init__(self, items: Iterable[tuple[str, Request]]) -> None:
        self._items = iter(items)
        self.is_exhausted = False

    def next(self) -> tuple[str, Request] | None:
        """The next item; None once there are no more."""
        if self.is_exhausted:
            return None
        item = next(self._items, None)
        self.is_exhausted = item is None
        return item


class Streaming(Generic[Response]):
    """A call that answers with several messages. Ends when they are read, with `close`, or with the end of a `with` block."""

    def __init__(self, call: StreamCall[Response], first: Response | None) -> None:
        self._call = call
        self._first = first

    def _responses(self) -> Iterator[Response]:
        try:
            if self._first is not None:
                first, self._first = self._first, None
                yield first
            yield from self._call
        except grpc.RpcError as error:
            raise from_rpc(error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Ends the call, so that the server stops working on it. Does nothing after its end."""
        self._call.cancel()

    def __enter__(self: Streamed) -> Streamed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Generation(Streaming[v1.GenerateResponse]):
    """An answer while it is written. Iterating gives its text piece by piece, `events` everything, and `read` the whole."""

    def __init__(
        self,
        request: v1.GenerateRequest,
        call: StreamCall[v1.GenerateResponse],
        first: v1.GenerateResponse,
    ) -> None:
        super().__init__(call, first)
        self._request = request
        self._builder = AnswerBuilder(request)
        self._answer: Answer | None = None

    @property
    def text(self) -> str:
        """What may be shown of the text so far."""
        return self._builder.text

    @property
    def started(self) -> v1.GenerateStarted | None:
        """The seed and the provenance; None before the first event is read."""
        return self._builder.started

    @property
    def finished(self) -> v1.GenerateFinished | None:
        """Why the answer ended, its counts, and what its guard said; None before the last event is read."""
        return self._builder.finished

    def events(self) -> Iterator[v1.GenerateResponse]:
        """The events of the answer, among them the looks of its guard."""
        for event in self._responses():
            self._answer = self._builder.take(event)
            yield event
        if self._answer is None:
            raise ProtocolError("the stream is over, and the answer has no end")

    def __iter__(self) -> Iterator[str]:
        if self._request.HasField("guard"):
            check_text_is_final(self._request.guard.options.mode)
        for event in self.events():
            if event.WhichOneof("event") == "delta" and event.delta.text:
                yield event.delta.text

    def read(self) -> Answer:
        """Reads what is left, and returns the whole answer."""
        for _event in self.events():
            pass
        if self._answer is None:
            raise ProtocolError("the answer has been read, or closed, before")
        return self._answer


class GuardFeed:
    """The messages of one attempt at a GuardStream: the text is begun only once the server has opened the stream."""

    def __init__(self, text: GrowingText, chunks: Iterator[str | bytes]) -> None:
        self._text = text
        self._chunks = chunks
        self._opened = threading.Event()
        self._given_up = False
        #: What reading the chunks has raised. The text is broken off there, so that its last part is not released.
        self.failure: BaseException | None = None

    def begin(self) -> None:
        """The stream is open."""
        self._opened.set()

    def give_up(self) -> None:
        """The stream is over: the chunks are left alone."""
        self._given_up = True
        self._opened.set()

    def messages(self) -> Iterator[v1.GuardStreamRequest]:
        """The messages, which grpc takes in a thread of its own."""
        yield self._text.begin()
        self._opened.wait()
        try:
            if not self._given_up:
                for chunk in self._chunks:
                    yield from self._text.grow(chunk)
                    if self._given_up:
                        return
                yield self._text.end()
        except Exception as failure:
            self.failure = failure


class GuardedText(Streaming[v1.GuardStreamResponse]):
    """A text that a guard looks at while it grows. Iterating gives what may be shown of it, and `events` everything."""

    def __init__(self, text: GrowingText, feed: GuardFeed, call: StreamCall[v1.GuardStreamResponse]) -> None:
        super().__init__(call, None)
        self._text = text
        self._feed = feed

    @property
    def ended(self) -> v1.GuardEnded | None:
        """How the text ended; None before its end. No reason but REASON_COMPLETE says that all of it may be shown."""
        return self._text.ended

    def events(self) -> Iterator[GuardEvent]:
        """What the server says: released, look, retracted, heartbeat and, as the last, ended."""
        try:
            for response in self._responses():
                event = self._text.take(response)
                if event is not None:
                    yield event
        except CallError as error:
            if self._feed.failure is not None:
                raise self._feed.failure from error
            raise
        self._text.check_ended()

    def __iter__(self) -> Iterator[str]:
        check_text_is_final(self._text.start.options.mode)
        for event in self.events():
            if released := self._text.newly_released(event):
                yield released

    def close(self) -> None:
        """Ends the call. What is not released by now never is."""
        self._feed.give_up()
        super().close()
