"""Where a client connects to, and what each of its calls sends along."""

from __future__ import annotations

import enum
import ipaddress
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version

import grpc
import grpc.aio

from .errors import CallError, PlaintextKeyError
from .retry import RetryPolicy

#: A connection with an open call that has been silent for so many milliseconds is pinged, so that a dead peer is noticed.
_KEEP_ALIVE_MS = 30_000

#: Milliseconds before gRPC connects again, at first. Its own second is longer than all waits between our first attempts, which
#: would then fail without having tried.
_RECONNECT_MS = 100


@dataclass(frozen=True)
class Tls:
    """How a server is recognised, and what is shown to it. All are in PEM form."""

    #: Authorities that may have issued the server's certificate; those that gRPC trusts if absent.
    authorities: bytes | None = None
    #: The client's certificate and those that lead to its authority, for servers that ask for one.
    certificate: bytes | None = None
    #: The key of that certificate.
    key: bytes | None = field(default=None, repr=False)


class Plaintext(enum.Enum):
    """A connection without TLS over which an API key is sent to another machine all the same."""

    #: A proxy or mesh on this machine encrypts.
    ENCRYPTED_ELSEWHERE = "encrypted elsewhere"


@dataclass(frozen=True)
class Options:
    """What all calls of a client have in common."""

    target: str
    api_key: str | None = field(default=None, repr=False)
    tls: Tls | Plaintext | None = None
    #: Seconds that a call with one request may take with all of its retries; None for no limit.
    timeout: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    tenant: str | None = None
    #: Uniform in [0, 1).
    jitter: Callable[[], float] = random.random

    def deadline(self, timeout: float | None) -> Deadline:
        """The deadline of a call that begins now, with this timeout or else the client's."""
        return Deadline.after(self.timeout if timeout is None else timeout)

    def delay(self, error: CallError, failed: int, deadline: Deadline) -> float | None:
        """Seconds until the next attempt of a call that has failed so many times; None to give up."""
        if not error.is_retryable:
            return None
        delay = self.retry.delay(failed, error.hint, self.jitter())
        left = deadline.left()
        # An attempt that begins after the deadline cannot be answered: this error says more than the deadline would.
        return None if delay is None or (left is not None and delay >= left) else delay

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers of each call."""
        headers = []
        if self.api_key is not None:
            headers.append(("authorization", f"Bearer {self.api_key}"))
        if self.tenant is not None:
            headers.append(("x-babelward-tenant", self.tenant))
        return tuple(headers)


@dataclass(frozen=True)
class Deadline:
    """When a call and all of its attempts must have ended."""

    #: By the monotonic clock; None for never.
    at: float | None

    @staticmethod
    def after(timeout: float | None) -> Deadline:
        """The deadline so many seconds from now; None for none."""
        return Deadline(None if timeout is None else time.monotonic() + timeout)

    def left(self) -> float | None:
        """Seconds until then, which is what gRPC takes as the timeout of an attempt; at least 0."""
        return None if self.at is None else max(self.at - time.monotonic(), 0.0)


@dataclass(frozen=True)
class Endpoint:
    """A checked address."""

    #: What gRPC calls a target: HOST:PORT, dns:///NAME:PORT and others.
    target: str
    #: None for a connection without encryption.
    credentials: grpc.ChannelCredentials | None

    def channel(self) -> grpc.Channel:
        """A channel of the blocking interface, which connects with its first call."""
        if self.credentials is None:
            return grpc.insecure_channel(self.target, self._options())
        return grpc.secure_channel(self.target, self.credentials, self._options())

    def aio_channel(self) -> grpc.aio.Channel:
        """A channel of the running event loop, which connects with its first call."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, self._options())
        return grpc.aio.secure_channel(self.target, self.credentials, self._options())

    @staticmethod
    def _options() -> list[tuple[str, str | int]]:
        """Settings of the channels. Retries are ours, which know the service's reasons."""
        return [
            ("grpc.enable_retries", 0),
            ("grpc.lb_policy_name", "round_robin"),
            ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
            ("grpc.min_reconnect_backoff_ms", _RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", 50 * _RECONNECT_MS),
            ("grpc.keepalive_time_ms", _KEEP_ALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEP_ALIVE_MS),
            ("grpc.primary_user_agent", f"babelward-python/{version('babelward')}"),
        ]


def endpoint(options: Options) -> Endpoint:
    """Checks an address: HOST:PORT or http://HOST:PORT without TLS, https://HOST:PORT with it, or a target of gRPC.

    Raises ValueError for another scheme, and PlaintextKeyError where an API key would leave this machine unencrypted.
    """
    target = options.target
    tls = options.tls
    if target.startswith("http://"):
        if isinstance(tls, Tls):
            raise ValueError(f"{target}: http:// is without TLS; say https://, or leave `tls` out")
        target = target.removeprefix("http://")
    elif target.startswith("https://"):
        target = target.removeprefix("https://")
        tls = tls if isinstance(tls, Tls) else Tls()
    target = target.rstrip("/")
    if not target or (("://" in target) and not target.startswith(("dns://", "xds://"))):
        raise ValueError(
            f"`{options.target}` is not an address like 127.0.0.1:50051 or https://guard.example:50051"
        )
    if options.api_key is not None and tls is None and not _is_here(target):
        raise PlaintextKeyError(
            f"the API key would be sent to {target} without encryption, for everybody on the way to read; say https:// "
            "or give `tls`, which is Plaintext.ENCRYPTED_ELSEWHERE where a proxy or mesh encrypts"
        )
    return Endpoint(target, _credentials(tls) if isinstance(tls, Tls) else None)


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    if (tls.certificate is None) != (tls.key is None):
        raise ValueError("a client's certificate and its key are given together")
    return grpc.ssl_channel_credentials(
        root_certificates=tls.authorities, private_key=tls.key, certificate_chain=tls.certificate
    )


def _is_here(target: str) -> bool:
    """Whether an address is this machine's own, so that nobody else can read what is sent to it."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = target.rpartition(":")[0] or target
    host = host.strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
