"""Streams of items: every item has its result once, whatever becomes of streams and items."""

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import babelward
from babelward import v1
from fake import BUSY, DRAINING, FakeServer, fail, item_error, safe, status

Requests = Iterator[v1.ClassifyStreamRequest]
Replies = Iterator[v1.ClassifyStreamResponse]


def answer(id: str) -> v1.ClassifyStreamResponse:
    return v1.ClassifyStreamResponse(id=id, response=safe())


def failed(id: str, sent: Any) -> v1.ClassifyStreamResponse:
    return v1.ClassifyStreamResponse(id=id, error=item_error(sent))


def items(count: int) -> list[tuple[str, str]]:
    return [(f"i{number}", "x") for number in range(count)]


def test_results_are_matched_by_id_and_the_window_holds(fake: FakeServer, connect: Any) -> None:
    """The server answers the last of eight open items first, and the client never has more than eight."""
    taken = 0
    answered = 0
    ahead: list[int] = []

    def source() -> Iterator[tuple[str, str]]:
        nonlocal taken
        for item in items(100):
            taken += 1
            ahead.append(taken - answered)
            yield item

    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        open_ids: list[str] = []
        for number, request in enumerate(requests, 1):
            open_ids.append(request.id)
            while open_ids and (len(open_ids) == 8 or number == 100):
                yield answer(open_ids.pop())

    fake.handlers["ClassifyStream"] = handler
    results = []
    for id, result in connect(fake.address).classify_stream(source(), window=8):
        answered += 1
        results.append(id)
        assert result.verdict.label == v1.LABEL_SAFE
    assert sorted(results) == sorted(id for id, _ in items(100))
    assert results != [id for id, _ in items(100)]
    # The input is read when the window has room, which is before the result of that room is given out.
    assert max(ahead) <= 9


def test_any_number_of_items_can_be_sent(fake: FakeServer, connect: Any) -> None:
    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        return (answer(request.id) for request in requests)

    fake.handlers["ClassifyStream"] = handler
    source = ((str(number), "x") for number in itertools.count())
    results = connect(fake.address).classify_stream(source, window=3)
    first = {id for id, _ in itertools.islice(results, 500)}
    results.close()
    assert len(first) == 500


def test_no_item_makes_no_call(fake: FakeServer, connect: Any) -> None:
    assert list(connect(fake.address).classify_stream([])) == []
    assert fake.headers == []


def test_an_item_that_may_succeed_later_is_sent_again(fake: FakeServer, connect: Any) -> None:
    sent: list[str] = []

    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        for request in requests:
            sent.append(request.id)
            busy = request.id in ("i1", "i2") and sent.count(request.id) < 3
            yield failed(request.id, BUSY) if busy else answer(request.id)

    fake.handlers["ClassifyStream"] = handler
    results = dict(connect(fake.address).classify_stream(items(4)))
    assert all(isinstance(result, v1.ClassifyResponse) for result in results.values())
    assert sorted(sent) == ["i0", "i1", "i1", "i1", "i2", "i2", "i2", "i3"]


def test_items_that_are_sent_again_later_keep_their_room(fake: FakeServer, connect: Any) -> None:
    """The server refuses every item once, and the client does not read the input meanwhile."""
    taken = 0
    answered = 0
    ahead: list[int] = []
    refused: set[str] = set()

    def source() -> Iterator[tuple[str, str]]:
        nonlocal taken
        for item in items(24):
            taken += 1
            ahead.append(taken - answered)
            yield item

    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        for request in requests:
            again = request.id in refused
            refused.add(request.id)
            yield answer(request.id) if again else failed(request.id, BUSY)

    fake.handlers["ClassifyStream"] = handler
    for _id, result in connect(fake.address).classify_stream(source(), window=4):
        answered += 1
        assert result.verdict.label == v1.LABEL_SAFE
    assert answered == 24
    assert max(ahead) <= 5


def test_an_error_of_an_item_is_its_result(fake: FakeServer, connect: Any) -> None:
    wrong = status(grpc.StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LONG")
    sent: list[str] = []

    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        for request in requests:
            sent.append(request.id)
            error = {"i0": wrong, "i1": BUSY}.get(request.id)
            yield answer(request.id) if error is None else failed(request.id, error)

    fake.handlers["ClassifyStream"] = handler
    results = dict(connect(fake.address).classify_stream(items(3)))
    assert (type(results["i0"]), results["i0"].reason) == (babelward.InvalidRequestError, "INPUT_TOO_LONG")
    assert (type(results["i1"]), results["i1"].reason) == (babelward.ResourceExhaustedError, "QUEUE_FULL")
    assert results["i2"].verdict.label == v1.LABEL_SAFE
    assert sorted(sent) == ["i0", "i1", "i1", "i1", "i1", "i2"]


@pytest.mark.parametrize(
    "empty", [v1.ClassifyStreamResponse(), v1.ClassifyStreamResponse(response=v1.ClassifyResponse())]
)
def test_an_item_without_a_verdict_has_an_error(
    fake: FakeServer, connect: Any, empty: v1.ClassifyStreamResponse
) -> None:
    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        for request in requests:
            reply = v1.ClassifyStreamResponse()
            reply.CopyFrom(empty if request.id == "i0" else answer(request.id))
            reply.id = request.id
            yield reply

    fake.handlers["ClassifyStream"] = handler
    results = dict(connect(fake.address).classify_stream(items(2)))
    assert results["i0"].reason == "EMPTY_ANSWER"
    assert results["i1"].verdict.label == v1.LABEL_SAFE


def test_a_stream_that_breaks_goes_on_with_what_is_unanswered(fake: FakeServer, connect: Any) -> None:
    """The first stream breaks after two answers, the second ends without an error after one."""
    streams: list[list[str]] = []

    def handler(requests: Requests, context: grpc.ServicerContext) -> Replies:
        number = len(streams)
        streams.append([])
        for request in requests:
            streams[-1].append(request.id)
            yield answer(request.id)
            if number == 0 and len(streams[-1]) == 2:
                fail(context, DRAINING)
            if number == 1:
                return

    fake.handlers["ClassifyStream"] = handler
    results = [id for id, _ in connect(fake.address).classify_stream(items(6), window=2)]
    assert results == [id for id, _ in items(6)]
    # What was read is what was answered: nothing is judged twice.
    assert streams == [["i0", "i1"], ["i2"], ["i3", "i4", "i5"]]


def test_a_stream_that_never_answers_is_given_up(fake: FakeServer, connect: Any) -> None:
    streams = 0

    def handler(_requests: Requests, context: grpc.ServicerContext) -> Replies:
        nonlocal streams
        streams += 1
        fail(context, DRAINING)
        return iter(())

    fake.handlers["ClassifyStream"] = handler
    with pytest.raises(babelward.StreamGaveUpError) as caught:
        list(connect(fake.address).classify_stream(items(9), window=3))
    assert (streams, caught.value.streams) == (4, 4)
    assert 1 <= caught.value.unanswered <= 3
    assert caught.value.last.reason == "SERVER_DRAINING"


def test_a_stream_that_is_refused_is_not_opened_again(fake: FakeServer, connect: Any) -> None:
    fake.handlers["ClassifyStream"] = lambda _requests, context: fail(
        context, status(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    )
    with pytest.raises(babelward.PermissionDeniedError, match="SCOPE_MISSING"):
        list(connect(fake.address).classify_stream(items(2)))
    assert len(fake.headers) == 1


def test_an_answer_to_nothing_breaks_the_protocol(fake: FakeServer, connect: Any) -> None:
    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        return (answer(request.id + "?") for request in requests)

    fake.handlers["ClassifyStream"] = handler
    with pytest.raises(babelward.ProtocolError, match=r"i0\?"):
        list(connect(fake.address).classify_stream(items(1)))


def test_an_id_that_is_open_is_refused(fake: FakeServer, connect: Any) -> None:
    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        first, second = next(requests), next(requests)
        yield from (answer(first.id), answer(second.id))

    fake.handlers["ClassifyStream"] = handler
    with pytest.raises(babelward.DuplicateIdError, match="`a`"):
        list(connect(fake.address).classify_stream([("a", "x"), ("a", "y")]))


def test_closing_the_iterator_cancels_what_is_open(fake: FakeServer, connect: Any) -> None:
    over = threading.Event()

    def handler(requests: Requests, context: grpc.ServicerContext) -> Replies:
        context.add_callback(over.set)
        yield answer(next(requests).id)
        over.wait()

    fake.handlers["ClassifyStream"] = handler
    results = connect(fake.address).classify_stream(items(2))
    assert next(iter(results))[0] == "i0"
    results.close()
    assert over.wait(60)


def test_what_reading_the_input_raises_is_raised(fake: FakeServer, connect: Any) -> None:
    def source() -> Iterator[tuple[str, str]]:
        yield "a", "x"
        raise RuntimeError("the disk is gone")

    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        return (answer(request.id) for request in requests)

    fake.handlers["ClassifyStream"] = handler
    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(connect(fake.address).classify_stream(source()))


def test_an_item_has_its_time(fake: FakeServer, connect: Any) -> None:
    seen = []

    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        for request in requests:
            seen.append(request.timeout.ToMilliseconds() if request.HasField("timeout") else None)
            yield answer(request.id)

    fake.handlers["ClassifyStream"] = handler
    client = connect(fake.address)
    list(client.classify_stream(items(1), item_timeout=1.5))
    list(client.classify_stream(items(1)))
    assert seen == [1500, None]


@pytest.mark.parametrize("options", [{"window": 0}, {"item_timeout": 0}])
def test_options_that_cannot_be_are_refused(fake: FakeServer, connect: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        list(connect(fake.address).classify_stream(items(1), **options))


def test_scores_are_streamed_alike(fake: FakeServer, connect: Any) -> None:
    sample = v1.ScoredSample(verdict=safe().verdict)

    def handler(
        requests: Iterator[v1.ScoreStreamRequest], _context: grpc.ServicerContext
    ) -> Iterator[v1.ScoreStreamResponse]:
        for request in requests:
            yield v1.ScoreStreamResponse(
                id=request.id, response=v1.ScoreResponse(samples=[sample], safe_count=1)
            )

    fake.handlers["ScoreStream"] = handler
    results = list(connect(fake.address).score_stream(items(3)))
    assert [(id, result.safe_count) for id, result in results] == [("i0", 1), ("i1", 1), ("i2", 1)]
