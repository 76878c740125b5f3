"""Errors as values: what is read of a status, and what may be sent again."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

import babelward
from babelward import errors
from fake import FakeServer, fail, item_error, status


class Failed(grpc.RpcError):
    """The end of a call, as grpc reports it."""

    def __init__(self, sent: Any, trailers: tuple[tuple[str, str | bytes], ...] = ()) -> None:
        self._sent = sent
        self._trailers = trailers or (("grpc-status-details-bin", sent.SerializeToString()),)

    def code(self) -> grpc.StatusCode:
        return {code.value[0]: code for code in grpc.StatusCode}[self._sent.code]

    def details(self) -> str:
        return str(self._sent.message)

    def trailing_metadata(self) -> Any:
        return self._trailers


def test_everything_that_the_service_says_is_there(fake: FakeServer, connect: Any) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="conversation", description="is required")
    bad = error_details_pb2.BadRequest(field_violations=[violation])
    info = error_details_pb2.ErrorInfo(
        reason="INVALID_FIELDS", domain="babelward", metadata={"limitBytes": "7"}
    )
    request = error_details_pb2.RequestInfo(request_id="abc")
    sent = status(grpc.StatusCode.INVALID_ARGUMENT, others=(bad, info, request))
    fake.handlers["Classify"] = lambda _request, context: fail(context, sent)
    with pytest.raises(babelward.InvalidRequestError) as caught:
        connect(fake.address).classify("")
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert error.violations == (babelward.FieldViolation("conversation", "is required"),)
    assert (error.metadata, error.request_id, error.retry_after) == ({"limitBytes": "7"}, "abc", None)
    assert str(error) == "INVALID_ARGUMENT (INVALID_FIELDS): None\n  conversation: is required"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, babelward.NotFoundError),
        (grpc.StatusCode.FAILED_PRECONDITION, babelward.FailedPreconditionError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, babelward.ResourceExhaustedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, babelward.DeadlineExceededError),
        (grpc.StatusCode.UNAVAILABLE, babelward.UnavailableError),
        (grpc.StatusCode.UNAUTHENTICATED, babelward.UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, babelward.PermissionDeniedError),
        (grpc.StatusCode.CANCELLED, babelward.CancelledError),
        (grpc.StatusCode.INTERNAL, babelward.ServerError),
    ],
)
def test_each_code_has_its_class(code: grpc.StatusCode, kind: type[babelward.CallError]) -> None:
    assert type(errors.from_item(item_error(status(code, "X")))) is kind


def test_an_item_that_failed_with_success_is_an_error_all_the_same() -> None:
    assert errors.from_item(item_error(status(grpc.StatusCode.OK))).code is grpc.StatusCode.UNKNOWN


def test_the_service_says_when_a_retry_can_help() -> None:
    unavailable = grpc.StatusCode.UNAVAILABLE
    hinted = errors.from_rpc(Failed(status(unavailable, "SERVER_DRAINING", retry_after=1.5)))
    assert (hinted.is_retryable, hinted.retry_after) == (True, 1.5)
    # The service's own error without a time: the answer would be the same.
    assert not errors.from_rpc(Failed(status(unavailable, "DEVICE_LOST"))).is_retryable
    # Of something on the way, which names no times.
    proxy = errors.from_rpc(Failed(status(unavailable, "OVERLOADED", domain="proxy.example")))
    assert (proxy.is_retryable, proxy.retry_after) == (True, None)
    other = errors.from_rpc(Failed(status(grpc.StatusCode.INTERNAL, "DEVICE_FAULT", retry_after=1)))
    assert not other.is_retryable


@pytest.mark.parametrize(("pushback", "wait"), [("250", 0.25), ("-1", None), ("soon", None), ("٣", None)])
def test_the_trailer_of_grpc_beats_the_time_in_the_details(pushback: str, wait: float | None) -> None:
    sent = status(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", retry_after=9)
    details = ("grpc-status-details-bin", sent.SerializeToString())
    error = errors.from_rpc(Failed(sent, (details, ("grpc-retry-pushback-ms", pushback))))
    assert (error.retry_after, error.is_retryable) == (wait, wait is not None)


@pytest.mark.parametrize("trailer", [b"\xff\xff\xff", b""])
def test_details_that_are_none_leave_code_and_message(trailer: bytes) -> None:
    sent = status(grpc.StatusCode.INTERNAL, "said")
    error = errors.from_rpc(Failed(sent, (("grpc-status-details-bin", trailer),)))
    assert (error.code, error.message, error.reason) == (grpc.StatusCode.INTERNAL, "said", None)


def test_a_detail_that_is_damaged_hides_no_other() -> None:
    sent = status(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", retry_after=1)
    for detail in sent.details:
        if detail.type_url.endswith("RetryInfo"):
            detail.value = b"\xff"
    error = errors.from_item(item_error(sent))
    assert (error.reason, error.retry_after) == ("MODEL_NOT_FOUND", None)
