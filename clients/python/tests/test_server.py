"""The client against the real server with the demo's model, whose verdicts are the same each time and no safety judgements."""

import asyncio
from collections.abc import Iterator

import pandas as pd
import pytest

import babelward
from babelward import CallError, v1
from babelward.pandas import classify_frame

EXCHANGE = [
    {"role": "user", "content": "How do I bake bread?"},
    {"role": "assistant", "content": "Mix flour, water, salt and yeast, wait, and bake it."},
]
TEXTS = ["How do I bake bread?", "Wie backe ich Brot?", "¿Cómo hago pan?", "Name three rivers."]


@pytest.fixture
def client(server: str) -> Iterator[babelward.Client]:
    with babelward.Client(server, timeout=120) as client:
        yield client


def short(guard: bool = False) -> v1.GenerateRequest:
    return v1.GenerateRequest(
        conversation=babelward.conversation("Name three rivers."),
        sampling=v1.SamplingParams(temperature=0, seed=1),
        stopping=v1.StoppingParams(max_new_tokens=24),
        guard=v1.AnswerGuard() if guard else None,
    )


def scores(results: dict[str, v1.ClassifyResponse | CallError]) -> dict[str, float | None]:
    """The score of each result, none of which may be an error."""
    found = {}
    for id, result in results.items():
        assert isinstance(result, v1.ClassifyResponse), result
        found[id] = babelward.unsafe_score(result.verdict)
    return found


def test_a_verdict_is_the_same_alone_in_a_batch_in_a_stream_and_in_a_frame(client: babelward.Client) -> None:
    alone = {text: babelward.unsafe_score(client.classify(text).verdict) for text in TEXTS}
    assert all(score is not None and 0 < score < 1 for score in alone.values())
    assert scores(dict(zip(TEXTS, client.batch_classify(TEXTS), strict=True))) == alone
    assert scores(dict(client.classify_stream((text, text) for text in TEXTS))) == alone
    frame = classify_frame(pd.DataFrame({"text": TEXTS}, index=TEXTS), client, text_column="text")
    assert frame["unsafe_score"].to_dict() == alone
    assert frame["error"].isna().all()


def test_both_clients_say_the_same(client: babelward.Client, server: str) -> None:
    async def ask() -> tuple[float | None, str, dict[str, v1.ClassifyResponse | CallError]]:
        async with babelward.AsyncClient(server, timeout=120) as asynchronous:
            verdict = (await asynchronous.classify(EXCHANGE)).verdict
            text = (await (await asynchronous.generate(short())).read()).text
            stream = asynchronous.classify_stream((text, text) for text in TEXTS)
            return babelward.unsafe_score(verdict), text, {id: result async for id, result in stream}

    score, text, stream = asyncio.run(ask())
    assert score == babelward.unsafe_score(client.classify(EXCHANGE).verdict)
    assert text == client.generate(short()).read().text
    assert scores(stream) == scores(dict(client.classify_stream((text, text) for text in TEXTS)))


def test_an_answer_is_the_same_alone_guarded_and_in_a_stream(client: babelward.Client) -> None:
    alone = client.generate(short())
    text = "".join(alone)
    assert text
    assert alone.finished is not None
    assert alone.finished.finish_reason == v1.FINISH_REASON_MAX_TOKENS
    guarded = client.generate(short(guard=True)).read()
    assert guarded.finished.HasField("guard")
    if guarded.finished.guard.reason == v1.GuardEnded.REASON_COMPLETE:
        assert guarded.text == text
    for id, answer in client.generate_stream([("a", short()), ("b", short())]):
        assert isinstance(answer, babelward.Answer), (id, answer)
        assert answer.text == text


def test_a_target_is_scored(client: babelward.Client) -> None:
    request = v1.ScoreRequest(generate=short(), samples=2, keep_text=True)
    response = client.score(request)
    counts = (
        response.safe_count,
        response.unsafe_count,
        response.undetermined_count,
        response.controversial_count,
    )
    assert sum(counts) == len(response.samples) == 2
    assert response.samples[0].text == client.generate(short()).read().text
    for _id, result in client.score_stream([("a", request)]):
        assert isinstance(result, v1.ScoreResponse), result
        assert [sample.text for sample in result.samples] == [sample.text for sample in response.samples]


def test_a_growing_text_is_released_up_to_its_end(client: babelward.Client) -> None:
    start = v1.GuardStart(
        conversation=babelward.conversation(EXCHANGE[:1]), options=v1.GuardOptions(mode=v1.GUARD_MODE_OBSERVE)
    )
    chunks = EXCHANGE[1]["content"].split(" ")
    text = client.guard_stream((chunk + " " for chunk in chunks), start)
    assert "".join(text) == " ".join(chunks) + " "
    assert text.ended is not None
    assert text.ended.reason == v1.GuardEnded.REASON_COMPLETE
    assert text.ended.verdict.label != v1.LABEL_UNSPECIFIED


def test_a_growing_text_that_breaks_off_is_not_complete(client: babelward.Client) -> None:
    def chunks() -> Iterator[str]:
        yield "Mix flour"
        raise RuntimeError("the model is gone")

    text = client.guard_stream(chunks())
    with pytest.raises(RuntimeError, match="the model is gone"):
        list(text)
    assert text.ended is None or text.ended.reason != v1.GuardEnded.REASON_COMPLETE


def test_texts_are_explained_and_compared(client: babelward.Client) -> None:
    evidence = client.find_evidence(TEXTS[0], max_passes=8)
    assert evidence.verdict.label != v1.LABEL_UNSPECIFIED
    renderings = client.classify_renderings(TEXTS[:3], rule=v1.RENDERING_RULE_MAJORITY)
    assert len(renderings.results) == 3
    assert renderings.label != v1.LABEL_UNSPECIFIED


def test_the_server_says_what_it_has(client: babelward.Client) -> None:
    (model,) = client.models()
    assert (model.name, model.state) == ("smol", v1.Model.STATE_READY)
    assert client.count_tokens("Hello Hello Hello") > client.count_tokens("Hello") > 0
    assert not client.policies().policies


def test_errors_name_the_field_and_the_reason(client: babelward.Client) -> None:
    with pytest.raises(babelward.InvalidRequestError) as caught:
        client.classify("")
    assert caught.value.reason == "INVALID_FIELDS"
    assert [violation.field for violation in caught.value.violations] == ["conversation.messages[0].content"]
    assert caught.value.request_id
    with pytest.raises(babelward.NotFoundError) as missing:
        client.classify(v1.ClassifyRequest(model="smoll", conversation=babelward.conversation("x")))
    assert missing.value.metadata == {"didYouMean": "smol"}
    with pytest.raises(babelward.NotFoundError, match="POLICY_NOT_FOUND"):
        list(client.guard_stream(["x"], v1.GuardStart(policy="nobody's")))
    with pytest.raises(babelward.DeadlineExceededError):
        client.generate("Write a long story.", timeout=0.001)
    results = dict(client.classify_stream([("good", TEXTS[0]), ("bad", "")]))
    assert isinstance(results["good"], v1.ClassifyResponse)
    assert isinstance(results["bad"], babelward.InvalidRequestError)
