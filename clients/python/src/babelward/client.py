"""The client for programs that block while they wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import grpc

from . import v1
from .answers import Answer
from .connection import Deadline, Options, Plaintext, Tls, endpoint
from .errors import CallError, ProtocolError, from_rpc
from .growing import GrowingText
from .items import Event, Request, Result
from .methods import (
    CLASSIFY_ITEMS,
    GENERATE_ITEMS,
    SCORE_ITEMS,
    ItemMethod,
    Message,
    Reply,
    StreamOptions,
    batch_results,
)
from .requests import (
    ClassifyLike,
    GenerateLike,
    ScoreLike,
    classify_request,
    generate_request,
    score_request,
)
from .retry import RetryPolicy
from .sync_streams import Generation, GuardedText, GuardFeed, ItemStream, OpenCall, StreamCall, is_accepted
from .verdicts import check_samples, check_verdict

T = TypeVar("T")


class Client:
    """Calls a server and blocks until it answers. Threads may share a client.

    `target` is HOST:PORT, https://HOST:PORT for TLS, or dns:///NAME:PORT for all servers of a name, which are called in turn.
    `timeout` is in seconds and holds for each call with one request, with all of its retries. `retry` says which calls are
    sent again: those that were refused with UNAVAILABLE or RESOURCE_EXHAUSTED, if the server does not say otherwise, and never
    an answer that has begun. NO_RETRIES sends nothing twice.

    All calls raise CallError when the server refuses them or cannot be reached, and ProtocolError for an answer that no
    server gives, such as one without the verdict that was asked for.
    """

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        tls: Tls | Plaintext | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        tenant: str | None = None,
    ) -> None:
        self._options = Options(target, api_key, tls, timeout, retry or RetryPolicy(), tenant)
        place = endpoint(self._options)
        self._channel = place.channel()
        self._safety = v1.SafetyServiceStub(self._channel)
        self._generation = v1.GenerationServiceStub(self._channel)
        self._scoring = v1.ScoringServiceStub(self._channel)
        self._models = v1.ModelServiceStub(self._channel)
        self._metadata = self._options.metadata()

    def classify(self, what: ClassifyLike, *, timeout: float | None = None) -> v1.ClassifyResponse:
        """Judges the last message of a conversation; a text is judged as a user's message."""
        request = classify_request(what)
        return check_verdict(request, self._call(self._safety.Classify, request, timeout))

    def batch_classify(
        self, what: Iterable[ClassifyLike], *, timeout: float | None = None
    ) -> list[v1.ClassifyResponse | CallError]:
        """Judges up to 256 conversations; their results, each a response or an error, are in their order."""
        requests = [classify_request(each) for each in what]
        items = [v1.BatchClassifyItem(request=request) for request in requests]
        answer = self._call(self._safety.BatchClassify, v1.BatchClassifyRequest(items=items), timeout)
        return batch_results(answer, requests)

    def classify_stream(
        self,
        items: Iterable[tuple[str, ClassifyLike]],
        *,
        window: int = 64,
        item_timeout: float | None = None,
    ) -> Generator[tuple[str, v1.ClassifyResponse | CallError], None, None]:
        """Judges any number of conversations, each with an id; gives (id, response or error) as they are judged.

        At most `window` items are open at a time. An item that fails with a retryable error stays open and is sent again, and a
        stream that breaks is opened again with what is open. Raises StreamGaveUpError when that does not help, and
        DuplicateIdError for an id that is open already. Closing the iterator cancels what is open.
        """
        requests = ((id, classify_request(what)) for id, what in items)
        return self._stream(
            CLASSIFY_ITEMS, self._safety.ClassifyStream, requests, StreamOptions(window, item_timeout)
        )

    def generate(self, what: GenerateLike, *, timeout: float | None = None) -> Generation:
        """Lets a target answer. Iterating over the answer gives its text; a guard in the request holds it back.

        Returns once the answer has begun; until then the call is retried, and never after that.
        """
        request = generate_request(what)

        def attempt(left: float | None) -> Generation:
            call = self._generation.Generate(request, timeout=left, metadata=self._metadata)
            first = next(iter(call), None)
            if first is None:
                raise ProtocolError("the stream is over, and the answer has no end")
            return Generation(request, call, first)

        return self._retried(attempt, self._options.deadline(timeout))

    def generate_stream(
        self,
        items: Iterable[tuple[str, GenerateLike]],
        *,
        window: int = 64,
        item_timeout: float | None = None,
    ) -> Generator[tuple[str, Answer | CallError], None, None]:
        """Lets a target answer any number of prompts; gives (id, answer or error). As classify_stream.

        An item whose answer has begun is not sent again: if its stream breaks, it ends with the error.
        """
        requests = ((id, generate_request(what)) for id, what in items)
        return self._stream(
            GENERATE_ITEMS, self._generation.GenerateStream, requests, StreamOptions(window, item_timeout)
        )

    def score(self, what: ScoreLike, *, timeout: float | None = None) -> v1.ScoreResponse:
        """Lets a target answer, and a guard judge the answer."""
        return check_samples(self._call(self._scoring.Score, score_request(what), timeout))

    def score_stream(
        self, items: Iterable[tuple[str, ScoreLike]], *, window: int = 64, item_timeout: float | None = None
    ) -> Generator[tuple[str, v1.ScoreResponse | CallError], None, None]:
        """Scores any number of prompts; gives (id, response or error). As classify_stream."""
        requests = ((id, score_request(what)) for id, what in items)
        return self._stream(
            SCORE_ITEMS, self._scoring.ScoreStream, requests, StreamOptions(window, item_timeout)
        )

    def guard_stream(
        self,
        chunks: Iterable[str | bytes],
        start: v1.GuardStart | None = None,
        *,
        timeout: float | None = None,
    ) -> GuardedText:
        """Guards a text while it is written. Iterating over what is returned gives the text that may be shown.

        `chunks` is read in a thread of its own, as fast as the server takes it, because the guard looks at the text while it
        grows. What reading it raises is raised by the iteration, and the last part of the text is then not released. The call
        is retried until the server has opened the stream, and never after that; what it finds wrong with the start is mostly
        raised by the iteration, too. `timeout` bounds the whole text; the client's own does not count, because texts grow as
        slowly as they are written.
        """
        text = GrowingText(start or v1.GuardStart())
        source = iter(chunks)

        def attempt(left: float | None) -> GuardedText:
            feed = GuardFeed(text, source)
            call = self._safety.GuardStream(feed.messages(), timeout=left, metadata=self._metadata)
            # The server's headers come when it has accepted the start, before any chunk is read.
            if not is_accepted(call):
                feed.give_up()
                next(iter(call), None)
                raise ProtocolError("the stream is over before the text has begun")
            feed.begin()
            return GuardedText(text, feed, call)

        return self._retried(attempt, Deadline.after(timeout))

    def find_evidence(
        self, what: ClassifyLike, *, max_passes: int = 0, timeout: float | None = None
    ) -> v1.FindEvidenceResponse:
        """Looks for the parts of the last message without which it is safe; 0 passes stand for the server's number."""
        request = v1.FindEvidenceRequest(request=classify_request(what), max_passes=max_passes)
        return self._call(self._safety.FindEvidence, request, timeout)

    def classify_renderings(
        self,
        renderings: Iterable[ClassifyLike],
        *,
        rule: v1.RenderingRule.ValueType = v1.RENDERING_RULE_UNSPECIFIED,
        translation: v1.TranslationOptions | None = None,
        timeout: float | None = None,
    ) -> v1.ClassifyRenderingsResponse:
        """Judges one conversation in several languages or wordings, and joins their verdicts by a rule.

        With translation a served model makes further ones of the first.
        """
        requests = [classify_request(each) for each in renderings]
        request = v1.ClassifyRenderingsRequest(renderings=requests, rule=rule, translation=translation)
        return self._call(self._safety.ClassifyRenderings, request, timeout)

    def policies(self, *, timeout: float | None = None) -> v1.ListPoliciesResponse:
        """The policies that requests may name."""
        return self._call(self._safety.ListPolicies, v1.ListPoliciesRequest(), timeout)

    def models(self, *, timeout: float | None = None) -> list[v1.Model]:
        """All models of the server."""
        models: list[v1.Model] = []
        page_token = ""
        while True:
            request = v1.ListModelsRequest(page_token=page_token)
            page = self._call(self._models.ListModels, request, timeout)
            models += page.models
            page_token = page.next_page_token
            if not page_token:
                return models

    def count_tokens(self, text: str, *, model: str = "", timeout: float | None = None) -> int:
        """How many tokens a text has for a model; an empty id stands for the server's default target."""
        request = v1.CountTokensRequest(model=model, text=text)
        return self._call(self._models.CountTokens, request, timeout).tokens

    def close(self) -> None:
        """Closes the connection. Calls that are open end with an error."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Reply], request: Request, timeout: float | None
    ) -> Reply:
        def attempt(left: float | None) -> Reply:
            return method(request, timeout=left, metadata=self._metadata)

        return self._retried(attempt, self._options.deadline(timeout))

    def _retried(self, attempt: Callable[[float | None], T], deadline: Deadline) -> T:
        """Makes attempts, each with the seconds that are left, until one succeeds or the policy gives up."""
        failed = 0
        while True:
            try:
                return attempt(deadline.left())
            except grpc.RpcError as error:
                failure = from_rpc(error)
            failed += 1
            delay = self._options.delay(failure, failed, deadline)
            if delay is None:
                raise failure
            time.sleep(delay)

    def _stream(
        self,
        method: ItemMethod[Request, Message, Reply, Event, Result],
        call: grpc.StreamStreamMultiCallable[Message, Reply],
        items: Iterable[tuple[str, Request]],
        options: StreamOptions,
    ) -> Generator[tuple[str, Result | CallError], None, None]:
        def open_call(messages: Iterator[Message]) -> StreamCall[Reply]:
            return call(messages, metadata=self._metadata)

        opener: OpenCall[Message, Reply] = open_call
        return ItemStream(method, opener, self._options, options).results(items)
