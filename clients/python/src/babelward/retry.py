"""When a call is retried: with exponential backoff and full jitter, unless the server says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import RetryHint


@dataclass(frozen=True)
class RetryPolicy:
    """How many times and when calls and items that fail with a retryable error are sent again."""

    #: Most attempts, with the first; at least 1.
    max_attempts: int = 4
    #: Longest wait before the first retry, in seconds.
    initial: float = 0.1
    #: Longest wait before any retry, in seconds, where the server names none.
    longest: float = 5.0
    #: Factor by which the longest wait grows from one retry to the next.
    multiplier: float = 2.0
    #: If the server asks for a longer wait than this, in seconds, the call ends instead.
    longest_hint: float = 60.0

    def delay(self, failed: int, hint: RetryHint, jitter: float) -> float | None:
        """Seconds to wait after the `failed`-th failure in a row (from 1), or None to give up.

        `jitter` is uniform in [0, 1). Full jitter keeps clients that failed at the same time from retrying at the same
        time.
        """
        if failed >= self.max_attempts or not hint.allowed:
            return None
        bound = min(self.initial * self.multiplier ** min(failed - 1, 64), self.longest)
        backoff = bound * min(max(jitter, 0.0), 1.0)
        if hint.after is None:
            return backoff
        if hint.after > self.longest_hint:
            return None
        return hint.after if hint.exact else hint.after + backoff


#: Nothing is sent twice.
NO_RETRIES = RetryPolicy(max_attempts=1)
