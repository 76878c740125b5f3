"""What a verdict means for a program that allows or blocks.

A verdict has four labels and a program two ways to go, so the caller has to say what the other two labels count as. There is
no default: to take an undetermined verdict for a safe one, somebody has to write that down.
"""

from __future__ import annotations

import enum

from . import v1
from .errors import ProtocolError

#: Of requests that classifiers alone may answer.
_WITHOUT_VERDICT = (v1.GUARD_USE_IF_SERVED, v1.GUARD_USE_NONE)


class CountAs(enum.Enum):
    """What a label that is neither safe nor unsafe counts as."""

    SAFE = "safe"
    UNSAFE = "unsafe"


def is_unsafe(verdict: v1.Verdict, *, undetermined: CountAs, controversial: CountAs) -> bool:
    """Whether a verdict counts as unsafe.

    `undetermined` is for guards that wrote none of their labels, `controversial` for guards that have a word between safe and
    unsafe. Raises ProtocolError for a message that is no verdict, such as an empty one, or has a label that this version does
    not know.
    """
    if verdict.label == v1.LABEL_SAFE:
        return False
    if verdict.label == v1.LABEL_UNSAFE:
        return True
    if verdict.label == v1.LABEL_UNDETERMINED:
        return undetermined is CountAs.UNSAFE
    if verdict.label == v1.LABEL_CONTROVERSIAL:
        return controversial is CountAs.UNSAFE
    raise ProtocolError(f"a verdict with the label {verdict.label}, which says neither safe nor unsafe")


def unsafe_score(verdict: v1.Verdict) -> float | None:
    """The probability of unsafe against safe, 0 to 1; None where the guard gave none, which a plain field would show as 0."""
    return verdict.unsafe_score if verdict.HasField("unsafe_score") else None


def label_name(label: v1.Label.ValueType) -> str:
    """The label in small letters: `safe`, `unsafe`, `undetermined` or `controversial`."""
    if label not in v1.Label.values() or label == v1.LABEL_UNSPECIFIED:
        raise ProtocolError(f"the label {label} is none that this version knows")
    return v1.Label.Name(label).removeprefix("LABEL_").lower()


def check_verdict(request: v1.ClassifyRequest, response: v1.ClassifyResponse) -> v1.ClassifyResponse:
    """The same answer, if it has a verdict with a label.

    Only a request with a `guard_use` of NONE or IF_SERVED can be answered by classifiers alone, and one with NONE has to be.
    """
    if response.HasField("verdict"):
        if request.guard_use == v1.GUARD_USE_NONE:
            raise ProtocolError("a verdict that nobody asked for: is the server older than this client?")
        if response.verdict.label != v1.LABEL_UNSPECIFIED:
            return response
    elif request.guard_use in _WITHOUT_VERDICT and response.classifications:
        return response
    raise ProtocolError("an answer without a verdict")


def check_samples(response: v1.ScoreResponse) -> v1.ScoreResponse:
    """The same answer, if each of its samples has a verdict with a label."""
    if not response.samples:
        raise ProtocolError("an answer without a sample")
    for sample in response.samples:
        if not sample.HasField("verdict") or sample.verdict.label == v1.LABEL_UNSPECIFIED:
            raise ProtocolError("a sample without a verdict")
    return response
