"""Client of Babelward, a gRPC service that judges conversations with guard models.

`Client` blocks, `AsyncClient` is for asyncio, and `babelward.v1` has the messages. See docs/python.md in the service's
repository.
"""

from importlib.metadata import version

from .aio import AsyncClient
from .answers import Answer
from .client import Client
from .connection import Plaintext, Tls
from .errors import (
    BabelwardError,
    CallError,
    CancelledError,
    DeadlineExceededError,
    DuplicateIdError,
    FailedPreconditionError,
    FieldViolation,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    PlaintextKeyError,
    ProtocolError,
    ResourceExhaustedError,
    ServerError,
    StreamGaveUpError,
    UnauthenticatedError,
    UnavailableError,
)
from .requests import conversation
from .retry import NO_RETRIES, RetryPolicy
from .verdicts import CountAs, is_unsafe, label_name, unsafe_score

__version__ = version("babelward")

__all__ = [
    "NO_RETRIES",
    "Answer",
    "AsyncClient",
    "BabelwardError",
    "CallError",
    "CancelledError",
    "Client",
    "CountAs",
    "DeadlineExceededError",
    "DuplicateIdError",
    "FailedPreconditionError",
    "FieldViolation",
    "InvalidRequestError",
    "NotFoundError",
    "PermissionDeniedError",
    "Plaintext",
    "PlaintextKeyError",
    "ProtocolError",
    "ResourceExhaustedError",
    "RetryPolicy",
    "ServerError",
    "StreamGaveUpError",
    "Tls",
    "UnauthenticatedError",
    "UnavailableError",
    "conversation",
    "is_unsafe",
    "label_name",
    "unsafe_score",
]
