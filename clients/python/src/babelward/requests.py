"""Requests from what a program has at hand: a text, messages as chat APIs have them, or a whole request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from . import v1

#: A message as chat APIs have it: `{"role": "user", "content": "..."}`.
ChatMessage: TypeAlias = Mapping[str, str]

#: What can be judged or answered: one text of a user, messages, or a conversation.
ConversationLike: TypeAlias = "str | v1.Conversation | Iterable[v1.Message | ChatMessage]"

#: What `classify` takes. A request says more than a conversation: the model, a policy, what is judged.
ClassifyLike: TypeAlias = "v1.ClassifyRequest | ConversationLike"

#: What `generate` takes.
GenerateLike: TypeAlias = "v1.GenerateRequest | ConversationLike"

#: What `score` takes.
ScoreLike: TypeAlias = "v1.ScoreRequest | ConversationLike"

ROLES = {
    "system": v1.ROLE_SYSTEM,
    "user": v1.ROLE_USER,
    "assistant": v1.ROLE_ASSISTANT,
    "tool": v1.ROLE_TOOL,
}


def conversation(messages: ConversationLike) -> v1.Conversation:
    """A conversation: of one message of a user if it is given a text.

    Raises ValueError for a mapping that has an unknown role, or anything but `role` and `content`. Nothing is left out in
    silence: what a guard should see besides, such as calls of tools, is sent as `v1.Message`.
    """
    if isinstance(messages, v1.Conversation):
        return messages
    if isinstance(messages, str):
        return v1.Conversation(messages=[v1.Message(role=v1.ROLE_USER, content=messages)])
    return v1.Conversation(messages=[_message(index, each) for index, each in enumerate(messages)])


def _message(index: int, message: v1.Message | ChatMessage) -> v1.Message:
    if isinstance(message, v1.Message):
        return message
    unknown = sorted(set(message) - {"role", "content"})
    if unknown:
        raise ValueError(f"messages[{index}]: {unknown} cannot be sent from a mapping: use v1.Message")
    role = ROLES.get(message.get("role", ""))
    if role is None:
        raise ValueError(f"messages[{index}].role: must be one of {sorted(ROLES)}")
    content = message.get("content")
    if not isinstance(content, str):
        raise ValueError(f"messages[{index}].content: must be a text: use v1.Message for parts")
    return v1.Message(role=role, content=content)


def classify_request(given: ClassifyLike) -> v1.ClassifyRequest:
    """The request itself, or one with the server's default guard."""
    if isinstance(given, v1.ClassifyRequest):
        return given
    return v1.ClassifyRequest(conversation=conversation(given))


def generate_request(given: GenerateLike) -> v1.GenerateRequest:
    """The request itself, or one with the server's default target."""
    if isinstance(given, v1.GenerateRequest):
        return given
    return v1.GenerateRequest(conversation=conversation(given))


def score_request(given: ScoreLike) -> v1.ScoreRequest:
    """The request itself, or one with the server's default target and guard."""
    if isinstance(given, v1.ScoreRequest):
        return given
    return v1.ScoreRequest(generate=generate_request(given))
