"""Servers, real and fake, and clients of both kinds."""

import asyncio
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import babelward
from fake import Blocking, FakeServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the demo's model as target and guard.

    BABELWARD_PROGRAM is the program; without it, tests that need it are skipped. The model is fetched if it is not cached.
    """
    program = os.environ.get("BABELWARD_PROGRAM")
    if not program:
        pytest.skip("BABELWARD_PROGRAM does not name the server's program")
    folder = tmp_path_factory.mktemp("server")
    # Nobody's own configuration.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BABELWARD_")}
    environment |= {"BABELWARD_SERVER__METRICS_LISTEN": "off", "XDG_CONFIG_HOME": str(folder)}
    fetched = subprocess.run(
        [program, "models", "fetch"], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    command = [program, "serve", "--listen", "127.0.0.1:0", "--model", f"smol={fetched.stdout.strip()}"]
    # With this precision scores do not depend on the processor.
    command += ["--guard", "smol", "--guard-kind", "chat-demo", "--precision", "int8"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment
    )
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            # The banner's line: `gRPC      http://127.0.0.1:40123 (health and reflection on)`.
            if line.split()[:1] == ["gRPC"]:
                address = line.split()[1].removeprefix("http://")
                break
        else:
            pytest.fail(f"the server ended before its banner:\n{''.join(said)}")
        # Reads on, so that the server's log never fills the pipe.
        rest = threading.Thread(target=process.stderr.read, daemon=True)
        rest.start()
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A server that answers as the test says."""
    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture(params=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., babelward.Client]]:
    """Makes clients of either kind, which are used in the same way; an AsyncClient is made to look blocking."""
    loop = asyncio.new_event_loop()
    made: list[Any] = []

    async def make(target: str, options: dict[str, Any]) -> babelward.AsyncClient:
        return babelward.AsyncClient(target, **options)

    def client(target: str, **options: Any) -> Any:
        if request.param == "Client":
            made.append(babelward.Client(target, **options))
        else:
            made.append(Blocking(loop, loop.run_until_complete(make(target, options))))
        return made[-1]

    yield client
    for each in made:
        each.close()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
