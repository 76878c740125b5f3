"""Runs programs with time limits."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time


class Failed(Exception):
    """A program failed or was too slow; the text has its last words."""


class Skipped(Exception):
    """A step cannot run here; the text says what it needs."""


def end(process: subprocess.Popen) -> None:
    """Ends a program with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(command: list, seconds: float, allowed: tuple = (0,)) -> str:
    """Runs a program to its end; gives its standard output. At its limit it is ended with all that it started.

    `allowed` are the exit statuses after which there is an output to use.
    """
    command = [str(part) for part in command]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        end(process)
        process.communicate()
        raise Failed(f"`{' '.join(command)}` was ended after {seconds:.0f} s") from None
    if process.returncode not in allowed:
        raise Failed(f"`{' '.join(command)}` ends with {process.returncode}: {(errors or output).strip()[-400:]}")
    return output


@contextlib.contextmanager
def server(command: list, settings: dict, seconds: float):
    """Runs our server with these environment variables; gives its address once it says it."""
    command = [str(part) for part in command]
    limit = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        # A file, so that a server that says much never waits for a reader.
        path = pathlib.Path(folder, "log")
        with path.open("w") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **settings},
                start_new_session=True,
            )  # fmt: skip
        try:
            address = None
            while address is None:
                said = path.read_text(errors="replace")
                found = re.search(r"gRPC +http://(\S+:\d+)", said)
                address = found and found.group(1)
                if address is None:
                    if process.poll() is not None:
                        raise Failed(f"`{' '.join(command)}` ends with {process.returncode}: {said.strip()[-400:]}")
                    if time.monotonic() > limit:
                        raise Failed(
                            f"`{' '.join(command)}` was not ready within {seconds:.0f} s: {said.strip()[-400:]}"
                        )
                    time.sleep(0.05)
            yield address
        finally:
            end(process)
