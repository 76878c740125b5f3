"""What a cluster's owner asks of every pod, and the reason for each exception."""

import re

from model import name_of, of_kind, pods, selects

# (rule, object): why. An exception that nothing needs any more is reported, too.
EXCEPTIONS = {
    (
        "no pod gets a token",
        "Deployment/babelward-endpoint-picker",
    ): "It watches the pool and its pods by Kubernetes' API.",
    (
        "images are pinned by digest",
        "every",
    ): "We have no registry to read digests from; whoever builds the image sets its own.",
    ("every pod has a network policy", "ServingRuntime/babelward"): "KServe decides the labels of its pods.",
    (
        "every pod has a network policy",
        "Job/babelward-merge",
    ): "The policy of benchmark/run selects it: a test says so.",
    ("every server has probes", "Job/babelward-benchmark"): "A job is done when its process ends.",
    ("every server has probes", "Job/babelward-merge"): "A job is done when its process ends.",
    ("pods say as whom they run", "ServingRuntime/babelward"): "KServe has no such field; the container says it.",
    ("everything is in its namespace", "Namespace/babelward"): "Objects of a cluster have no namespace.",
}


def _security(pod, container, key):
    return container.get("securityContext", {}).get(key, pod.spec.get("securityContext", {}).get(key))


def _each(objects):
    for pod in pods(objects):
        for container in pod.containers():
            yield pod, container, f"{pod.name}, container {container['name']}"


def no_root(objects):
    for pod, container, where in _each(objects):
        if (
            _security(pod, container, "runAsNonRoot") is not True
            or not (_security(pod, container, "runAsUser") or 0) >= 1000
        ):
            yield pod.name, f"{where}: may run as root"


def as_whom(objects):
    for pod in pods(objects):
        if not pod.spec.get("securityContext", {}).get("runAsGroup"):
            yield pod.name, f"{pod.name}: does not say its group"


def restricted(objects):
    for pod, container, where in _each(objects):
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            yield pod.name, f"{where}: may get more rights than it began with"
        if own.get("privileged"):
            yield pod.name, f"{where}: is privileged"
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
            yield pod.name, f"{where}: keeps capabilities"
        if (_security(pod, container, "seccompProfile") or {}).get("type") != "RuntimeDefault":
            yield pod.name, f"{where}: has no seccomp profile"


def read_only(objects):
    for pod, container, where in _each(objects):
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield pod.name, f"{where}: may write to its own image"


def nothing_of_the_host(objects):
    for pod in pods(objects):
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield pod.name, f"{pod.name}: {key}"
        for volume in pod.spec.get("volumes", []):
            if "hostPath" in volume:
                yield pod.name, f"{pod.name}: the volume {volume['name']} is a folder of the host"
        for container in pod.containers():
            for port in container.get("ports", []):
                if "hostPort" in port:
                    yield pod.name, f"{pod.name}: takes a port of the host"


def no_token(objects):
    for pod in pods(objects):
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield pod.name, f"{pod.name}: gets a token of Kubernetes' API"
    for account in of_kind(objects, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield name_of(account), f"{name_of(account)}: gives its token to every pod"


def resources(objects):
    for pod, container, where in _each(objects):
        for part in ("requests", "limits"):
            for resource in ("cpu", "memory", "ephemeral-storage"):
                if resource not in container.get("resources", {}).get(part, {}):
                    yield pod.name, f"{where}: no {part} of {resource}"


def pinned(objects):
    for pod, container, where in _each(objects):
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        if tag in ("", "latest") and "@" not in container["image"]:
            yield pod.name, f"{where}: the image {container['image']} has no version"


def pinned_by_digest(objects):
    for _, container, where in _each(objects):
        if "@sha256:" not in container["image"]:
            yield "every", f"{where}: the image {container['image']} has no digest"


def probes(objects):
    for pod in pods(objects):
        for container in pod.spec["containers"]:
            if not {"readinessProbe", "livenessProbe"} <= set(container):
                yield pod.name, f"{pod.name}: {container['name']} has no readiness and liveness probes"


def closed(objects):
    policies = of_kind(objects, "NetworkPolicy")
    for pod in pods(objects):
        types = set()
        for policy in policies:
            if selects(policy["spec"]["podSelector"].get("matchLabels"), pod.labels):
                types |= set(policy["spec"]["policyTypes"])
        if types != {"Ingress", "Egress"}:
            yield pod.name, f"{pod.name}: anybody may call it, or it may call anybody"


def inside(objects):
    for service in of_kind(objects, "Service"):
        if service["spec"].get("type", "ClusterIP") != "ClusterIP" or service["spec"].get("externalIPs"):
            yield name_of(service), f"{name_of(service)}: can be reached from outside of the cluster"


def no_secrets(objects):
    for thing in of_kind(objects, "Secret"):
        yield name_of(thing), f"{name_of(thing)}: secrets do not belong into files"
    for pod, container, where in _each(objects):
        for variable in container.get("env", []):
            if re.search(r"TOKEN|SECRET|PASSWORD|API_?KEY", variable["name"]) and "value" in variable:
                yield pod.name, f"{where}: {variable['name']} is written into the file"


def few_rights(objects):
    for role in of_kind(objects, "ClusterRole", "ClusterRoleBinding"):
        yield name_of(role), f"{name_of(role)}: has rights in the whole cluster"
    for role in of_kind(objects, "Role"):
        for rule in role["rules"]:
            if "*" in str(rule) or "secrets" in rule["resources"] or set(rule["verbs"]) - {"get", "list", "watch"}:
                yield name_of(role), f"{name_of(role)}: {rule} is more than to look"


def own_namespace(objects):
    for thing in objects:
        if thing["metadata"].get("namespace") != "babelward":
            yield name_of(thing), f"{name_of(thing)}: is in no namespace, or in another one"


def namespaces_are_restricted(objects):
    for space in of_kind(objects, "Namespace"):
        if space["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield name_of(space), f"{name_of(space)}: lets pods in that are not restricted"


POLICIES = {
    "nobody is root": no_root,
    "pods say as whom they run": as_whom,
    "pods are restricted": restricted,
    "images are read-only": read_only,
    "nothing is of the host": nothing_of_the_host,
    "no pod gets a token": no_token,
    "every container has resources": resources,
    "images have versions": pinned,
    "images are pinned by digest": pinned_by_digest,
    "every server has probes": probes,
    "every pod has a network policy": closed,
    "services stay inside": inside,
    "no secrets": no_secrets,
    "rights are few": few_rights,
    "everything is in its namespace": own_namespace,
    "the namespace is restricted": namespaces_are_restricted,
}


def broken(objects):
    """What the policies say, without what is excepted, and the exceptions that were needed."""
    problems, used = [], set()
    for policy, check in POLICIES.items():
        for subject, problem in check(objects):
            if (policy, subject) in EXCEPTIONS:
                used.add((policy, subject))
            else:
                problems.append(f"{policy}: {problem}")
    return problems, used
