"""Answers of targets: whole or an error, guarded where a guard was asked for, and never begun twice."""

import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import babelward
from babelward import v1
from fake import BUSY, DRAINING, FakeServer, fail, item_error, status

Events = list[v1.GenerateResponse]


def started() -> v1.GenerateResponse:
    return v1.GenerateResponse(started=v1.GenerateStarted(seed=7))


def delta(offset: int, text: str) -> v1.GenerateResponse:
    return v1.GenerateResponse(delta=v1.GenerateDelta(offset_bytes=offset, text=text, token_ids=[offset]))


def look(
    text_bytes: int, outcome: v1.GuardLook.Outcome.ValueType = v1.GuardLook.OUTCOME_PASSED
) -> v1.GenerateResponse:
    return v1.GenerateResponse(look=v1.GuardLook(text_bytes=text_bytes, outcome=outcome))


def retracted(kept: int) -> v1.GenerateResponse:
    return v1.GenerateResponse(retracted=v1.GuardRetracted(kept_bytes=kept))


def finished(text: str, guard: v1.GuardEnded.Reason.ValueType | None = None) -> v1.GenerateResponse:
    whole = guard in (None, v1.GuardEnded.REASON_COMPLETE)
    end = v1.GenerateFinished(
        finish_reason=v1.FINISH_REASON_EOS if whole else v1.FINISH_REASON_GUARD,
        text_digest="sha256:" + hashlib.sha256(text.encode()).hexdigest(),
    )
    if guard is not None:
        end.guard.reason = guard
    return v1.GenerateResponse(finished=end)


WHOLE: Events = [started(), delta(0, "Grüße"), delta(7, ", all"), finished("Grüße, all")]


def guarded(mode: v1.GuardMode.ValueType = v1.GUARD_MODE_UNSPECIFIED) -> v1.GenerateRequest:
    guard = v1.AnswerGuard(options=v1.GuardOptions(mode=mode))
    return v1.GenerateRequest(text="x", guard=guard)


def says(fake: FakeServer, events: Events) -> None:
    fake.handlers["Generate"] = lambda _request, _context: iter(events)


def test_an_answer_comes_piece_by_piece(fake: FakeServer, connect: Any) -> None:
    says(fake, WHOLE)
    answer = connect(fake.address).generate("x")
    before = answer.finished
    assert list(answer) == ["Grüße", ", all"]
    assert (answer.text, answer.started.seed) == ("Grüße, all", 7)
    assert (before, answer.finished.finish_reason) == (None, v1.FINISH_REASON_EOS)


def test_an_answer_can_be_read_as_a_whole(fake: FakeServer, connect: Any) -> None:
    says(fake, WHOLE)
    answer = connect(fake.address).generate("x").read()
    assert (answer.text, answer.token_ids, answer.started.seed) == ("Grüße, all", (0, 7), 7)


@pytest.mark.parametrize(
    "events",
    [
        [started(), delta(0, "Grüße"), finished("Grüße, all")],
        [started(), delta(7, ", all"), finished(", all")],
        [started(), delta(0, "Grüße")],
        [delta(0, "Grüße"), finished("Grüße")],
        [started(), started(), finished("")],
        [],
    ],
    ids=["lost its end", "lost its beginning", "no end", "no start", "two starts", "nothing"],
)
def test_an_answer_that_is_not_whole_is_an_error(fake: FakeServer, connect: Any, events: Events) -> None:
    says(fake, events)
    with pytest.raises(babelward.ProtocolError):
        connect(fake.address).generate("x").read()


def test_an_answer_is_retried_until_it_begins_and_never_after_that(fake: FakeServer, connect: Any) -> None:
    calls = 0

    def handler(_request: v1.GenerateRequest, context: grpc.ServicerContext) -> Iterator[v1.GenerateResponse]:
        nonlocal calls
        calls += 1
        if calls == 1:
            fail(context, BUSY)
        yield from WHOLE[:2]
        fail(context, DRAINING)

    fake.handlers["Generate"] = handler
    answer = connect(fake.address).generate("x")
    with pytest.raises(babelward.UnavailableError, match="SERVER_DRAINING"):
        list(answer)
    assert (calls, answer.text, answer.finished) == (2, "Grüße", None)


def test_leaving_an_answer_ends_the_call(fake: FakeServer, connect: Any) -> None:
    over = threading.Event()

    def handler(_request: v1.GenerateRequest, context: grpc.ServicerContext) -> Iterator[v1.GenerateResponse]:
        context.add_callback(over.set)
        yield from WHOLE[:2]
        over.wait()

    fake.handlers["Generate"] = handler
    connect(fake.address).generate("x").close()
    assert over.wait(60)


def test_a_blocked_answer_says_so(fake: FakeServer, connect: Any) -> None:
    says(fake, [started(), look(5), delta(0, "Mix f"), look(9, v1.GuardLook.OUTCOME_UNSAFE), BLOCKED])
    answer = connect(fake.address).generate(guarded()).read()
    assert (answer.text, answer.finished.finish_reason) == ("Mix f", v1.FINISH_REASON_GUARD)
    assert answer.finished.guard.reason == v1.GuardEnded.REASON_POLICY


BLOCKED = finished("Mix f", v1.GuardEnded.REASON_POLICY)


@pytest.mark.parametrize(
    "events",
    [
        [started(), delta(0, "Mix f"), finished("Mix f", v1.GuardEnded.REASON_COMPLETE)],
        [started(), look(4), delta(0, "Mix f"), finished("Mix f", v1.GuardEnded.REASON_COMPLETE)],
        [started(), look(5, v1.GuardLook.OUTCOME_UNSAFE), delta(0, "Mix f"), BLOCKED],
        [started(), finished("")],
    ],
    ids=["no look", "a look that is too short", "an unsafe look", "no end of the guard"],
)
def test_an_answer_that_no_guard_has_seen_is_an_error(fake: FakeServer, connect: Any, events: Events) -> None:
    """A server that is older than guards of answers knows nothing of the field, and would answer without."""
    says(fake, events)
    with pytest.raises(babelward.ProtocolError, match="does not guard"):
        connect(fake.address).generate(guarded()).read()


def test_text_that_may_be_taken_back_is_no_plain_text(fake: FakeServer, connect: Any) -> None:
    request = guarded(v1.GUARD_MODE_OPTIMISTIC)
    says(fake, [started(), delta(0, "Mix f"), retracted(3), BLOCKED])
    with pytest.raises(ValueError, match=r"use events\(\)"):
        list(connect(fake.address).generate(request))
    answer = connect(fake.address).generate(request)
    kinds = [event.WhichOneof("event") for event in answer.events()]
    assert (kinds, answer.text) == (["started", "delta", "retracted", "finished"], "Mix")


def test_a_guard_that_fails_is_an_error_after_the_end(fake: FakeServer, connect: Any) -> None:
    def handler(_request: v1.GenerateRequest, context: grpc.ServicerContext) -> Iterator[v1.GenerateResponse]:
        yield from (
            started(),
            look(5),
            delta(0, "Mix f"),
            finished("Mix f", v1.GuardEnded.REASON_GUARD_FAILED),
        )
        fail(context, status(grpc.StatusCode.INTERNAL, "VERDICT_UNDETERMINED"))

    fake.handlers["Generate"] = handler
    answer = connect(fake.address).generate(guarded())
    with pytest.raises(babelward.ServerError, match="VERDICT_UNDETERMINED"):
        answer.read()
    assert answer.finished.guard.reason == v1.GuardEnded.REASON_GUARD_FAILED


def test_many_answers_come_interleaved(fake: FakeServer, connect: Any) -> None:
    """One of them is guarded, and ends with its guard's error after its last event."""
    failed = [started(), look(5), delta(0, "Mix f"), finished("Mix f", v1.GuardEnded.REASON_GUARD_FAILED)]

    def handler(
        requests: Iterator[v1.GenerateStreamRequest], _context: grpc.ServicerContext
    ) -> Iterator[v1.GenerateStreamResponse]:
        ids = [next(requests).id for _ in range(3)]
        for events in zip(WHOLE, WHOLE, failed, strict=True):
            for id, event in zip(ids, events, strict=True):
                yield v1.GenerateStreamResponse(id=id, response=event)
        error = item_error(status(grpc.StatusCode.INTERNAL, "VERDICT_UNDETERMINED"))
        yield v1.GenerateStreamResponse(id=ids[2], error=error)

    fake.handlers["GenerateStream"] = handler
    results = dict(
        connect(fake.address).generate_stream([("a", "x"), ("b", "y"), ("c", guarded())], window=3)
    )
    assert [results[id].text for id in "ab"] == ["Grüße, all", "Grüße, all"]
    assert results["c"].reason == "VERDICT_UNDETERMINED"


def test_an_answer_that_has_begun_is_not_sent_again_by_a_new_stream(fake: FakeServer, connect: Any) -> None:
    streams: list[list[str]] = []

    def handler(
        requests: Iterator[v1.GenerateStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[v1.GenerateStreamResponse]:
        streams.append([])
        for request in requests:
            streams[-1].append(request.id)
            if len(streams) == 1:
                if request.id == "a":
                    yield v1.GenerateStreamResponse(id="a", response=started())
                else:
                    fail(context, DRAINING)
            else:
                yield from (v1.GenerateStreamResponse(id=request.id, response=event) for event in WHOLE)

    fake.handlers["GenerateStream"] = handler
    results = dict(connect(fake.address).generate_stream([("a", "x"), ("b", "y")]))
    assert results["a"].reason == "SERVER_DRAINING"
    assert results["b"].text == "Grüße, all"
    assert streams == [["a", "b"], ["b"]]
