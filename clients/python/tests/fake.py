"""A server that answers as a test says, and a client of either kind that is used in one way."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from babelward import v1
from babelward.v1 import generation_pb2_grpc, model_pb2_grpc, safety_pb2_grpc, scoring_pb2_grpc

Handler = Callable[[Any, grpc.ServicerContext], Any]


class FakeServer:
    """Answers each method with the handler of its name, and keeps the headers of all calls.

    Methods of one answer return it; methods of several return an iterator.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.handlers: dict[str, Handler] = {}
        self.headers: list[dict[str, str | bytes]] = []
        self._server = grpc.server(ThreadPoolExecutor(16))
        for service, add in (
            (safety_pb2_grpc.SafetyServiceServicer, safety_pb2_grpc.add_SafetyServiceServicer_to_server),
            (
                generation_pb2_grpc.GenerationServiceServicer,
                generation_pb2_grpc.add_GenerationServiceServicer_to_server,
            ),
            (scoring_pb2_grpc.ScoringServiceServicer, scoring_pb2_grpc.add_ScoringServiceServicer_to_server),
            (model_pb2_grpc.ModelServiceServicer, model_pb2_grpc.add_ModelServiceServicer_to_server),
        ):
            methods = {
                name: self._method(name) for name, _ in inspect.getmembers(service, inspect.isfunction)
            }
            add(type("Servicer", (service,), methods)(), self._server)
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def _method(self, name: str) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
        def answer(_self: Any, request: Any, context: grpc.ServicerContext) -> Any:
            self.headers.append(dict(context.invocation_metadata()))
            return self.handlers[name](request, context)

        return answer

    def stop(self) -> None:
        self._server.stop(None).wait()


class Blocking:
    """Something of an AsyncClient that is used as if it blocked."""

    def __init__(self, loop: asyncio.AbstractEventLoop, inner: Any) -> None:
        self._loop = loop
        self._inner = inner

    def _settled(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            return self._settled(self._loop.run_until_complete(value))
        return Blocking(self._loop, value) if hasattr(value, "__aiter__") else value

    def __getattr__(self, name: str) -> Any:
        name = "aclose" if name == "close" and hasattr(self._inner, "aclose") else name
        value = getattr(self._inner, name)
        if not callable(value):
            return value
        return lambda *given, **named: self._settled(value(*given, **named))

    def __iter__(self) -> Iterator[Any]:
        elements = aiter(self._inner)
        end = object()

        async def following() -> Any:
            return await anext(elements, end)

        while (element := self._loop.run_until_complete(following())) is not end:
            yield element

    def __enter__(self) -> Blocking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def status(
    code: grpc.StatusCode,
    reason: str | None = None,
    *,
    retry_after: float | None = None,
    domain: str = "babelward",
    others: tuple[Any, ...] = (),
) -> Any:
    """A `google.rpc.Status` as the service sends it."""
    details = list(others)
    if reason is not None:
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
    if retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(round(retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=f"{reason}", details=packed)


def item_error(sent: Any) -> v1.ItemStatus:
    """The same as the error of an item."""
    return v1.ItemStatus(code=sent.code, message=sent.message, details=sent.details)


def fail(context: grpc.ServicerContext, sent: Any, *trailers: tuple[str, str]) -> None:
    """Ends a call with this status."""
    codes = {code.value[0]: code for code in grpc.StatusCode}
    context.set_trailing_metadata((("grpc-status-details-bin", sent.SerializeToString()), *trailers))
    context.abort(codes[sent.code], sent.message)


BUSY = status(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=0.001)
DRAINING = status(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", retry_after=0.001)


def safe(score: float = 0.25) -> v1.ClassifyResponse:
    """An answer with a verdict."""
    return v1.ClassifyResponse(verdict=v1.Verdict(label=v1.LABEL_SAFE, unsafe_score=score, label_mass=0.5))
