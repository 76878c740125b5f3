#!/usr/bin/env python3
"""Calls the OpenAI door with OpenAI's own client, and checks what it makes of the answers.

usage: call_openai.py BASE_URL KEY SPENT_KEY      BASE_URL ends with /v1; KEY may classify and generate, SPENT_KEY's
                                                  tenant has used up its quota. The server has the scripted models
                                                  of tests/common/scripted.rs.
"""

import sys

import openai

TARGET, GUARD = "tiny", "tiny-ward"
CATEGORIES = {
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
}


def check(condition, message) -> None:
    """An assertion that `python -O` keeps."""
    if not condition:
        raise AssertionError(message)


def fails(kind, action) -> openai.APIError:
    """Runs an action that must fail with this exception."""
    try:
        action()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, but the call succeeded")


def said(text: str) -> list[dict]:
    """Messages after which the scripted target says this text and ends."""
    return [{"role": "user", "content": f"[say {text}]"}]


def check_models(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    check({TARGET, GUARD} <= set(ids), ids)
    check(client.models.retrieve(TARGET).owned_by == "babelward", "owned_by")
    error = fails(openai.NotFoundError, lambda: client.models.retrieve("tine"))
    check(error.code == "MODEL_NOT_FOUND", error.code)


def check_chat(client: openai.OpenAI) -> None:
    text = "First mix the flour with water. Then bake it."
    asked = {"model": TARGET, "messages": said(text), "max_tokens": 64, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    check(whole.choices[0].message.content == text, whole)
    check(whole.choices[0].finish_reason == "stop", whole)
    usage = whole.usage
    check(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage)
    check(usage.prompt_tokens_details.cached_tokens >= 0, usage)

    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    check("".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == text, chunks)
    check(chunks[0].choices[0].delta.role == "assistant", chunks[0])
    check(chunks[-2].choices[0].finish_reason == "stop", chunks[-2])
    check(chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == usage.completion_tokens, chunks[-1])
    check({chunk.id for chunk in chunks} == {chunks[0].id}, "one id for all pieces")

    with client.chat.completions.stream(model=TARGET, messages=said(text), max_tokens=64) as stream:
        check(stream.get_final_completion().choices[0].message.content == text, "the client's own accumulation")

    likely = client.chat.completions.create(**{**asked, "max_tokens": 2}, logprobs=True, top_logprobs=3)
    tokens = likely.choices[0].logprobs.content
    check(len(tokens) == 2 and all(len(token.top_logprobs) == 3 for token in tokens), tokens)
    check(likely.choices[0].finish_reason == "length", likely)


def check_guarded(client: openai.OpenAI) -> None:
    # The marker is in the answer alone: the guard judges no prompt here.
    asked = {
        "model": TARGET, "messages": said("Bake it. [un[cut]safe] Then eat it."), "max_tokens": 64,
        "extra_body": {"babelward": {"guard": GUARD}},
    }
    whole = client.chat.completions.create(**asked)
    check(whole.choices[0].finish_reason == "content_filter", whole)
    check("unsafe" not in whole.choices[0].message.content, whole)
    check(whole.babelward["guard"]["reason"] == "policy", whole)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    check(chunks[-1].choices[0].finish_reason == "content_filter", chunks[-1])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    check("unsafe" not in text, text)
    # A guard that fails gives no answer, in a stream neither.
    broken = {**asked, "messages": said("Bake it. [n[cut]an] Then eat it.")}
    fails(openai.InternalServerError, lambda: client.chat.completions.create(**broken))
    error = fails(openai.APIError, lambda: list(client.chat.completions.create(**broken, stream=True)))
    check(error.code == "NUMERIC_FAULT", error)


def check_completions(client: openai.OpenAI) -> None:
    asked = {"model": "base", "prompt": "[say bread and butter]", "max_tokens": 16}
    whole = client.completions.create(**asked)
    check(whole.choices[0].text == "bread and butter", whole)
    streamed = client.completions.create(**asked, stream=True)
    check("".join(chunk.choices[0].text for chunk in streamed) == "bread and butter", "streamed")
    stopped = client.completions.create(**asked, stop=[" and"], logprobs=1)
    check(stopped.choices[0].text == "bread" and stopped.choices[0].finish_reason == "stop", stopped)
    check(len(stopped.choices[0].logprobs.tokens) == len(stopped.choices[0].logprobs.text_offset), stopped)


def check_moderations(client: openai.OpenAI) -> None:
    answer = client.moderations.create(input=["How do I bake bread?", "[unsafe]"], model="omni-moderation-latest")
    safe, unsafe = answer.results
    check(answer.model == GUARD, answer.model)
    check((safe.flagged, unsafe.flagged) == (False, True), answer)
    for result in answer.results:
        for values in (result.categories, result.category_scores, result.category_applied_input_types):
            check(set(values.model_dump(by_alias=True)) == CATEGORIES, values)
    check(unsafe.categories.violence and unsafe.categories.illicit_violent, unsafe)
    check(0 < unsafe.category_scores.violence <= 1, unsafe)
    # Neither safe nor unsafe: an error, and never `flagged: false`.
    error = fails(openai.InternalServerError, lambda: client.moderations.create(input=["fine", "[odd]"]))
    check((error.code, error.param) == ("VERDICT_UNDETERMINED", "input[1]"), error)
    image = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    error = fails(openai.BadRequestError, lambda: client.moderations.create(input=image))
    check((error.code, error.param) == ("INVALID_FIELDS", "input[1]"), error)


def check_errors(client: openai.OpenAI, base_url: str, spent_key: str) -> None:
    chat = client.chat.completions
    error = fails(openai.BadRequestError, lambda: chat.create(model=TARGET, messages=said("a"), n=2))
    check((error.code, error.param) == ("INVALID_FIELDS", "n"), error)
    check(error.request_id, "every answer names its request")
    error = fails(openai.BadRequestError, lambda: chat.create(model=TARGET, messages=said("a"), temperature=3))
    check(error.param == "temperature", error)
    error = fails(openai.NotFoundError, lambda: chat.create(model="tinny", messages=said("a")))
    check(error.code == "MODEL_NOT_FOUND", error)
    error = fails(openai.BadRequestError, lambda: chat.create(model=TARGET, messages=[]))
    check(error.param == "messages", error)
    stranger = openai.OpenAI(base_url=base_url, api_key="bw_nobody", max_retries=0)
    error = fails(openai.AuthenticationError, lambda: stranger.models.list())
    check(error.code == "CREDENTIALS_INVALID", error)
    spent = openai.OpenAI(base_url=base_url, api_key=spent_key, max_retries=0)
    error = fails(openai.RateLimitError, lambda: spent.moderations.create(input="a"))
    check(error.code == "QUOTA_REQUESTS", error)
    check(int(error.response.headers["retry-after"]) >= 1, error.response.headers)


def main() -> int:
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    base_url, key, spent_key = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    for name, action in [
        ("models", lambda: check_models(client)),
        ("chat", lambda: check_chat(client)),
        ("guarded", lambda: check_guarded(client)),
        ("completions", lambda: check_completions(client)),
        ("moderations", lambda: check_moderations(client)),
        ("errors", lambda: check_errors(client, base_url, spent_key)),
    ]:
        action()
        print(f"ok {name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
