"""Streams for asyncio: items, answers, and growing texts.

Calls that send several messages are made with grpc's blocking interface, in threads. grpc.aio puts an error of its own in place
of the server's status, and drops what it has received, if a call ends while it sends a message (seen with grpcio 1.85.3): a
text that is blocked while it is sent would look like a fault.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from . import v1
from .answers import Answer, AnswerBuilder
from .connection import Options
from .errors import CallError, ProtocolError, StreamGaveUpError, from_rpc
from .growing import GrowingText, GuardEvent, check_text_is_final
from .items import Event, Items, Request, Result, ended_early
from .methods import ItemMethod, Message, Reply, StreamOptions
from .sync_streams import OpenCall, is_accepted

Element = TypeVar("Element")

#: Seconds that a server has to end a stream whose items all have their results.
_CLOSE_PATIENCE = 1.0

#: Messages of a growing text that may wait to be sent, and events of it that may wait to be read.
_MESSAGE_ROOM = 4
GUARD_EVENTS = 16


async def as_async(elements: Iterable[Element] | AsyncIterable[Element]) -> AsyncIterator[Element]:
    """The elements of either kind of iterable."""
    if isinstance(elements, AsyncIterable):
        async for element in elements:
            yield element
    else:
        for element in elements:
            yield element


class AsyncConnection(Generic[Message, Reply]):
    """One call of a stream: grpc takes the messages from a queue in its thread, and another thread hands the replies over.

    There is room for as many replies as it is told, and for a few messages of those who wait for it: a slow caller slows the
    server down, and a slow server the caller.
    """

    def __init__(self, open_call: OpenCall[Message, Reply], room: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._message_room = asyncio.Semaphore(_MESSAGE_ROOM)
        self._replies: asyncio.Queue[Reply | CallError | None] = asyncio.Queue(room)
        self._closed = False
        self._call = open_call(self._taken())
        threading.Thread(target=self._read, name="babelward-stream", daemon=True).start()

    def _taken(self) -> Iterator[Message]:
        while (message := self._messages.get()) is not None:
            yield message
            # A loop that is closed has nobody who waits.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._message_room.release)

    def _read(self) -> None:
        last: CallError | None = None
        try:
            for reply in self._call:
                self._hand_over(reply)
                if self._closed:
                    return
        except grpc.RpcError as error:
            last = from_rpc(error)
        if not self._closed:
            self._hand_over(last)

    def _hand_over(self, reply: Reply | CallError | None) -> None:
        """Waits until there is room."""
        putting = self._replies.put(reply)
        try:
            asyncio.run_coroutine_threadsafe(putting, self._loop).result()
        except (RuntimeError, concurrent.futures.CancelledError):
            # The event loop is closed, and nobody reads any more.
            putting.close()
            self._closed = True

    def send(self, message: Message) -> None:
        """Sends a message, or keeps it until the server reads."""
        self._messages.put(message)

    async def send_slowly(self, message: Message) -> None:
        """Sends a message once the server has read most of those before."""
        await self._message_room.acquire()
        self._messages.put(message)

    def half_close(self) -> None:
        """Says that no message follows."""
        self._messages.put(None)

    async def accepted(self) -> bool:
        """Waits for the server's headers, or the call's end; whether the call goes on."""
        return await asyncio.to_thread(is_accepted, self._call)

    async def receive(self) -> Reply | None:
        """The next reply; None after the last. Raises CallError when the call has failed."""
        reply = await self._replies.get()
        if isinstance(reply, CallError):
            raise reply
        return reply

    def close(self) -> None:
        """Ends the call, if it has not ended, and both of its threads."""
        self._closed = True
        self._messages.put(None)
        self._call.cancel()
        # The thread may wait for room.
        while not self._replies.empty():
            self._replies.get_nowait()


class AsyncItemStream(Generic[Request, Message, Reply, Event, Result]):
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

    async def results(
        self, items: AsyncIterable[tuple[str, Request]]
    ) -> AsyncGenerator[tuple[str, Result | CallError], None]:
        """The results in the order of the answers."""
        source = _Source(items)
        failed = 0
        try:
            while await self._wait_for_work(source):
                self._answered = False
                try:
                    async with aclosing(self._one_stream(source)) as results:
                        async for result in results:
                            yield result
                    return
                except CallError as error:
                    broken = error
                for ended in self._items.break_off(broken):
                    yield ended
                if not broken.is_retryable:
                    raise broken
                failed = 1 if self._answered else failed + 1
                delay = self._options.retry.delay(failed, broken.hint, self._options.jitter())
                if delay is None:
                    raise StreamGaveUpError(failed, len(self._items), broken)
                await asyncio.sleep(delay)
        finally:
            await source.close()

    async def _wait_for_work(self, source: _Source[Request]) -> bool:
        """Waits until there is an item to send; false if there is none any more."""
        if not len(self._items) and (item := await source.next()) is not None:
            self._items.add(*item)
        if not len(self._items):
            return False
        wake = self._items.next_wake()
        if wake is not None and not self._items.has_waiting:
            await asyncio.sleep(max(wake - time.monotonic(), 0.0))
        return True

    async def _one_stream(
        self, source: _Source[Request]
    ) -> AsyncGenerator[tuple[str, Result | CallError], None]:
        connection: AsyncConnection[Message, Reply] = AsyncConnection(self._open_call, self._stream.window)
        reading: asyncio.Task[Reply | None] | None = None
        try:
            while len(self._items) or not source.is_exhausted:
                self._send(connection)
                reading = reading or asyncio.ensure_future(connection.receive())
                waited: set[asyncio.Task[Any]] = {reading}
                # Items that are sent again later keep their room: a busy server does not make this read all of the input.
                if len(self._items) < self._stream.window and not source.is_exhausted:
                    waited.add(source.begin())
                await asyncio.wait(
                    waited, timeout=self._until_next_wake(), return_when=asyncio.FIRST_COMPLETED
                )
                if (item := await source.taken()) is not None:
                    self._items.add(*item)
                if not reading.done():
                    continue
                reply, reading = reading.result(), None
                if reply is None:
                    raise ended_early()
                self._answered = True
                id, event = self._method.unpack(reply)
                result = self._items.receive(id, event, time.monotonic())
                if result is not None:
                    yield id, result
            connection.half_close()
            # Every item has its result, whatever the server says now.
            reading = reading or asyncio.ensure_future(connection.receive())
            await asyncio.wait([reading], timeout=_CLOSE_PATIENCE)
        finally:
            connection.close()
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    def _send(self, connection: AsyncConnection[Message, Reply]) -> None:
        while self._items.open < self._stream.window:
            pending = self._items.next_to_send(time.monotonic())
            if pending is None:
                return
            connection.send(self._method.message(pending.id, pending.request, self._stream.duration()))

    def _until_next_wake(self) -> float | None:
        wake = self._items.next_wake()
        # While the window is full nothing can be sent, whenever its time is.
        if wake is None or self._items.open >= self._stream.window:
            return None
        return max(wake - time.monotonic(), 0.0)


class _Source(Generic[Request]):
    """The input, of which one item is waited for at a time. The waiting goes on when a stream breaks."""

    def __init__(self, items: AsyncIterable[tuple[str, Request]]) -> None:
        self._items = aiter(items)
        self._next: asyncio.Task[tuple[str, Request] | None] | None = None
        self.is_exhausted = False

    def begin(self) -> asyncio.Task[tuple[str, Request] | None]:
        """Begins to wait for the next item, or goes on with it."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._take())
        return self._next

    async def taken(self) -> tuple[str, Request] | None:
        """The item that was waited for, if it has come."""
        return await self.next() if self._next is not None and self._next.done() else None

    async def next(self) -> tuple[str, Request] | None:
        """Waits for the next item; None once there are no more."""
        if self.is_exhausted:
            return None
        item = await self.begin()
        self._next = None
        self.is_exhausted = item is None
        return item

    async def close(self) -> None:
        """Waits for nothing any more."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)

    async def _take(self) -> tuple[str, Request] | None:
        async for item in self._items:
            return item
        return None


class AsyncGeneration:
    """An answer while it is written. Iterating gives its text piece by piece, `events` everything, and `read` the whole.

    Ends when it is read, with `close`, or with an `async with` block.
    """

    def __init__(
        self,
        request: v1.GenerateRequest,
        call: grpc.aio.UnaryStreamCall[v1.GenerateRequest, v1.GenerateResponse],
        responses: AsyncIterator[v1.GenerateResponse],
        first: v1.GenerateResponse,
    ) -> None:
        self._call = call
        self._responses = responses
        self._first = first
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

    async def events(self) -> AsyncGenerator[v1.GenerateResponse, None]:
        """The events of the answer, among them the looks of its guard."""
        event: v1.GenerateResponse | None = self._first
        try:
            while event is not None:
                self._answer = self._builder.take(event)
                yield event
                event = await anext(self._responses, None)
        except grpc.RpcError as error:
            raise from_rpc(error) from error
        finally:
            self.close()
        if self._answer is None:
            raise ProtocolError("the stream is over, and the answer has no end")

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        if self._request.HasField("guard"):
            check_text_is_final(self._request.guard.options.mode)
        async with aclosing(self.events()) as events:
            async for event in events:
                if event.WhichOneof("event") == "delta" and event.delta.text:
                    yield event.delta.text

    async def read(self) -> Answer:
        """Reads what is left, and returns the whole answer."""
        async for _event in self.events():
            pass
        if self._answer is None:
            raise ProtocolError("the answer has been read, or closed, before")
        return self._answer

    def close(self) -> None:
        """Ends the call, so that the server stops working on it. Does nothing after its end."""
        self._call.cancel()

    async def __aenter__(self) -> AsyncGeneration:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncGuardedText:
    """A text that a guard looks at while it grows. Iterating gives what may be shown of it, and `events` everything.

    Ends when it is read, with `close`, or with an `async with` block.
    """

    def __init__(
        self,
        text: GrowingText,
        connection: AsyncConnection[v1.GuardStreamRequest, v1.GuardStreamResponse],
        chunks: AsyncIterator[str | bytes],
    ) -> None:
        self._text = text
        self._connection = connection
        self._feed = asyncio.ensure_future(self._send(chunks))
        # What reading the chunks has raised. The text is broken off there, so that its last part is not released.
        self._failure: BaseException | None = None

    async def _send(self, chunks: AsyncIterator[str | bytes]) -> None:
        try:
            async for chunk in chunks:
                for message in self._text.grow(chunk):
                    await self._connection.send_slowly(message)
            await self._connection.send_slowly(self._text.end())
        except Exception as failure:
            self._failure = failure
        self._connection.half_close()

    @property
    def ended(self) -> v1.GuardEnded | None:
        """How the text ended; None before its end. No reason but REASON_COMPLETE says that all of it may be shown."""
        return self._text.ended

    async def events(self) -> AsyncGenerator[GuardEvent, None]:
        """What the server says: released, look, retracted, heartbeat and, as the last, ended."""
        try:
            while (response := await self._connection.receive()) is not None:
                event = self._text.take(response)
                if event is not None:
                    yield event
        except CallError as error:
            if self._failure is not None:
                raise self._failure from error
            raise
        finally:
            self.close()
        self._text.check_ended()

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        check_text_is_final(self._text.start.options.mode)
        async with aclosing(self.events()) as events:
            async for event in events:
                if released := self._text.newly_released(event):
                    yield released

    def close(self) -> None:
        """Ends the call. What is not released by now never is."""
        self._feed.cancel()
        self._connection.close()

    async def __aenter__(self) -> AsyncGuardedText:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
