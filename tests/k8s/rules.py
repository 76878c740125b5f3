"""Rules that schemas cannot know: whether the objects fit each other, and the program that they run.

Each rule is a function of a list of objects that returns what is wrong, as sentences. None of them asks a cluster.
"""

import functools
import re

import tools
from model import (
    QUANTITY,
    cores,
    environment,
    expanded,
    name_of,
    of_kind,
    pods,
    seconds,
    selects,
    servers,
)


def config_of(pod, container, objects):
    """The configuration that a server's pod runs with, by the program's own loader, and its flags."""
    known = environment(container, objects)
    arguments = expanded(container["args"], known)
    variables = {name: value for name, value in known.items() if name.startswith("BABELWARD_")}
    text = ""
    if "--config" in arguments:
        place = arguments.index("--config")
        path = arguments[place + 1]
        del arguments[place : place + 2]
        text = mounted(pod, container, path, objects)
        if text is None:
            raise ValueError(f"{path} is in no ConfigMap that is mounted")
    return _config(text, tuple(sorted(variables.items())), tuple(arguments[1:]))


@functools.cache
def _config(text, variables, flags):
    return tools.configuration(text, dict(variables), flags)


def mounted(pod, container, path, objects):
    """The text of a file that a ConfigMap puts into a container."""
    for mount in container.get("volumeMounts", []):
        if not path.startswith(mount["mountPath"].rstrip("/") + "/"):
            continue
        volume = next(each for each in pod.spec["volumes"] if each["name"] == mount["name"])
        wanted = volume.get("configMap", {}).get("name")
        for config in of_kind(objects, "ConfigMap"):
            if config["metadata"]["name"] == wanted:
                return config["data"].get(path[len(mount["mountPath"].rstrip("/")) + 1 :])
    return None


def configurations_are_read_by_the_loader(objects):
    for pod, container in servers(objects):
        try:
            config_of(pod, container, objects)
        except ValueError as error:
            yield f"{pod.name}: {error}"


def _ports(pod, container, objects):
    """The ports of gRPC and of metrics, as the server will listen."""
    values = config_of(pod, container, objects)
    return tuple(int(values[key].rpartition(":")[2]) for key in ("server.listen", "server.metrics_listen"))


def _readable(rule):
    """The rule, for configurations that can be read: another rule reports those that cannot."""

    @functools.wraps(rule)
    def checked(objects):
        if not list(configurations_are_read_by_the_loader(objects)):
            yield from rule(objects)

    return checked


@_readable
def servers_listen_on_every_address_of_their_pod(objects):
    for pod, container in servers(objects):
        values = config_of(pod, container, objects)
        for key in ("server.listen", "server.metrics_listen"):
            host = values[key].rpartition(":")[0]
            if host not in ("0.0.0.0", "[::]"):
                yield f"{pod.name}: {key} is {values[key]}, which neither the kubelet nor Prometheus reaches"


@_readable
def ports_agree(objects):
    for pod, container in servers(objects):
        grpc, metrics = _ports(pod, container, objects)
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        if sorted(named.values()) != sorted((grpc, metrics)):
            yield f"{pod.name}: the container has the ports {named}, the server listens on {grpc} and {metrics}"
        for kind, _, port in probes_of(container):
            wanted = metrics if "httpGet" in container[kind] else grpc
            if named.get(port, port) != wanted:
                yield f"{pod.name}: {kind} asks port {port}, its answer is on {wanted}"
        for service in of_kind(objects, "Service"):
            if not selects(service["spec"].get("selector", {}), pod.labels):
                continue
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                target = named.get(target, target)
                if target != grpc or port["port"] != grpc:
                    yield f"{name_of(service)}: port {port['port']} leads to {target}, gRPC is on {grpc}"
        for monitor in of_kind(objects, "PodMonitor"):
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                if named.get(endpoint["port"]) != metrics:
                    yield f"{name_of(monitor)}: {endpoint['port']} is not the port of the metrics"
        for pool in of_kind(objects, "InferencePool"):
            if [port["number"] for port in pool["spec"]["targetPorts"]] != [grpc]:
                yield f"{name_of(pool)}: its ports are not that of gRPC, {grpc}"
        for other in pods(objects):
            for each in other.containers():
                for argument in each.get("args", []):
                    key, _, value = argument.partition("=")
                    if key == "--model-server-metrics-port" and int(value) != metrics:
                        yield f"{other.name}: reads metrics on {value}, they are on {metrics}"
        for runtime in of_kind(objects, "ServingRuntime"):
            if runtime["spec"]["annotations"]["prometheus.kserve.io/port"] != str(metrics):
                yield f"{name_of(runtime)}: the annotation's port is not that of the metrics, {metrics}"


@_readable
def network_policies_let_the_ports_through_and_no_others(objects):
    for pod, container in servers(objects):
        policies = [
            policy
            for policy in of_kind(objects, "NetworkPolicy")
            if selects(policy["spec"]["podSelector"].get("matchLabels"), pod.labels)
        ]
        if not policies:
            continue
        open_ports = {
            port["port"]
            for policy in policies
            for entry in policy["spec"].get("ingress", [])
            for port in entry.get("ports", [{"port": "every"}])
        }
        wanted = set(_ports(pod, container, objects))
        if open_ports != wanted:
            yield f"{pod.name}: its network policies admit to the ports {open_ports}, the server has {wanted}"
        for policy in policies:
            for entry in policy["spec"].get("ingress", []):
                if not entry.get("from"):
                    yield f"{name_of(policy)}: admits everybody to {entry.get('ports')}"


def callers_are_let_out_to_the_port_of_the_service(objects):
    """Jobs that call a Service by name: their own policy has to let them, and the servers' policy has to know their label."""
    for pod in pods(objects):
        for container in pod.containers():
            for word in container.get("args", []):
                found = re.fullmatch(r"dns:///(babelward-pods):(\d+)", word)
                if not found:
                    continue
                policies = [
                    policy
                    for policy in of_kind(objects, "NetworkPolicy")
                    if selects(policy["spec"]["podSelector"]["matchLabels"], pod.labels)
                ]
                ports = {
                    port["port"]
                    for policy in policies
                    for entry in policy["spec"].get("egress", [])
                    for port in entry["ports"]
                }
                if int(found[2]) not in ports:
                    yield f"{pod.name}: calls port {found[2]}, which its network policy does not let through"
                served = [
                    each
                    for each in of_kind(tools.objects("overlays/cpu"), "Service")
                    if each["metadata"]["name"] == found[1]
                ]
                if int(found[2]) not in [port["port"] for each in served for port in each["spec"]["ports"]]:
                    yield f"{pod.name}: {word} is no port of a Service of the base"
                (policy,) = (
                    each
                    for each in of_kind(tools.objects("overlays/cpu"), "NetworkPolicy")
                    if each["metadata"]["name"] == "babelward"
                )
                admitted = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
                if not selects(admitted, pod.labels):
                    yield f"{pod.name}: has not the label of callers, {admitted}"


@_readable
def draining_fits_into_the_grace_period(objects):
    for pod, container in servers(objects):
        drain = seconds(config_of(pod, container, objects)["server.drain_grace"])
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if before < 2:
            yield f"{pod.name}: preStop does not wait until nodes have learned that the pod is going"
        if before + drain + 5 > grace:
            yield f"{pod.name}: preStop {before} s, a drain of {drain:.0f} s and 5 s more do not fit into {grace} s"


PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def probes_of(container):
    """Each probe of a container, with the service that it asks for and the port."""
    for kind in PROBES:
        probe = container.get(kind, {})
        if "grpc" in probe:
            yield kind, probe["grpc"].get("service", ""), probe["grpc"]["port"]
        elif "httpGet" in probe:
            path, _, service = probe["httpGet"]["path"].partition("?service=")
            yield kind, service if path == "/healthz" else f"at {path}", probe["httpGet"]["port"]


def probes_ask_for_services_that_the_server_has(objects):
    for pod, container in servers(objects):
        asked = {kind: service for kind, service, _ in probes_of(container)}
        for kind in PROBES:
            if kind not in asked:
                yield f"{pod.name}: has no {kind}"
            elif asked[kind] not in tools.health_services():
                yield f"{pod.name}: {kind} asks for `{asked[kind]}`, which the server does not know"
        live = asked.get("livenessProbe", "")
        if live not in ("babelward.v1.ModelService", ""):
            yield f"{pod.name}: a server that loads models would be killed: `{live}` is not serving meanwhile"


@_readable
def probes_and_prometheus_speak_as_the_server_does(objects):
    """The kubelet's gRPC probes speak no TLS, and a server that speaks it answers nothing else, on the metrics' port too."""
    for pod, container in servers(objects):
        is_tls = bool(config_of(pod, container, objects).get("tls.certificate"))
        for kind, _, _ in probes_of(container):
            probe = container[kind]
            speaks = "grpc" not in probe and probe["httpGet"].get("scheme") == "HTTPS"
            if speaks != is_tls:
                yield f"{pod.name}: {kind} speaks {'TLS' if speaks else 'no TLS'}, the server {'does' if is_tls else 'none'}"
        for service in of_kind(objects, "Service"):
            if selects(service["spec"].get("selector", {}), pod.labels):
                for port in service["spec"]["ports"]:
                    if (port["appProtocol"] == "https") != is_tls:
                        yield f"{name_of(service)}: says {port['appProtocol']}, TLS is {'on' if is_tls else 'off'}"


@_readable
def servers_ask_for_credentials_which_are_in_secrets(objects):
    """What protects a server is in Secrets that it cannot write, and nothing of it is turned off."""
    for pod, container in servers(objects):
        values = config_of(pod, container, objects)
        if values.get("server.insecure_no_auth") == "true" or not (
            values.get("auth.keys_file") or values.get("auth.jwks_file")
        ):
            yield f"{pod.name}: asks callers for no credential"
        for key in ("auth.keys_file", "auth.jwks_file", "tls.certificate", "tls.key", "tls.client_ca", "tls.client_crl"):
            path = values.get(key)
            if not path:
                continue
            folder, _, file = path.rpartition("/")
            mount = next((each for each in container["volumeMounts"] if each["mountPath"] == folder), None)
            if mount is None or not mount.get("readOnly"):
                yield f"{pod.name}: {key} is {path}, where nothing is mounted read-only"
                continue
            volume = next(each for each in pod.spec["volumes"] if each["name"] == mount["name"])
            secret = volume.get("secret", {}).get("secretName")
            if file not in tools.told_secrets().get(secret, ()):
                yield f"{pod.name}: {key} is {path}, and docs/kubernetes.md makes no Secret {secret} with {file}"


def arguments_are_accepted_by_the_program(objects):
    """Runs each command with places that do not exist. What it then says must not be that it was called wrongly."""
    for pod in pods(objects):
        for container in pod.containers():
            if "babelward" not in container["image"]:
                continue
            known = {**environment(container, objects), "JOB_COMPLETION_INDEX": "0"}
            arguments = expanded(container.get("args", []), known)
            if any("$(" in word for word in arguments):
                yield f"{pod.name}: {arguments} has a variable that nobody sets"
            yield from (f"{pod.name}, {container['name']}: {problem}" for problem in refused(arguments))


def refused(arguments):
    """What the program says against a command line."""
    if arguments[:1] == ["serve"]:
        return []  # by its configuration, of which flags are a part
    arguments = [
        re.sub(r"^(https?|dns)://.*", lambda found: f"{found[1]}://{'/' if found[1] == 'dns' else ''}127.0.0.1:9", word)
        for word in arguments
    ]
    arguments = [word.replace("/models/", "/nonexistent/").replace("/results/", "/nonexistent/") for word in arguments]
    arguments = [word.replace("/usr/share/babelward/", str(tools.ROOT / "data") + "/") for word in arguments]
    done = tools.babelward(arguments, {"JOB_COMPLETION_INDEX": "0"})
    return [done.stderr.strip().splitlines()[0]] if done.returncode == 2 else []


def selectors_select(objects):
    found = pods(objects)
    for pod in found:
        selector = (
            pod.owner["spec"].get("selector", {}).get("matchLabels") if pod.owner["kind"] == "Deployment" else None
        )
        if selector is not None and not selects(selector, pod.labels):
            yield f"{pod.name}: its selector {selector} does not select its own pods"
        for spread in pod.spec.get("topologySpreadConstraints", []):
            if not selects(spread["labelSelector"]["matchLabels"], pod.labels):
                yield f"{pod.name}: spreads pods that are not its own"
    for thing in objects:
        spec = thing.get("spec", {})
        if thing["kind"] == "Service":
            selector = spec.get("selector")
        elif thing["kind"] in ("PodDisruptionBudget", "InferencePool", "PodMonitor"):
            selector = spec["selector"]["matchLabels"]
        elif thing["kind"] == "NetworkPolicy":
            selector = spec["podSelector"].get("matchLabels")
        else:
            continue
        # The monitoring has no pods of its own: its monitor selects those of the base.
        among = found or pods(tools.objects("overlays/cpu"))
        if not any(selects(selector, pod.labels) for pod in among):
            yield f"{name_of(thing)}: selects no pod"


def references_lead_somewhere(objects):
    configs = {config["metadata"]["name"] for config in of_kind(objects, "ConfigMap")}
    accounts = {account["metadata"]["name"] for account in of_kind(objects, "ServiceAccount")}
    for pod in pods(objects):
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        used = set()
        for container in pod.containers():
            for mount in container.get("volumeMounts", []):
                used.add(mount["name"])
                if mount["name"] not in volumes:
                    yield f"{pod.name}: there is no volume {mount['name']}"
            for source in container.get("envFrom", []):
                if source.get("configMapRef", {}).get("name") not in configs:
                    yield f"{pod.name}: there is no ConfigMap for {source}"
            for variable in container.get("env", []):
                secret = variable.get("valueFrom", {}).get("secretKeyRef")
                if (
                    secret
                    and not secret.get("optional")
                    and secret["key"] not in tools.told_secrets().get(secret["name"], ())
                ):
                    yield f"{pod.name}: needs {secret['key']} of the Secret {secret['name']}, which nobody is told to make"
                field = variable.get("valueFrom", {}).get("resourceFieldRef")
                if field and field.get("containerName") not in [each["name"] for each in pod.spec["containers"]]:
                    yield f"{pod.name}: {variable['name']} is of a container that is not there"
        for volume in pod.spec.get("volumes", []):
            if volume["name"] not in used:
                yield f"{pod.name}: nobody mounts {volume['name']}"
            secret = volume.get("secret", {}).get("secretName")
            if secret and secret not in tools.told_secrets():
                yield f"{pod.name}: needs the Secret {secret}, which nobody is told to make"
            if "configMap" in volume and volume["configMap"]["name"] not in configs:
                yield f"{pod.name}: there is no ConfigMap {volume['configMap']['name']}"
        account = pod.spec.get("serviceAccountName")
        if account and account not in accounts:
            yield f"{pod.name}: there is no ServiceAccount {account}"
    for scaler in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        if f"{target['kind']}/{target['name']}" not in [name_of(thing) for thing in objects]:
            yield f"{name_of(scaler)}: there is no {target['kind']}/{target['name']}"
    for binding in of_kind(objects, "RoleBinding"):
        if name_of({"kind": "Role", "metadata": binding["roleRef"]}) not in [name_of(thing) for thing in objects]:
            yield f"{name_of(binding)}: there is no Role {binding['roleRef']['name']}"
    for pool in of_kind(objects, "InferencePool"):
        picker = pool["spec"]["endpointPickerRef"]
        ports = [
            port["port"]
            for service in of_kind(objects, "Service")
            if service["metadata"]["name"] == picker["name"]
            for port in service["spec"]["ports"]
        ]
        if picker["port"]["number"] not in ports:
            yield f"{name_of(pool)}: there is no Service {picker['name']} with port {picker['port']['number']}"


def the_model_is_checked_before_it_is_served(objects):
    """What a server reads as its model is what an init container has compared with a digest."""
    for pod in pods(objects):
        container = pod.container("babelward")
        if container is None:
            continue
        for each in pod.spec.get("initContainers", []):
            arguments = expanded(each.get("args", []), environment(each, objects))
            if arguments[:2] == ["models", "fetch"] and {"--sha256", "--to"} <= set(arguments):
                digest = arguments[arguments.index("--sha256") + 1]
                place = arguments[arguments.index("--to") + 1]
                if not re.fullmatch(r"[0-9a-f]{64}", digest):
                    yield f"{pod.name}: `{digest}` is no SHA-256 digest"
                try:
                    config = config_of(pod, container, objects)
                except ValueError:
                    return
                served = [value for key, value in config.items() if re.fullmatch(r"models\..*\.path", key)]
                if served != [place]:
                    yield f"{pod.name}: {place} is checked, and {served} is served"
                break
        else:
            yield f"{pod.name}: no init container checks the model's digest"
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        if not mounts.get("models", {}).get("readOnly"):
            yield f"{pod.name}: the server may write to its models"


def one_scaler_decides_how_many_pods_there_are(objects):
    scaled = [
        (scaler["spec"]["scaleTargetRef"]["name"], name_of(scaler))
        for scaler in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    ]
    for deployment in of_kind(objects, "Deployment"):
        scalers = [name for target, name in scaled if target == deployment["metadata"]["name"]]
        if len(scalers) > 1:
            yield f"{name_of(deployment)}: {' and '.join(scalers)} scale it"
        if scalers and "replicas" in deployment["spec"]:
            yield f"{name_of(deployment)}: says how many pods there are, and so does {scalers[0]}"
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        if scaler["spec"]["minReplicas"] >= scaler["spec"]["maxReplicas"]:
            yield f"{name_of(scaler)}: never scales"
    for scaler in of_kind(objects, "ScaledObject"):
        namespace = scaler["metadata"].get("namespace")
        for trigger in scaler["spec"]["triggers"]:
            asked = re.findall(r'namespace="([^"]*)"', trigger["metadata"]["query"])
            if asked != [namespace]:
                yield f"{name_of(scaler)}: asks for the namespaces {asked} and is in {namespace}"
            if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", trigger["metadata"]["threshold"]):
                yield f"{name_of(scaler)}: the threshold {trigger['metadata']['threshold']} is no number"


def disruption_budgets_say_one_thing(objects):
    for budget in of_kind(objects, "PodDisruptionBudget"):
        if ("minAvailable" in budget["spec"]) == ("maxUnavailable" in budget["spec"]):
            yield f"{name_of(budget)}: needs exactly one of minAvailable and maxUnavailable"


def quantities_are_quantities(objects):
    for pod in pods(objects):
        for container in pod.containers():
            resources = container.get("resources", {})
            for part in ("requests", "limits"):
                for resource, quantity in resources.get(part, {}).items():
                    if not QUANTITY.match(str(quantity)):
                        yield f"{pod.name}: {resource} {quantity} is no quantity"
            for resource in set(resources.get("requests", {})) & set(resources.get("limits", {})):
                wanted, most = (str(resources[part][resource]) for part in ("requests", "limits"))
                if (
                    resource == "cpu"
                    and cores(wanted) > cores(most)
                    or resource.startswith("nvidia.com/")
                    and wanted != most
                ):
                    yield f"{pod.name}: requests {wanted} of {resource}, and its limit is {most}"
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and not QUANTITY.match(str(volume["emptyDir"].get("sizeLimit", ""))):
                yield f"{pod.name}: the volume {volume['name']} has no limit"


def shards_are_all_run_and_all_merged(objects):
    for job in of_kind(objects, "Job"):
        (container,) = job["spec"]["template"]["spec"]["containers"]
        arguments = container["args"]
        if arguments[:2] == ["bench", "run"]:
            spec = job["spec"]
            if spec.get("completionMode") != "Indexed":
                yield f"{name_of(job)}: its pods are not numbered"
            if arguments[arguments.index("--shard") + 1] != f"job/{spec['completions']}":
                yield f"{name_of(job)}: --shard does not name its {spec['completions']} pods"
            if spec["parallelism"] > spec["completions"]:
                yield f"{name_of(job)}: runs more pods than there are shards"
            if "--resume" not in arguments:
                yield f"{name_of(job)}: a pod that is started again would find its folder in use"
            if spec["template"]["spec"]["restartPolicy"] != "Never":
                yield f"{name_of(job)}: a pod failure policy needs restartPolicy Never"
            for rule in spec["podFailurePolicy"]["rules"]:
                codes = set(rule.get("onExitCodes", {}).get("values", []))
                if not codes <= tools.exit_codes():
                    yield f"{name_of(job)}: {codes - tools.exit_codes()} are no exit codes of the program"
        if arguments[:2] == ["bench", "merge"]:
            (run,) = of_kind(tools.objects("benchmark/run"), "Job")
            (shard,) = run["spec"]["template"]["spec"]["containers"]
            out = shard["args"][shard["args"].index("--out") + 1]
            wanted = [out.replace("$(JOB_COMPLETION_INDEX)", str(index)) for index in range(run["spec"]["completions"])]
            given = arguments[2 : arguments.index("--out")]
            if given != wanted:
                yield f"{name_of(job)}: merges {given}, the shards are {wanted}"


def metrics_are_those_of_the_server(objects):
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            yield from (
                f"{name_of(scaler)}: {problem}" for problem in tools.unknown_metrics(metric["pods"]["metric"]["name"])
            )
    for scaler in of_kind(objects, "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            yield from (
                f"{name_of(scaler)}: {problem}" for problem in tools.unknown_metrics(trigger["metadata"]["query"])
            )
    for config in of_kind(objects, "ConfigMap"):
        for text in config.get("data", {}).values():
            for spec in re.findall(r"Spec: (.*)", text):
                yield from (f"{name_of(config)}: {problem}" for problem in tools.unknown_metrics(spec))
    for rule in of_kind(objects, "PrometheusRule"):
        for group in rule["spec"]["groups"]:
            for each in group["rules"]:
                yield from (f"{each['alert']}: {problem}" for problem in tools.unknown_metrics(each["expr"]))


@_readable
def the_endpoint_picker_knows_the_pods_by_their_label(objects):
    for config in of_kind(objects, "ConfigMap"):
        for name, text in config.get("data", {}).items():
            if not name.endswith("picker-config.yaml"):
                continue
            engines = re.findall(r"- name: (\S+)", text.split("engineConfigs:")[1])
            for pod, _ in servers(objects):
                if pod.labels.get("llm-d.ai/engine-type") not in engines:
                    yield f"{pod.name}: its label names no engine of {engines}"
            for pod, container in servers(objects):
                models = {key.split(".")[1] for key in config_of(pod, container, objects) if key.startswith("models.")}
                for model in re.findall(r'model="([^"]*)"', text):
                    if model not in models:
                        yield f"{name_of(config)}: reads the metrics of {model}, the server has {sorted(models)}"


RULES = [
    configurations_are_read_by_the_loader,
    servers_listen_on_every_address_of_their_pod,
    ports_agree,
    network_policies_let_the_ports_through_and_no_others,
    callers_are_let_out_to_the_port_of_the_service,
    draining_fits_into_the_grace_period,
    probes_ask_for_services_that_the_server_has,
    probes_and_prometheus_speak_as_the_server_does,
    servers_ask_for_credentials_which_are_in_secrets,
    arguments_are_accepted_by_the_program,
    selectors_select,
    references_lead_somewhere,
    the_model_is_checked_before_it_is_served,
    one_scaler_decides_how_many_pods_there_are,
    disruption_budgets_say_one_thing,
    quantities_are_quantities,
    shards_are_all_run_and_all_merged,
    metrics_are_those_of_the_server,
    the_endpoint_picker_knows_the_pods_by_their_label,
]
