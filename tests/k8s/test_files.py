"""What is not Kubernetes': the dashboard, the alerts, compose.yaml, Dockerfile, the unit of systemd."""

import copy
import json
import pathlib
import re
import shutil
import sys
import tempfile
import unittest

import yaml

import rules
import tools
from model import of_kind, seconds

ROOT = tools.ROOT


def read(path):
    return (ROOT / path).read_text()


def expressions(dashboard):
    """Every query of a dashboard, with the panel or the variable that has it."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        found = re.fullmatch(
            r"label_values\((.*), (\w+)\)",
            variable.get("query", {}).get("query", "") if variable["type"] == "query" else "",
        )
        if found:
            yield variable["name"], f"count by ({found[2]}) ({found[1]})"


def dashboard_problems(dashboard):
    for title, expression in expressions(dashboard):
        yield from (f"{title}: {problem}" for problem in tools.unknown_metrics(expression))
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for name in re.findall(r"\$\{?(\w+)", json.dumps(dashboard)):
        if name not in variables | {"__rate_interval", "__all"}:
            yield f"there is no variable {name}"
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(set(ids)) != len(ids):
        yield "two panels have the same id"
    taken = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            yield f"{panel['title']}: is wider than the page"
        for cell in [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]:
            if taken.setdefault(cell, panel["title"]) != panel["title"]:
                yield f"{panel['title']} lies over {taken[cell]}"
                break


def compose_problems(compose):
    services = compose["services"]
    for name, service in services.items():
        if "image" in service and service["image"].rpartition("/")[2].partition(":")[2] in ("", "latest"):
            yield f"{name}: the image has no version"
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"] or service.get("privileged"):
            yield f"{name}: is not confined"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./") and not (ROOT / source).exists():
                yield f"{name}: there is no {source}"
            if not source.startswith("./") and source not in compose["volumes"]:
                yield f"{name}: there is no volume {source}"
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                yield f"{name}: port {port} is open for other machines"
        for other in service.get("depends_on", []):
            if other not in services:
                yield f"{name}: there is no {other}"
    server = services["babelward"]
    try:
        values = tools.configuration("", {}, server["command"][1:])
    except ValueError as error:
        yield f"babelward: {error}"
        return
    ports = {port.rpartition(":")[2] for port in server["ports"]}
    if ports != {values["server.listen"].rpartition(":")[2]}:
        yield f"babelward: the ports {ports} are not that of gRPC"
    if seconds(server["stop_grace_period"]) < seconds(values["server.drain_grace"]) + 5:
        yield "babelward: is killed while it drains"
    (targets,) = [
        job["static_configs"][0]["targets"]
        for job in yaml.safe_load(read("deploy/prometheus/prometheus.yml"))["scrape_configs"]
    ]
    if targets != ["babelward:" + values["server.metrics_listen"].rpartition(":")[2]]:
        yield f"prometheus: reads {targets}"
    yield from (f"model: {problem}" for problem in rules.refused(services["model"]["command"]))
    place = services["model"]["command"][services["model"]["command"].index("--to") + 1]
    if f"guard={place}" not in server["command"]:
        yield f"babelward: does not serve {place}"
    probe = server["healthcheck"]["test"]
    if probe[:2] != ["CMD", "/usr/local/bin/babelward"]:
        yield "babelward: the image has no other program for its health check"
    url = f"http://127.0.0.1:{values['server.listen'].rpartition(':')[2]}"
    if url not in probe:
        yield f"babelward: its health check does not ask {url}"
    done = tools.babelward([word.replace(url, tools.server().urls["gRPC"]) for word in probe[2:]])
    if done.returncode != 0:
        yield f"babelward: the health check of a healthy server ends with {done.returncode}: {done.stderr}"
    if tools.babelward([word.replace(url, "http://127.0.0.1:9") for word in probe[2:]]).returncode == 0:
        yield "babelward: the health check passes without a server"


def unit(text):
    """Sections of a unit, with every value that a key has."""
    sections, section = {}, None
    for line in text.splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def unit_problems(text):
    service = unit(text)["Service"]
    commands = service["ExecStartPre"] + service["ExecStart"]
    config = "/etc/babelward/babelward.toml"
    for command in commands:
        program, *arguments = command.split()
        if program != "/usr/local/bin/babelward":
            yield f"starts {program}"
        if config not in arguments:
            yield f"{command}: reads another configuration"
            continue
        if arguments[:1] != ["serve"] and arguments[:2] != ["config", "check"]:
            yield f"{command}: is neither a server nor a check of its configuration"
            continue
        flags = [word for word in arguments if word not in ("serve", "config", "check", "--config", config)]
        try:
            tools.configuration(read("deploy/babelward.toml"), {}, flags)
        except ValueError as error:
            yield f"{command}: {error}"
    values = tools.configuration(read("deploy/babelward.toml"), {}, ())
    if int(service["TimeoutStopSec"][0]) < seconds(values["server.drain_grace"]) + 5:
        yield "is killed while it drains"
    if not values["models.guard.path"].startswith("/var/lib/" + service["StateDirectory"][0] + "/"):
        yield "the model is not in its state folder"


class Monitoring(unittest.TestCase):
    def dashboard(self):
        return json.loads(read("k8s/monitoring/dashboard.json"))

    def test_the_dashboard_asks_for_metrics_that_the_server_has(self):
        self.assertEqual(list(dashboard_problems(self.dashboard())), [])

    def test_every_metric_is_on_the_dashboard(self):
        text = json.dumps(self.dashboard())
        shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"(?:babelward|gen_ai)_\w+", text)}
        # How many steps there are follows from their times, and the use of the key-value cache from its blocks. Sums over
        # all models are for routers.
        self.assertEqual(
            set(tools.metrics()) - shown,
            {
                "babelward_steps_total",
                "babelward_kv_blocks",
                "babelward_server_queue_depth",
                "babelward_server_running",
                "babelward_server_kv_usage_ratio",
            },
        )

    def test_mistakes_in_the_dashboard_are_found(self):
        def renamed(dashboard):
            dashboard["panels"][1]["targets"][0]["expr"] = "rate(babelward_calls_total[5m])"

        def moved(dashboard):
            dashboard["panels"][2]["gridPos"]["x"] = 4

        def unknown(dashboard):
            dashboard["panels"][1]["targets"][0]["expr"] = 'babelward_running{model=~"$guard"}'

        def mislabelled(dashboard):
            dashboard["panels"][1]["targets"][0]["expr"] = "sum by (verdict) (babelward_verdicts_total)"

        for mistake, said in (
            (renamed, "babelward_calls_total"),
            (moved, "lies over"),
            (unknown, "no variable guard"),
            (mislabelled, "verdict"),
        ):
            with self.subTest(said):
                dashboard = self.dashboard()
                mistake(dashboard)
                self.assertIn(said, "\n".join(dashboard_problems(dashboard)))

    def test_the_alerts_are_the_same_for_prometheus_and_for_its_operator(self):
        (rule,) = of_kind(tools.objects("monitoring"), "PrometheusRule")
        self.assertEqual(rule["spec"], yaml.safe_load(read("deploy/prometheus/alerts.yml")))

    def test_promtool_accepts_configuration_and_alerts_and_the_alerts_fire(self):
        promtool = tools.promtool()
        if promtool is None:
            self.skipTest("there is neither promtool nor Debian's package of it: the alerts' own tests were not run")
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(ROOT / "deploy/prometheus", folder, dirs_exist_ok=True)
            for command in (
                ["check", "config", "prometheus.yml"],
                ["check", "rules", "alerts.yml"],
                ["test", "rules", "alerts_test.yml"],
            ):
                done = tools.run([promtool, *command], cwd=folder)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            # An alert that never fires fails its test.
            alerts = pathlib.Path(folder) / "alerts.yml"
            alerts.write_text(alerts.read_text().replace("babelward_device_lost == 1", "babelward_device_lost == 2"))
            done = tools.run([promtool, "test", "rules", "alerts_test.yml"], cwd=folder)
            self.assertIn("BabelwardDeviceLost", done.stdout + done.stderr)
            self.assertNotEqual(done.returncode, 0)

    def test_every_alert_has_a_test_and_says_what_it_means(self):
        tests = read("deploy/prometheus/alerts_test.yml")
        for rule in yaml.safe_load(read("deploy/prometheus/alerts.yml"))["groups"][0]["rules"]:
            with self.subTest(rule["alert"]):
                self.assertIn(f'alertname="{rule["alert"]}", alertstate="firing"', tests)
                self.assertEqual(set(rule["annotations"]), {"summary", "description"})
                self.assertIn(rule["labels"]["severity"], ("critical", "warning"))

    def test_grafana_finds_its_source_and_its_dashboards(self):
        (source,) = yaml.safe_load(read("deploy/grafana/provisioning/datasources/prometheus.yml"))["datasources"]
        (provider,) = yaml.safe_load(read("deploy/grafana/provisioning/dashboards/babelward.yml"))["providers"]
        compose = yaml.safe_load(read("compose.yaml"))
        self.assertIn(source["url"].removeprefix("http://").split(":")[0], compose["services"])
        self.assertIn(
            f"{provider['options']['path']}/dashboard.json", "\n".join(compose["services"]["grafana"]["volumes"])
        )


class Documentation(unittest.TestCase):
    def test_the_page_names_every_folder_and_its_rules_are_yaml_by_metrics_that_there_are(self):
        text = read("docs/kubernetes.md")
        for folder in tools.FOLDERS:
            self.assertIn(f"`k8s/{folder}`", text)
        blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        self.assertTrue(blocks)
        named = set()
        for block in blocks:
            yaml.safe_load(block)
            named |= set(re.findall(r"babelward_\w+", block))
        self.assertEqual(named - set(tools.metrics()), set())
        scaler = of_kind(tools.objects("overlays/cpu"), "HorizontalPodAutoscaler")[0]
        self.assertIn(scaler["spec"]["metrics"][0]["pods"]["metric"]["name"], named)


class Machines(unittest.TestCase):
    def test_compose_fits_the_program(self):
        self.assertEqual(list(compose_problems(yaml.safe_load(read("compose.yaml")))), [])

    def test_mistakes_in_compose_are_found(self):
        whole = yaml.safe_load(read("compose.yaml"))
        server = whole["services"]["babelward"]
        del server["healthcheck"]["test"][2:]
        self.assertIn("does not ask http://127.0.0.1:50051", "\n".join(compose_problems(whole)))
        mistakes = {
            "unexpected argument '--metric-listen'": lambda s: s["babelward"]["command"].insert(1, "--metric-listen"),
            "is killed while it drains": lambda s: s["babelward"].update(stop_grace_period="10s"),
            "open for other machines": lambda s: s["babelward"].update(ports=["50051:50051"]),
            "are not that of gRPC": lambda s: s["babelward"].update(ports=["127.0.0.1:50052:50052"]),
            "there is no ./deploy/prometheus/rules.yml": lambda s: s["prometheus"]["volumes"].append(
                "./deploy/prometheus/rules.yml:/x:ro"
            ),
            "the image has no version": lambda s: s["grafana"].update(image="docker.io/grafana/grafana"),
            "is not confined": lambda s: s["grafana"].pop("cap_drop"),
            "does not serve /elsewhere": lambda s: s["model"]["command"].__setitem__(-1, "/elsewhere"),
            "--sha-256": lambda s: s["model"]["command"].__setitem__(4, "--sha-256"),
        }
        for said, mistake in mistakes.items():
            with self.subTest(said):
                changed = copy.deepcopy(yaml.safe_load(read("compose.yaml")))
                mistake(changed["services"])
                self.assertIn(said, "\n".join(compose_problems(changed)))

    def hadolint(self, path):
        # Its own package has a program, and no wrapper to import.
        program = next(
            pathlib.Path(place) / "bin/hadolint"
            for place in sys.path
            if (pathlib.Path(place) / "bin/hadolint").exists()
        )
        return tools.run([program, "--no-color", path])

    def test_hadolint_accepts_the_dockerfile(self):
        done = self.hadolint(ROOT / "Dockerfile")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with tempfile.NamedTemporaryFile("w", suffix="Dockerfile") as file:
            file.write("FROM debian\nRUN apt-get install curl\n")
            file.flush()
            self.assertIn("DL3006", self.hadolint(file.name).stdout)

    def test_what_the_dockerfile_copies_is_there_and_is_sent_to_the_builder(self):
        kept = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
        copied = [
            line.split()[1:-1]
            for line in read("Dockerfile").splitlines()
            if line.startswith("COPY ") and "--from" not in line
        ]
        sources = {source for sources in copied for source in sources}
        self.assertEqual(sources, kept)
        for source in sources:
            self.assertTrue((ROOT / source).exists(), source)

    def test_cargo_finds_the_whole_workspace_among_what_is_copied(self):
        with tempfile.TemporaryDirectory() as folder:
            for line in read(".dockerignore").splitlines():
                source = ROOT / line[1:]
                if line.startswith("!") and not line.endswith(".py"):
                    place = pathlib.Path(folder) / line[1:]
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copytree(source, place) if source.is_dir() else shutil.copy(source, place)
            command = ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]
            done = tools.run(command, cwd=folder)
            self.assertEqual(done.returncode, 0, done.stderr)
            # A member that is not copied is found.
            shutil.rmtree(pathlib.Path(folder) / "tests/sanitize")
            self.assertIn("tests/sanitize", tools.run(command, cwd=folder).stderr)

    def test_the_image_has_what_the_manifests_expect_of_it(self):
        text = read("Dockerfile")
        self.assertIn('ENTRYPOINT ["/usr/local/bin/babelward"]', text)
        self.assertRegex(text, r"(?m)^USER 65532:65532$")
        (job,) = of_kind(tools.objects("benchmark/run"), "Job")
        data = job["spec"]["template"]["spec"]["containers"][0]["args"]
        self.assertIn(data[data.index("--data") + 1], text)
        # The toolchain is that of the repository, and every base image has a version.
        toolchain = re.search(r'channel = "([^"]*)"', read("rust-toolchain.toml"))[1]
        self.assertRegex(text, rf"ARG RUST_IMAGE=\S+rust:{re.escape(toolchain)}(\.\d+)?-")
        for image in re.findall(r"^ARG \w+_IMAGE=(\S+)", text, re.MULTILINE):
            self.assertNotIn(image.rpartition("/")[2].partition(":")[2], ("", "latest"), image)

    def test_the_unit_fits_the_program(self):
        text = read("deploy/babelward.service")
        self.assertEqual(list(unit_problems(text)), [])
        for old, new, said in (
            ("serve --config", "serve --configuration", "--configuration"),
            ("TimeoutStopSec=45", "TimeoutStopSec=30", "killed while it drains"),
            ("StateDirectory=babelward\n", "StateDirectory=other\n", "not in its state folder"),
        ):
            with self.subTest(said):
                self.assertIn(old, text)
                self.assertIn(said, "\n".join(unit_problems(text.replace(old, new))))

    def test_systemd_accepts_the_unit_and_finds_it_confined(self):
        analyze = shutil.which("systemd-analyze")
        if analyze is None:
            self.skipTest("there is no systemd-analyze")
        with tempfile.TemporaryDirectory() as folder:
            here = pathlib.Path(folder) / "babelward.service"

            def verified(text):
                # The program is not where it will be installed.
                here.write_text(text.replace("/usr/local/bin/babelward", tools.BABELWARD))
                return tools.run([analyze, "verify", here])

            text = read("deploy/babelward.service")
            self.assertEqual(verified(text).stderr, "")
            self.assertIn("ProtectSystems", verified(text.replace("ProtectSystem=", "ProtectSystems=")).stderr)
            here.write_text(text)
            done = tools.run([analyze, "security", "--offline=true", "--threshold=20", here])
            self.assertEqual(done.returncode, 0, done.stdout)
            here.write_text(text.replace("CapabilityBoundingSet=\n", ""))
            done = tools.run([analyze, "security", "--offline=true", "--threshold=20", here])
            self.assertNotEqual(done.returncode, 0)
