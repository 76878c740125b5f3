"""Finds both sides' programs and the model, and runs programs under equal conditions."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

PEER_PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-server")


class CannotRun(Exception):
    """Something that the user has to provide is missing; the text says what and how."""


class Failed(Exception):
    """A program that was measured failed; the text has its last words."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is compared, and with how many compute threads each."""

    root: pathlib.Path
    ours: pathlib.Path
    peer: pathlib.Path
    # Left open until `with_model`.
    model: pathlib.Path
    threads: int
    # Ours.
    precision: str

    @classmethod
    def find(cls, root: pathlib.Path, threads: int, precision: str) -> "Setup":
        """Checks both sides' programs before the first measurement; builds our binary."""
        folder = os.environ.get("LLAMA_CPP_BIN")
        if not folder:
            raise CannotRun(
                "LLAMA_CPP_BIN is not set: build llama.cpp (cmake -B build -DCMAKE_BUILD_TYPE=Release "
                f"-DGGML_NATIVE=ON, targets {', '.join(PEER_PROGRAMS)}) and set it to the folder with these "
                "programs, usually llama.cpp/build/bin"
            )
        peer = pathlib.Path(folder).absolute()
        missing = [name for name in PEER_PROGRAMS if not os.access(peer / name, os.X_OK)]
        if missing:
            raise CannotRun(f"LLAMA_CPP_BIN={folder} has no program {', '.join(missing)}")
        build = ["cargo", "build", "--release", "--locked", "--quiet", "--bin", "babelward"]
        if subprocess.run(build, cwd=root, stdin=subprocess.DEVNULL, check=False).returncode != 0:
            raise CannotRun("cargo build --release --locked failed: its message is above")
        ours = target_folder(root) / "release" / "babelward"
        return cls(root, ours, peer, pathlib.Path(), threads, precision)

    def with_model(self, model: pathlib.Path) -> "Setup":
        """The same for this model."""
        return dataclasses.replace(self, model=model)

    def python_packages(self, requirements: pathlib.Path) -> str:
        """A folder with these packages for this interpreter; installed by the first call."""
        return python_packages(self.root, self.ours.parent.parent, requirements)

    def describe(self) -> str:
        """One line about the conditions, for whoever reads the figures later."""
        version = run([self.ours, "--version"]).strip()
        banner = subprocess.run(
            [self.peer / "llama-server", "--version"], capture_output=True, text=True, check=False
        )
        peer = re.search(r"version: .*", banner.stdout + banner.stderr)
        return (
            f"# {version} | llama.cpp {peer.group(0) if peer else 'of unknown version'} | "
            f"ours in {self.precision}, {self.threads} threads each on {cpu_name()}, {os.cpu_count()} cores, "
            f"load {os.getloadavg()[0]:.2f} before"
        )


@functools.cache
def unmapped(program: pathlib.Path) -> list[str]:
    """Options with which a program of llama.cpp reads the model's file instead of mapping it. Mapped pages would count as its
    memory also where it has repacked the weights into memory of its own, and the system can take them back."""
    text = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    if "--load-mode" in text.stdout + text.stderr:
        return ["--load-mode", "none"]
    progress(f"{program.name} has no --load-mode: pages of the file that it maps count as its memory")
    return []


def cpu_name() -> str:
    """The processor as the kernel names it."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()


def target_folder(root: pathlib.Path) -> pathlib.Path:
    """Cargo's target folder."""
    metadata = run(["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"], cwd=root)
    return pathlib.Path(json.loads(metadata)["target_directory"])


def python_packages(root: pathlib.Path, target: pathlib.Path, requirements: pathlib.Path) -> str:
    """A folder in Cargo's target folder with these packages for this interpreter; installed by the first call."""
    done = subprocess.run(
        [sys.executable, root / "tests" / "clients" / "install.py", target / "tmp", requirements],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"the packages of {requirements} could not be installed: the reason is above")
    return done.stdout.strip()


def client_class(root: pathlib.Path, target: pathlib.Path):
    """The tests' Python client, which learns the interface by reflection."""
    clients = root / "tests" / "clients"
    for folder in (python_packages(root, target, clients / "requirements.txt"), str(clients)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    from reflect import Client

    return Client


def default_model(ours: pathlib.Path) -> pathlib.Path:
    """The demo's model: fetched, or found in the user's cache."""
    fetched = subprocess.run(
        [ours, "models", "fetch"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False
    )
    path = fetched.stdout.strip().splitlines()[-1:] or [""]
    if fetched.returncode != 0 or not path[0]:
        raise CannotRun("`babelward models fetch` failed: its message is above; or give --model FILE.gguf")
    return pathlib.Path(path[0])


def run(command, cwd=None, stdin="", environment=None) -> str:
    """Standard output of a program that must succeed."""
    command = [str(part) for part in command]
    done = subprocess.run(
        command, cwd=cwd, input=stdin, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def server(command, ready, settings=None):
    """Runs a server with these additional environment variables; `ready(process, log)` returns its address, or
    None while it is not up yet.

    Yields (address, process). The log is a file, so a chatty server never waits for a reader."""
    command = [str(part) for part in command]
    with tempfile.TemporaryFile("w+") as log:
        environment = {**os.environ, **(settings or {})}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            address, limit = None, time.monotonic() + 300
            while address is None:
                if process.poll() is not None or time.monotonic() > limit:
                    log.seek(0)
                    raise Failed(f"{' '.join(command)} did not start:\n{log.read()[-2000:]}")
                address = ready(process, log)
                if address is None:
                    time.sleep(0.05)
            yield address, process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def our_server(program: pathlib.Path, arguments: list[str], threads: int, settings: dict[str, str]):
    """Our server as a user starts it, on a free port; see `server`."""
    command = [program, "serve", "--listen", "127.0.0.1:0", *arguments]
    settings = {
        "BABELWARD_ENGINE__THREADS": str(threads),
        "BABELWARD_SERVER__METRICS_LISTEN": "off",
        **settings,
    }

    def ready(_process, log):
        log.seek(0)
        found = re.search(r"gRPC +https?://(\S+:\d+)", log.read())
        log.seek(0, 2)
        return found and found.group(1)

    return server(command, ready, settings)


def http_ok(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def peak_rss_mib(process: subprocess.Popen) -> float:
    """The most memory that a running process ever had resident, in MiB."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if not found:
        raise Failed(f"/proc/{process.pid}/status has no VmHWM: peak_rss needs Linux")
    return int(found.group(1)) / 1024


def progress(text: str) -> None:
    """A line for whoever waits; standard output is for figures only."""
    print(f"  {text}", file=sys.stderr, flush=True)
