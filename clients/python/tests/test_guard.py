"""Growing texts: what is sent and when, and what may be shown."""

import itertools
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import babelward
from babelward import v1
from fake import BUSY, FakeServer, Handler, fail, status

Requests = Iterator[v1.GuardStreamRequest]
Replies = Iterator[v1.GuardStreamResponse]
COMPLETE = v1.GuardEnded.REASON_COMPLETE
POLICY = v1.GuardEnded.REASON_POLICY


def accepting(handler: Handler) -> Handler:
    """A handler that first says that the start is accepted, as the service does."""

    def handle(requests: Requests, context: grpc.ServicerContext) -> Replies:
        context.send_initial_metadata((("x-request-id", "1"),))
        yield from handler(requests, context)

    return handle


def released(count: int) -> v1.GuardStreamResponse:
    return v1.GuardStreamResponse(released=v1.GuardReleased(released_bytes=count))


def ended(reason: v1.GuardEnded.Reason.ValueType) -> v1.GuardStreamResponse:
    return v1.GuardStreamResponse(ended=v1.GuardEnded(reason=reason))


def test_released_text_comes_piece_by_piece(fake: FakeServer, connect: Any) -> None:
    """Chunks are texts or bytes, of which one ends within a code point."""
    seen: list[v1.GuardStreamRequest] = []

    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        seen.extend(requests)
        yield v1.GuardStreamResponse(heartbeat=v1.GuardHeartbeat())
        yield from (
            released(4),
            released(4),
            v1.GuardStreamResponse(look=v1.GuardLook()),
            released(8),
            ended(COMPLETE),
        )

    fake.handlers["GuardStream"] = accepting(handler)
    start = v1.GuardStart(conversation=babelward.conversation("Hi"))
    text = connect(fake.address).guard_stream(["Gr", b"\xc3", b"\xbc\xc3\x9f", "e!"], start)
    assert list(text) == ["Grü", "ße!"]
    assert text.ended.reason == COMPLETE
    assert [request.WhichOneof("event") for request in seen] == [
        "start",
        "chunk",
        "chunk",
        "chunk",
        "chunk",
        "end",
    ]
    assert seen[0].start == start


def test_a_long_chunk_is_sent_in_pieces(fake: FakeServer, connect: Any) -> None:
    sizes: list[int] = []

    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        sizes.extend(len(request.chunk) for request in requests if request.WhichOneof("event") == "chunk")
        yield from (released(sum(sizes)), ended(COMPLETE))

    fake.handlers["GuardStream"] = accepting(handler)
    assert "".join(connect(fake.address).guard_stream(["x" * 150_000])) == "x" * 150_000
    assert sizes == [65536, 65536, 150_000 - 2 * 65536]


def test_a_text_that_is_blocked_ends_with_its_reason(fake: FakeServer, connect: Any) -> None:
    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        list(requests)
        yield from (released(1), ended(POLICY))

    fake.handlers["GuardStream"] = accepting(handler)
    text = connect(fake.address).guard_stream(["abc"])
    assert list(text) == ["a"]
    assert text.ended.reason == POLICY


def test_a_text_can_be_blocked_while_it_is_sent(fake: FakeServer, connect: Any) -> None:
    """The source has no end. How the text ended must not be lost because of what is still being sent."""

    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        for _ in range(20):
            next(requests)
        yield from (released(3), ended(POLICY))

    fake.handlers["GuardStream"] = accepting(handler)
    for _ in range(20):
        text = connect(fake.address).guard_stream(itertools.repeat("abc" * 1000))
        assert list(text) == ["abc"]
        assert text.ended.reason == POLICY


def test_a_guard_that_fails_is_an_error_after_the_end(fake: FakeServer, connect: Any) -> None:
    def handler(requests: Requests, context: grpc.ServicerContext) -> Replies:
        list(requests)
        yield ended(v1.GuardEnded.REASON_GUARD_FAILED)
        fail(context, status(grpc.StatusCode.INTERNAL, "VERDICT_UNDETERMINED"))

    fake.handlers["GuardStream"] = accepting(handler)
    text = connect(fake.address).guard_stream(["abc"])
    with pytest.raises(babelward.ServerError, match="VERDICT_UNDETERMINED"):
        list(text)
    assert text.ended.reason == v1.GuardEnded.REASON_GUARD_FAILED


def test_a_refused_start_is_retried_before_any_chunk_is_read(fake: FakeServer, connect: Any) -> None:
    calls = 0
    read = 0

    def chunks() -> Iterator[str]:
        nonlocal read
        for chunk in ("a", "b"):
            read += 1
            yield chunk

    def handler(requests: Requests, context: grpc.ServicerContext) -> Replies:
        nonlocal calls
        calls += 1
        if calls < 3:
            fail(context, BUSY)
        assert read == 0
        context.send_initial_metadata((("x-request-id", "1"),))
        text = b"".join(request.chunk for request in requests)
        assert text == b"ab"
        yield from (released(2), ended(COMPLETE))

    fake.handlers["GuardStream"] = handler
    assert "".join(connect(fake.address).guard_stream(chunks())) == "ab"
    assert calls == 3


def test_what_reading_the_text_raises_is_raised_and_the_text_is_not_complete(
    fake: FakeServer, connect: Any
) -> None:
    kinds: list[str | None] = []

    def chunks() -> Iterator[str]:
        yield "a"
        raise RuntimeError("the model is gone")

    def handler(requests: Requests, context: grpc.ServicerContext) -> Replies:
        kinds.extend(request.WhichOneof("event") for request in requests)
        yield ended(v1.GuardEnded.REASON_CANCELLED)
        fail(context, status(grpc.StatusCode.CANCELLED, "CLIENT_CANCELLED"))

    fake.handlers["GuardStream"] = accepting(handler)
    with pytest.raises(RuntimeError, match="the model is gone"):
        list(connect(fake.address).guard_stream(chunks()))
    assert kinds == ["start", "chunk"]


@pytest.mark.parametrize(
    "replies", [[], [released(1)], [released(9), ended(COMPLETE)], [ended(COMPLETE), released(1)]]
)
def test_a_stream_that_keeps_no_rule_is_an_error(
    fake: FakeServer, connect: Any, replies: list[v1.GuardStreamResponse]
) -> None:
    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        list(requests)
        yield from replies

    fake.handlers["GuardStream"] = accepting(handler)
    with pytest.raises(babelward.ProtocolError):
        list(connect(fake.address).guard_stream(["abcß"]))


def test_text_that_may_be_taken_back_is_no_plain_text(fake: FakeServer, connect: Any) -> None:
    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        list(requests)
        retracted = v1.GuardStreamResponse(retracted=v1.GuardRetracted(kept_bytes=1))
        yield from (released(3), retracted, ended(POLICY))

    fake.handlers["GuardStream"] = accepting(handler)
    start = v1.GuardStart(options=v1.GuardOptions(mode=v1.GUARD_MODE_OPTIMISTIC))
    with pytest.raises(ValueError, match=r"use events\(\)"):
        list(connect(fake.address).guard_stream(["abc"], start))
    events = list(connect(fake.address).guard_stream(["abc"], start).events())
    assert [type(event) for event in events] == [v1.GuardReleased, v1.GuardRetracted, v1.GuardEnded]
