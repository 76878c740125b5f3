"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from types import TracebackType
from typing import TypeAlias, TypeVar

import grpc
import grpc.aio

from . import v1
from .aio_streams import (
    GUARD_EVENTS,
    AsyncConnection,
    AsyncGeneration,
    AsyncGuardedText,
    AsyncItemStream,
    as_async,
)
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
from .sync_streams import OpenCall, StreamCall
from .verdicts import check_samples, check_verdict

T = TypeVar("T")
What = TypeVar("What")

#: Items of a stream, each with its id.
Items: TypeAlias = Iterable[tuple[str, What]] | AsyncIterable[tuple[str, What]]


class AsyncClient:
    """Calls a server from coroutines of one event loop.

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
        self._channel = place.aio_channel()
        self._safety = v1.SafetyServiceStub(self._channel)
        self._generation = v1.GenerationServiceStub(self._channel)
        self._scoring = v1.ScoringServiceStub(self._channel)
        self._models = v1.ModelServiceStub(self._channel)
        # Of calls that send several messages; see aio_streams. It connects with the first of them.
        self._stream_channel = place.channel()
        self._safety_streams = v1.SafetyServiceStub(self._stream_channel)
        self._generation_streams = v1.GenerationServiceStub(self._stream_channel)
        self._scoring_streams = v1.ScoringServiceStub(self._stream_channel)
        self._metadata = self._options.metadata()

    async def classify(self, what: ClassifyLike, *, timeout: float | None = None) -> v1.ClassifyResponse:
        """Judges the last message of a conversation; a text is judged as a user's message."""
        request = classify_request(what)
        return check_verdict(request, await self._call(self._safety.Classify, request, timeout))

    async def batch_classify(
        self, what: Iterable[ClassifyLike], *, timeout: float | None = None
    ) -> list[v1.ClassifyResponse | CallError]:
        """Judges up to 256 conversations; their results, each a response or an error, are in their order."""
        requests = [classify_request(each) for each in what]
        items = [v1.BatchClassifyItem(request=request) for request in requests]
        answer = await self._call(self._safety.BatchClassify, v1.BatchClassifyRequest(items=items), timeout)
        return batch_results(answer, requests)

    def classify_stream(
        self, items: Items[ClassifyLike], *, window: int = 64, item_timeout: float | None = None
    ) -> AsyncGenerator[tuple[str, v1.ClassifyResponse | CallError], None]:
        """Judges any number of conversations, each with an id; gives (id, response or error) as they are judged.

        At most `window` items are open at a time. An item that fails with a retryable error stays open and is sent again, and a
        stream that breaks is opened again with what is open. Raises StreamGaveUpError when that does not help, and
        DuplicateIdError for an id that is open already. Closing the iterator cancels what is open.
        """
        requests = ((id, classify_request(what)) async for id, what in as_async(items))
        return self._stream(
            CLASSIFY_ITEMS, self._safety_streams.ClassifyStream, requests, StreamOptions(window, item_timeout)
        )

    async def generate(self, what: GenerateLike, *, timeout: float | None = None) -> AsyncGeneration:
        """Lets a target answer. Iterating over the answer gives its text; a guard in the request holds it back.

        Returns once the answer has begun; until then the call is retried, and never after that.
        """
        request = generate_request(what)

        async def attempt(left: float | None) -> AsyncGeneration:
            call = self._generation.Generate(request, timeout=left, metadata=self._metadata)
            responses = aiter(call)
            first = await anext(responses, None)
            if first is None:
                raise ProtocolError("the stream is over, and the answer has no end")
            return AsyncGeneration(request, call, responses, first)

        return await self._retried(attempt, self._options.deadline(timeout))

    def generate_stream(
        self, items: Items[GenerateLike], *, window: int = 64, item_timeout: float | None = None
    ) -> AsyncGenerator[tuple[str, Answer | CallError], None]:
        """Lets a target answer any number of prompts; gives (id, answer or error). As classify_stream.

        An item whose answer has begun is not sent again: if its stream breaks, it ends with the error.
        """
        requests = ((id, generate_request(what)) async for id, what in as_async(items))
        return self._stream(
            GENERATE_ITEMS,
            self._generation_streams.GenerateStream,
            requests,
            StreamOptions(window, item_timeout),
        )

    async def score(self, what: ScoreLike, *, timeout: float | None = None) -> v1.ScoreResponse:
        """Lets a target answer, and a guard judge the answer."""
        return check_samples(await self._call(self._scoring.Score, score_request(what), timeout))

    def score_stream(
        self, items: Items[ScoreLike], *, window: int = 64, item_timeout: float | None = None
    ) -> AsyncGenerator[tuple[str, v1.ScoreResponse | CallError], None]:
        """Scores any number of prompts; gives (id, response or error). As classify_stream."""
        requests = ((id, score_request(what)) async for id, what in as_async(items))
        return self._stream(
            SCORE_ITEMS, self._scoring_streams.ScoreStream, requests, StreamOptions(window, item_timeout)
        )

    async def guard_stream(
        self,
        chunks: Iterable[str | bytes] | AsyncIterable[str | bytes],
        start: v1.GuardStart | None = None,
        *,
        timeout: float | None = None,
    ) -> AsyncGuardedText:
        """Guards a text while it is written. Iterating over what is returned gives the text that may be shown.

        `chunks` is read in a task of its own, as fast as the server takes it, because the guard looks at the text while it
        grows. What reading it raises is raised by the iteration, and the last part of the text is then not released. The call
        is retried until the server has opened the stream, and never after that; what it finds wrong with the start is mostly
        raised by the iteration, too. `timeout` bounds the whole text; the client's own does not count, because texts grow as
        slowly as they are written.
        """
        text = GrowingText(start or v1.GuardStart())
        source = as_async(chunks)

        async def attempt(left: float | None) -> AsyncGuardedText:
            def open_call(messages: Iterator[v1.GuardStreamRequest]) -> StreamCall[v1.GuardStreamResponse]:
                return self._safety_streams.GuardStream(messages, timeout=left, metadata=self._metadata)

            connection = AsyncConnection(open_call, GUARD_EVENTS)
            connection.send(text.begin())
            # The server's headers come when it has accepted the start, before any chunk is read.
            try:
                if await connection.accepted():
                    return AsyncGuardedText(text, connection, source)
                await connection.receive()
                raise ProtocolError("the stream is over before the text has begun")
            except BaseException:
                connection.close()
                raise

        return await self._retried(attempt, Deadline.after(timeout))

    async def find_evidence(
        self, what: ClassifyLike, *, max_passes: int = 0, timeout: float | None = None
    ) -> v1.FindEvidenceResponse:
        """Looks for the parts of the last message without which it is safe; 0 passes stand for the server's number."""
        request = v1.FindEvidenceRequest(request=classify_request(what), max_passes=max_passes)
        return await self._call(self._safety.FindEvidence, request, timeout)

    async def classify_renderings(
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
        return await self._call(self._safety.ClassifyRenderings, request, timeout)

    async def policies(self, *, timeout: float | None = None) -> v1.ListPoliciesResponse:
        """The policies that requests may name."""
        return await self._call(self._safety.ListPolicies, v1.ListPoliciesRequest(), timeout)

    async def models(self, *, timeout: float | None = None) -> list[v1.Model]:
        """All models of the server."""
        models: list[v1.Model] = []
        page_token = ""
        while True:
            request = v1.ListModelsRequest(page_token=page_token)
            page = await self._call(self._models.ListModels, request, timeout)
            models += page.models
            page_token = page.next_page_token
            if not page_token:
                return models

    async def count_tokens(self, text: str, *, model: str = "", timeout: float | None = None) -> int:
        """How many tokens a text has for a model; an empty id stands for the server's default target."""
        request = v1.CountTokensRequest(model=model, text=text)
        return (await self._call(self._models.CountTokens, request, timeout)).tokens

    async def close(self) -> None:
        """Closes the connection. Calls that are open end with an error."""
        self._stream_channel.close()
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Reply],
        request: Request,
        timeout: float | None,
    ) -> Reply:
        async def attempt(left: float | None) -> Reply:
            return await method(request, timeout=left, metadata=self._metadata)

        return await self._retried(attempt, self._options.deadline(timeout))

    async def _retried(self, attempt: Callable[[float | None], Awaitable[T]], deadline: Deadline) -> T:
        """Makes attempts, each with the seconds that are left, until one succeeds or the policy gives up."""
        failed = 0
        while True:
            try:
                return await attempt(deadline.left())
            except grpc.RpcError as error:
                failure = from_rpc(error)
            except CallError as error:
                failure = error
            failed += 1
            delay = self._options.delay(failure, failed, deadline)
            if delay is None:
                raise failure
            await asyncio.sleep(delay)

    def _stream(
        self,
        method: ItemMethod[Request, Message, Reply, Event, Result],
        call: grpc.StreamStreamMultiCallable[Message, Reply],
        items: AsyncIterator[tuple[str, Request]],
        options: StreamOptions,
    ) -> AsyncGenerator[tuple[str, Result | CallError], None]:
        def open_call(messages: Iterator[Message]) -> StreamCall[Reply]:
            return call(messages, metadata=self._metadata)

        opener: OpenCall[Message, Reply] = open_call
        return AsyncItemStream(method, opener, self._options, options).results(items)
