"""Errors of calls, as values that a caller can act on.

Programs decide by the class, which is that of the status code, and by `reason`, the stable name of the error. The service's
reasons are listed in docs/errors.md of its repository. `message` is for people and may change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

#: `ErrorInfo.domain` of errors that the service itself returns.
DOMAIN = "babelward"

#: The trailer with a whole `google.rpc.Status`.
STATUS_DETAILS = "grpc-status-details-bin"

#: The trailer with the time to wait before the next attempt; a negative number forbids it (gRFC A6).
PUSHBACK = "grpc-retry-pushback-ms"


class BabelwardError(Exception):
    """Anything that this package raises about a call or its answer."""


class ProtocolError(BabelwardError):
    """The server sent what no server of this interface sends, such as an answer without a verdict."""


def whole_text(text: bytes | bytearray) -> str:
    """Text that the server has cut at the end of a code point, as it promises."""
    try:
        return text.decode()
    except UnicodeDecodeError as wrong:
        raise ProtocolError("a text is cut within a code point") from wrong


class DuplicateIdError(BabelwardError):
    """Two items that are open at the same time have one id."""


class PlaintextKeyError(BabelwardError):
    """The API key would be sent to another machine without encryption."""


class StreamGaveUpError(BabelwardError):
    """A stream of items broke as often as the retry policy allows, without an answer in between.

    Results that were given before stay valid.
    """

    def __init__(self, streams: int, unanswered: int, last: CallError) -> None:
        #: How many streams broke in a row.
        self.streams = streams
        #: How many items were taken from the input and have no result.
        self.unanswered = unanswered
        #: The error of the last stream.
        self.last = last
        super().__init__(
            f"the stream broke {streams} times in a row, {unanswered} items are unanswered; last: {last}"
        )


@dataclass(frozen=True)
class FieldViolation:
    """A field that the server has refused."""

    #: Its path in the request, for example `conversation.messages[0].content`.
    field: str
    #: The rule that it violates.
    description: str


@dataclass(frozen=True)
class RetryHint:
    """What the server says about retries."""

    #: Whether the same request may succeed later.
    allowed: bool = True
    #: Seconds to wait; None where the server names no time.
    after: float | None = None
    #: Whether to wait exactly so long, rather than at least.
    exact: bool = False


@dataclass(frozen=True)
class Details:
    """What the details of a `google.rpc.Status` say."""

    reason: str | None = None
    metadata: Mapping[str, str] | None = None
    violations: tuple[FieldViolation, ...] = ()
    request_id: str | None = None
    hint: RetryHint = field(default_factory=RetryHint)


class CallError(BabelwardError):
    """The server refused a call or an item, or could not be reached."""

    def __init__(self, code: grpc.StatusCode, message: str, details: Details | None = None) -> None:
        details = details or Details()
        #: The status code, which is never OK.
        self.code = code
        #: What is wrong, for people.
        self.message = message
        #: The stable name of the error; None if neither the service nor this client has named it.
        self.reason = details.reason
        #: What the service says of the error for programs, such as `limitTokens`.
        self.metadata: Mapping[str, str] = details.metadata or {}
        #: The fields that were refused.
        self.violations = details.violations
        #: The id of the call in the server's log; None for items, which share their call's.
        self.request_id = details.request_id
        self.hint = details.hint
        super().__init__(str(self))

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the server says that a retry can help; None if it names no time."""
        return self.hint.after if self.hint.allowed else None

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may succeed later: for UNAVAILABLE and RESOURCE_EXHAUSTED, unless the service says no.

        The service names a time with each of its own errors that a retry can help with. Errors of a proxy, or of a
        connection that broke, name none and are retryable all the same.
        """
        return (
            self.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
            and self.hint.allowed
        )

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        lines = [f"{self.code.name}{reason}: {self.message}"]
        for violation in self.violations:
            line = f"{violation.field}: {violation.description}"
            # The service's message has most violations already.
            if line not in self.message:
                lines.append(f"  {line}")
        return "\n".join(lines)


class InvalidRequestError(CallError):
    """INVALID_ARGUMENT: the request is wrong, and `violations` says where."""


class NotFoundError(CallError):
    """NOT_FOUND: no model or policy has this name."""


class FailedPreconditionError(CallError):
    """FAILED_PRECONDITION: the server is not set up for this request."""


class ResourceExhaustedError(CallError):
    """RESOURCE_EXHAUSTED: a queue, a quota or memory is used up."""


class DeadlineExceededError(CallError):
    """DEADLINE_EXCEEDED: there was no answer in time."""


class UnavailableError(CallError):
    """UNAVAILABLE: no server answers, or it is starting or shutting down."""


class UnauthenticatedError(CallError):
    """UNAUTHENTICATED: the API key is missing or not valid."""


class PermissionDeniedError(CallError):
    """PERMISSION_DENIED: the API key does not allow this call."""


class CancelledError(CallError):
    """CANCELLED: somebody stopped the call or the item."""


class ServerError(CallError):
    """Any other code, above all INTERNAL: a fault of the server or of something on the way to it."""


_CLASSES: dict[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.CANCELLED: CancelledError,
}

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class AnyMessage(Protocol):
    """A `google.protobuf.Any`."""

    def Is(self, descriptor: Any) -> bool: ...
    def Unpack(self, message: Any) -> bool: ...


class StatusMessage(Protocol):
    """The fields that `google.rpc.Status` and `babelward.v1.ItemStatus` have in common."""

    @property
    def code(self) -> int: ...
    @property
    def message(self) -> str: ...
    @property
    def details(self) -> Iterable[AnyMessage]: ...


def make_error(code: grpc.StatusCode, message: str, details: Details | None = None) -> CallError:
    """The error of the class that belongs to the code."""
    return _CLASSES.get(code, ServerError)(code, message, details)


def from_item(status: StatusMessage) -> CallError:
    """The error of one item of a batch or stream."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    # An item that failed with the code of success is an error of the server.
    code = grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.OK else code
    return make_error(code, status.message, _read(status.details, None))


def from_rpc(error: grpc.RpcError) -> CallError:
    """The error for the status that ended a call, whether grpc or grpc.aio reports it."""
    failed: Any = error
    trailers: dict[str, str | bytes] = {}
    for key, value in failed.trailing_metadata() or ():
        trailers.setdefault(key, value)
    packed = trailers.get(STATUS_DETAILS)
    details: Iterable[AnyMessage] = ()
    if isinstance(packed, bytes):
        status = status_pb2.Status()
        try:
            status.ParseFromString(packed)
            details = status.details
        except DecodeError:
            # Of something on the way that uses the same trailer. The code and the message are there all the same.
            pass
    return make_error(failed.code(), failed.details() or "", _read(details, trailers.get(PUSHBACK)))


def _read(details: Iterable[AnyMessage], pushback: str | bytes | None) -> Details:
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.RequestInfo()
    is_ours = False
    delay: float | None = None
    for detail in details:
        if detail.Is(retry.DESCRIPTOR) and _unpacked(detail, retry):
            delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        for message in (info, bad, request):
            if detail.Is(message.DESCRIPTOR):
                _unpacked(detail, message)
    is_ours = info.domain == DOMAIN
    return Details(
        reason=info.reason or None,
        metadata=dict(info.metadata),
        violations=tuple(FieldViolation(each.field, each.description) for each in bad.field_violations),
        request_id=request.request_id or None,
        hint=_hint(delay, pushback, is_ours),
    )


def _unpacked(detail: AnyMessage, message: Any) -> bool:
    try:
        return detail.Unpack(message)
    except DecodeError:
        return False


def _hint(delay: float | None, pushback: str | bytes | None, is_ours: bool) -> RetryHint:
    if pushback is not None:
        text = pushback.decode("ascii", "replace") if isinstance(pushback, bytes) else pushback
        if text.isascii() and text.isdigit():
            return RetryHint(after=int(text) / 1000, exact=True)
        return RetryHint(allowed=False)
    if delay is not None:
        return RetryHint(after=delay)
    return RetryHint(allowed=not is_ours)
