"""The calls that stream items: what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.duration_pb2 import Duration

from . import v1
from .answers import Answer, AnswerBuilder
from .errors import CallError, ProtocolError, from_item
from .items import Collector, Event, Request, Result, Single, empty_answer
from .verdicts import check_samples, check_verdict

Message = TypeVar("Message")
Reply = TypeVar("Reply")


@dataclass(frozen=True)
class ItemMethod(Generic[Request, Message, Reply, Event, Result]):
    """A call that takes items with ids and answers them in any order."""

    #: Makes the message of an item.
    message: Callable[[str, Request, Duration | None], Message]
    #: Unpacks what the server says of an item; None where it says nothing.
    unpack: Callable[[Reply], tuple[str, Event | CallError | None]]
    #: Makes the result of an item.
    collector: Callable[[Request], Collector[Event, Result]]


@dataclass(frozen=True)
class StreamOptions:
    """How a stream of items is driven."""

    #: Most items that are sent and not answered at the same time.
    window: int
    #: Seconds that the server may take for one item after it has read it; None for no limit.
    item_timeout: float | None

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError("window: must be at least 1")
        if self.item_timeout is not None and self.item_timeout <= 0:
            raise ValueError("item_timeout: must be more than 0")

    def duration(self) -> Duration | None:
        """The time of an item, as its message has it."""
        if self.item_timeout is None:
            return None
        duration = Duration()
        duration.FromNanoseconds(round(self.item_timeout * 1e9))
        return duration


def _classify_message(
    id: str, request: v1.ClassifyRequest, timeout: Duration | None
) -> v1.ClassifyStreamRequest:
    return v1.ClassifyStreamRequest(id=id, classify=request, timeout=timeout)


def _unpack_classify(reply: v1.ClassifyStreamResponse) -> tuple[str, v1.ClassifyResponse | CallError | None]:
    if reply.WhichOneof("result") == "response":
        return reply.id, reply.response
    return reply.id, from_item(reply.error) if reply.HasField("error") else None


def _score_message(id: str, request: v1.ScoreRequest, timeout: Duration | None) -> v1.ScoreStreamRequest:
    return v1.ScoreStreamRequest(id=id, score=request, timeout=timeout)


def _unpack_score(reply: v1.ScoreStreamResponse) -> tuple[str, v1.ScoreResponse | CallError | None]:
    if reply.WhichOneof("result") == "response":
        return reply.id, reply.response
    return reply.id, from_item(reply.error) if reply.HasField("error") else None


def _generate_message(
    id: str, request: v1.GenerateRequest, timeout: Duration | None
) -> v1.GenerateStreamRequest:
    return v1.GenerateStreamRequest(id=id, generate=request, timeout=timeout)


def _unpack_generate(reply: v1.GenerateStreamResponse) -> tuple[str, v1.GenerateResponse | CallError | None]:
    if reply.WhichOneof("result") == "response":
        return reply.id, reply.response
    return reply.id, from_item(reply.error) if reply.HasField("error") else None


def _one_verdict(request: v1.ClassifyRequest) -> Collector[v1.ClassifyResponse, v1.ClassifyResponse]:
    def check(response: v1.ClassifyResponse) -> v1.ClassifyResponse:
        return check_verdict(request, response)

    return Single(check)


def _samples(_request: v1.ScoreRequest) -> Collector[v1.ScoreResponse, v1.ScoreResponse]:
    return Single(check_samples)


def _answer(request: v1.GenerateRequest) -> Collector[v1.GenerateResponse, Answer]:
    return AnswerBuilder(request)


CLASSIFY_ITEMS = ItemMethod(_classify_message, _unpack_classify, _one_verdict)
SCORE_ITEMS = ItemMethod(_score_message, _unpack_score, _samples)
GENERATE_ITEMS = ItemMethod(_generate_message, _unpack_generate, _answer)


def batch_results(
    answer: v1.BatchClassifyResponse, requests: Sequence[v1.ClassifyRequest]
) -> list[v1.ClassifyResponse | CallError]:
    """The results of a batch of these requests, in their order."""
    if len(answer.results) != len(requests):
        raise ProtocolError(f"{len(answer.results)} results for {len(requests)} items")
    return [_batch_result(*pair) for pair in zip(requests, answer.results, strict=True)]


def _batch_result(
    request: v1.ClassifyRequest, result: v1.BatchClassifyResult
) -> v1.ClassifyResponse | CallError:
    if result.HasField("error"):
        return from_item(result.error)
    try:
        return check_verdict(request, result.response)
    except ProtocolError as wrong:
        return empty_answer(str(wrong))
