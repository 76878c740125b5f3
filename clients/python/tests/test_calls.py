"""Calls with one request: what is sent, what is no answer, and what is sent again."""

from typing import Any

import grpc
import pytest

import babelward
from babelward import v1
from babelward.errors import RetryHint
from fake import BUSY, DRAINING, FakeServer, fail, safe, status


def failing(times: int, sent: Any) -> tuple[list[Any], Any]:
    """A handler that fails so many times, and the requests that it has seen."""
    seen: list[Any] = []

    def handler(request: Any, context: grpc.ServicerContext) -> v1.ClassifyResponse:
        seen.append(request)
        if len(seen) <= times:
            fail(context, sent)
        return safe()

    return seen, handler


def test_the_longest_waits_double_until_the_attempts_are_used_up() -> None:
    policy = babelward.RetryPolicy()
    waits = [policy.delay(failed, RetryHint(), 1.0) for failed in range(1, 6)]
    assert waits == [0.1, 0.2, 0.4, None, None]
    endless = babelward.RetryPolicy(max_attempts=10_000)
    assert all((endless.delay(failed, RetryHint(), 0.99) or 0) <= 5 for failed in range(1, 10_000))


def test_the_server_may_set_or_forbid_the_wait() -> None:
    policy = babelward.RetryPolicy()
    assert policy.delay(1, RetryHint(after=1, exact=True), 0.7) == 1
    assert policy.delay(1, RetryHint(after=1), 0.5) == 1.05
    assert policy.delay(1, RetryHint(allowed=False), 0.5) is None
    assert policy.delay(1, RetryHint(after=3600), 0.5) is None


def test_a_refusal_that_a_retry_can_help_with_is_retried(fake: FakeServer, connect: Any) -> None:
    seen, fake.handlers["Classify"] = failing(3, BUSY)
    assert connect(fake.address).classify("x").verdict.label == v1.LABEL_SAFE
    assert len(seen) == 4


def test_attempts_end(fake: FakeServer, connect: Any) -> None:
    seen, fake.handlers["Classify"] = failing(99, DRAINING)
    with pytest.raises(babelward.UnavailableError, match="SERVER_DRAINING"):
        connect(fake.address).classify("x")
    assert len(seen) == 4


@pytest.mark.parametrize(
    "sent",
    [
        status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"),
        status(grpc.StatusCode.UNAVAILABLE, "MODEL_FAILED"),
        status(grpc.StatusCode.INTERNAL, "WORKER_PANIC"),
    ],
)
def test_what_a_retry_cannot_help_is_sent_once(fake: FakeServer, connect: Any, sent: Any) -> None:
    seen, fake.handlers["Classify"] = failing(99, sent)
    with pytest.raises(babelward.CallError):
        connect(fake.address).classify("x")
    assert len(seen) == 1


def test_retries_can_be_turned_off(fake: FakeServer, connect: Any) -> None:
    seen, fake.handlers["Classify"] = failing(99, BUSY)
    with pytest.raises(babelward.ResourceExhaustedError):
        connect(fake.address, retry=babelward.NO_RETRIES).classify("x")
    assert len(seen) == 1


def test_no_retry_begins_after_the_deadline(fake: FakeServer, connect: Any) -> None:
    """The server asks for half a minute, and the call may take a quarter: its error says more than the deadline's."""
    late = status(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_TOKENS", retry_after=30)
    seen, fake.handlers["Classify"] = failing(99, late)
    with pytest.raises(babelward.ResourceExhaustedError) as caught:
        connect(fake.address, timeout=15).classify("x")
    assert (len(seen), caught.value.retry_after) == (1, 30)


def test_the_timeout_is_the_servers_deadline(fake: FakeServer, connect: Any) -> None:
    left: list[float] = []

    def handler(_request: Any, context: grpc.ServicerContext) -> v1.ClassifyResponse:
        left.append(context.time_remaining())
        return safe()

    fake.handlers["Classify"] = handler
    client = connect(fake.address, timeout=50)
    client.classify("x")
    client.classify("x", timeout=500)
    # grpc sends it rounded up, by less than two seconds.
    assert left[0] < 52 < left[1] < 502


def test_nobody_there_is_unavailable(connect: Any) -> None:
    gone = FakeServer()
    gone.stop()
    with pytest.raises(babelward.UnavailableError):
        connect(gone.address, retry=babelward.RetryPolicy(max_attempts=2)).classify("x")


@pytest.mark.parametrize(
    "empty", [v1.ClassifyResponse(), v1.ClassifyResponse(verdict=v1.Verdict(label_mass=0.5))]
)
def test_an_answer_without_a_verdict_is_none(
    fake: FakeServer, connect: Any, empty: v1.ClassifyResponse
) -> None:
    fake.handlers["Classify"] = lambda _request, _context: empty
    with pytest.raises(babelward.ProtocolError, match="without a verdict"):
        connect(fake.address).classify("x")
    fake.handlers["Score"] = lambda _request, _context: v1.ScoreResponse(samples=[v1.ScoredSample()])
    with pytest.raises(babelward.ProtocolError, match="without a verdict"):
        connect(fake.address).score("x")
    results = [v1.BatchClassifyResult(response=safe()), v1.BatchClassifyResult(response=empty)]
    fake.handlers["BatchClassify"] = lambda _request, _context: v1.BatchClassifyResponse(results=results)
    first, second = connect(fake.address).batch_classify(["x", "y"])
    assert first.verdict.label == v1.LABEL_SAFE
    assert (type(second), second.reason) == (babelward.ServerError, "EMPTY_ANSWER")


@pytest.mark.parametrize("guard_use", [v1.GUARD_USE_NONE, v1.GUARD_USE_IF_SERVED])
def test_classifiers_alone_answer_those_who_do_without_a_verdict(
    fake: FakeServer, connect: Any, guard_use: v1.GuardUse.ValueType
) -> None:
    alone = v1.ClassifyResponse(classifications=[v1.Classification(model="watch", harm_score=0.5)])
    results = [v1.BatchClassifyResult(response=alone)]
    fake.handlers["Classify"] = lambda _request, _context: alone
    fake.handlers["BatchClassify"] = lambda _request, _context: v1.BatchClassifyResponse(results=results)
    fake.handlers["ClassifyStream"] = lambda requests, _context: (
        v1.ClassifyStreamResponse(id=request.id, response=alone) for request in requests
    )
    client = connect(fake.address)
    request = v1.ClassifyRequest(guard_use=guard_use)
    answers = [client.classify(request), *client.batch_classify([request])]
    answers += [answer for _id, answer in client.classify_stream([("a", request)])]
    assert answers == [alone] * 3
    # Who asks for a verdict has to get one, and an answer of nobody is none.
    with pytest.raises(babelward.ProtocolError, match="without a verdict"):
        client.classify("x")
    fake.handlers["Classify"] = lambda _request, _context: v1.ClassifyResponse()
    with pytest.raises(babelward.ProtocolError, match="without a verdict"):
        client.classify(request)


def test_a_verdict_that_nobody_asked_for_is_of_an_older_server(fake: FakeServer, connect: Any) -> None:
    fake.handlers["Classify"] = lambda _request, _context: safe()
    client = connect(fake.address)
    assert client.classify(v1.ClassifyRequest(guard_use=v1.GUARD_USE_IF_SERVED)).HasField("verdict")
    with pytest.raises(babelward.ProtocolError, match="older than this client"):
        client.classify(v1.ClassifyRequest(guard_use=v1.GUARD_USE_NONE))


def test_a_batch_with_too_few_results_is_no_answer(fake: FakeServer, connect: Any) -> None:
    fake.handlers["BatchClassify"] = lambda _request, _context: v1.BatchClassifyResponse()
    with pytest.raises(babelward.ProtocolError, match="0 results for 2 items"):
        connect(fake.address).batch_classify(["x", "y"])


def test_all_pages_of_models_are_read(fake: FakeServer, connect: Any) -> None:
    def handler(request: v1.ListModelsRequest, _context: grpc.ServicerContext) -> v1.ListModelsResponse:
        page = int(request.page_token or "0")
        following = str(page + 1) if page < 2 else ""
        return v1.ListModelsResponse(models=[v1.Model(name=f"m{page}")], next_page_token=following)

    fake.handlers["ListModels"] = handler
    assert [model.name for model in connect(fake.address).models()] == ["m0", "m1", "m2"]


def test_each_call_has_the_key_and_the_tenant(fake: FakeServer, connect: Any) -> None:
    fake.handlers["Classify"] = lambda _request, _context: safe()
    fake.handlers["ClassifyStream"] = lambda _requests, _context: iter(())
    client = connect(fake.address, api_key="bw_secret", tenant="red", retry=babelward.NO_RETRIES)
    client.classify("x")
    with pytest.raises(babelward.StreamGaveUpError):
        list(client.classify_stream([("a", "x")]))
    for headers in fake.headers:
        assert (headers["authorization"], headers["x-babelward-tenant"]) == ("Bearer bw_secret", "red")
        assert str(headers["user-agent"]).startswith("babelward-python/")
    assert len(fake.headers) == 2
