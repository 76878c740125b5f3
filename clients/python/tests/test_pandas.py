"""Data frames: every row has its verdict or its error, in its place."""

import subprocess
import sys
from collections.abc import Iterator

import grpc
import pandas as pd
import pytest

import babelward
from babelward import v1
from babelward.pandas import COLUMNS, classify_frame
from fake import DRAINING, FakeServer, fail, item_error, status

Requests = Iterator[v1.ClassifyStreamRequest]
Replies = Iterator[v1.ClassifyStreamResponse]

LONG = item_error(status(grpc.StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LONG"))


def verdict_on(request: v1.ClassifyRequest) -> v1.Verdict:
    """A verdict that shows which request it is of."""
    text = request.conversation.messages[-1].content
    if text.startswith("neither"):
        return v1.Verdict(label=v1.LABEL_UNDETERMINED, label_mass=0.1)
    verdict = v1.Verdict(label=v1.LABEL_UNSAFE, unsafe_score=len(text) / 100, label_mass=0.9)
    verdict.categories.add(category="S1")
    verdict.categories.add(category=request.policy or "S2")
    return verdict


@pytest.fixture
def judge(fake: FakeServer) -> Iterator[babelward.Client]:
    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        waiting: list[v1.ClassifyStreamResponse] = []
        for request in requests:
            response = v1.ClassifyResponse(verdict=verdict_on(request.classify))
            waiting.append(v1.ClassifyStreamResponse(id=request.id, response=response))
            if "long" in request.classify.conversation.messages[-1].content:
                waiting[-1] = v1.ClassifyStreamResponse(id=request.id, error=LONG)
            # The last first.
            while len(waiting) == 2:
                yield waiting.pop()
            if "end" in request.classify.conversation.messages[-1].content:
                yield from waiting

    fake.handlers["ClassifyStream"] = handler
    with babelward.Client(fake.address) as client:
        yield client


def test_order_and_index_are_kept(judge: babelward.Client) -> None:
    frame = pd.DataFrame(
        {"text": ["a", "bbb", "too long", None, "neither", "", "end"]}, index=[5, 5, 3, 2, 1, 0, -1]
    )
    result = classify_frame(frame, judge, text_column="text")
    assert list(result.index) == list(frame.index)
    assert tuple(result.columns) == COLUMNS
    missing = [None if pd.isna(label) else label for label in result["label"]]
    assert missing == ["unsafe", "unsafe", None, None, "undetermined", None, "unsafe"]
    scores = [None if pd.isna(score) else score for score in result["unsafe_score"]]
    assert scores == [0.01, 0.03, None, None, None, None, 0.03]
    assert result["categories"].tolist() == [["S1", "S2"], ["S1", "S2"], [], [], [], [], ["S1", "S2"]]
    errors = ["" if pd.isna(error) else str(error) for error in result["error"]]
    assert errors[2].startswith("INVALID_ARGUMENT (INPUT_TOO_LONG)")
    assert errors[3] == errors[5] == "no text in the column 'text'"
    assert [position for position, error in enumerate(errors) if error] == [2, 3, 5]
    # What has no verdict is not equal to safe, and not to unsafe.
    assert not (result["label"] == "safe").any()


def test_answers_are_judged_after_their_prompts_and_by_the_request(judge: babelward.Client) -> None:
    frame = pd.DataFrame({"question": ["q", None], "answer": ["end", "end"]})
    request = v1.ClassifyRequest(policy="shop")
    result = classify_frame(frame, judge, text_column="answer", prompt_column="question", request=request)
    assert result["categories"].tolist() == [["S1", "shop"], []]
    assert result["error"].tolist()[1] == "no text in the column 'question'"
    assert not request.HasField("conversation")


def test_an_answer_without_a_verdict_is_an_error_of_its_row(fake: FakeServer) -> None:
    """A label that this version does not know is one of one row, too."""
    alone = v1.ClassifyResponse(classifications=[v1.Classification(model="watch")])
    unknown = v1.ClassifyResponse(verdict=v1.Verdict.FromString(bytes([8, 99])))

    def handler(requests: Requests, _context: grpc.ServicerContext) -> Replies:
        for request in requests:
            text = request.classify.conversation.messages[-1].content
            response = {"alone": alone, "unknown": unknown}.get(text)
            response = response or v1.ClassifyResponse(verdict=verdict_on(request.classify))
            yield v1.ClassifyStreamResponse(id=request.id, response=response)

    fake.handlers["ClassifyStream"] = handler
    frame = pd.DataFrame({"text": ["alone", "unknown", "a"]})
    request = v1.ClassifyRequest(guard_use=v1.GUARD_USE_IF_SERVED)
    with babelward.Client(fake.address) as client:
        result = classify_frame(frame, client, text_column="text", request=request)
    assert result["label"].isna().tolist() == [True, True, False]
    errors = result["error"].tolist()
    assert errors[:2] == [
        "classifiers alone have answered, without a verdict",
        "the label 99 is none that this version knows",
    ]


def test_an_empty_frame_has_an_empty_result(judge: babelward.Client) -> None:
    result = classify_frame(pd.DataFrame({"text": []}), judge, text_column="text")
    assert (len(result), tuple(result.columns)) == (0, COLUMNS)


@pytest.mark.parametrize("columns", [["texts", "more"], ["text", "text"]])
def test_a_column_that_is_not_one_is_named(judge: babelward.Client, columns: list[str]) -> None:
    with pytest.raises(KeyError, match="columns of the frame are called 'text'"):
        classify_frame(pd.DataFrame([["a", "b"]], columns=columns), judge, text_column="text")


def test_rows_of_a_stream_that_fails_have_its_error(fake: FakeServer) -> None:
    """The first stream answers one row; every other breaks at once."""
    streams = 0

    def handler(requests: Requests, context: grpc.ServicerContext) -> Replies:
        nonlocal streams
        streams += 1
        if streams == 1:
            request = next(requests)
            yield v1.ClassifyStreamResponse(
                id=request.id, response=v1.ClassifyResponse(verdict=verdict_on(request.classify))
            )
        fail(context, DRAINING)

    fake.handlers["ClassifyStream"] = handler
    frame = pd.DataFrame({"text": ["a", "b", "c"]})
    with babelward.Client(fake.address) as client:
        result = classify_frame(frame, client, text_column="text", window=1)
        assert result["label"].isna().tolist() == [False, True, True]
        assert all("SERVER_DRAINING" in error for error in result["error"].tolist()[1:])
        # Nothing is answered any more: something is wrong with all rows.
        with pytest.raises(babelward.StreamGaveUpError):
            classify_frame(frame, client, text_column="text")


def test_the_package_does_not_need_pandas() -> None:
    code = "import sys; sys.modules['pandas'] = None\nimport babelward\ntry: import babelward.pandas\n"
    code += "except ModuleNotFoundError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "babelward.pandas needs pandas: pip install 'babelward[pandas]'\n"
