"""What a verdict counts as, and requests from what a program has at hand."""

import pytest

import babelward
from babelward import CountAs, v1
from babelward.requests import classify_request, generate_request, score_request

LABELS = [
    (v1.LABEL_SAFE, "safe", [False, False, False, False]),
    (v1.LABEL_UNSAFE, "unsafe", [True, True, True, True]),
    (v1.LABEL_UNDETERMINED, "undetermined", [False, False, True, True]),
    (v1.LABEL_CONTROVERSIAL, "controversial", [False, True, False, True]),
]


@pytest.mark.parametrize(("label", "name", "counts"), LABELS)
def test_the_caller_says_what_the_other_labels_count_as(
    label: v1.Label.ValueType, name: str, counts: list[bool]
) -> None:
    verdict = v1.Verdict(label=label)
    ways = [(one, other) for one in CountAs for other in CountAs]
    found = [babelward.is_unsafe(verdict, undetermined=one, controversial=other) for one, other in ways]
    assert (found, babelward.label_name(label)) == (counts, name)


def test_the_test_above_knows_every_label() -> None:
    assert {label for label, _, _ in LABELS} == set(v1.Label.values()) - {v1.LABEL_UNSPECIFIED}


def test_there_is_no_default() -> None:
    with pytest.raises(TypeError):
        babelward.is_unsafe(v1.Verdict(label=v1.LABEL_SAFE))  # type: ignore[call-arg]


@pytest.mark.parametrize("number", [0, 99])
def test_what_has_no_label_is_neither_safe_nor_unsafe(number: int) -> None:
    verdict = v1.Verdict.FromString(bytes([8, number]))
    with pytest.raises(babelward.ProtocolError):
        babelward.is_unsafe(verdict, undetermined=CountAs.SAFE, controversial=CountAs.SAFE)
    with pytest.raises(babelward.ProtocolError):
        babelward.label_name(verdict.label)


def test_a_missing_score_is_not_zero() -> None:
    assert babelward.unsafe_score(v1.Verdict()) is None
    assert babelward.unsafe_score(v1.Verdict(unsafe_score=0.0)) == 0.0


def test_a_text_is_a_users_message() -> None:
    expected = v1.Conversation(messages=[v1.Message(role=v1.ROLE_USER, content="x")])
    assert babelward.conversation("x") == expected
    assert classify_request("x").conversation == expected
    assert generate_request("x").conversation == expected
    assert score_request("x").generate.conversation == expected


def test_messages_are_taken_as_chat_apis_have_them() -> None:
    tool = v1.Message(role=v1.ROLE_TOOL, content="z", tool_name="t")
    messages = babelward.conversation(
        [{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}, tool]
    )
    assert [message.role for message in messages.messages] == [
        v1.ROLE_SYSTEM,
        v1.ROLE_ASSISTANT,
        v1.ROLE_TOOL,
    ]
    assert messages.messages[2] == tool
    assert babelward.conversation(messages) is messages


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "user"}, r"messages\[1\]\.content"),
        ({"role": "robot", "content": "x"}, r"messages\[1\]\.role"),
        ({"content": "x"}, r"messages\[1\]\.role"),
        ({"role": "user", "content": [{"type": "text"}]}, r"messages\[1\]\.content"),
        ({"role": "assistant", "content": "x", "tool_calls": []}, "tool_calls"),
    ],
)
def test_nothing_of_a_message_is_left_out_in_silence(message: dict[str, str], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        babelward.conversation([{"role": "user", "content": "x"}, message])
