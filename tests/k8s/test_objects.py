"""What k8s/ renders to fits the schemas, the policies and the program; and every check finds a planted mistake."""

import copy
import unittest

import policy
import rules
import schemas
import tools
from model import of_kind


def thing(objects, kind, name="babelward"):
    return next(each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)


def server(objects):
    return thing(objects, "Deployment")["spec"]["template"]["spec"]


def container(objects):
    return server(objects)["containers"][0]


def runtime(objects):
    return thing(objects, "ServingRuntime")["spec"]["containers"][0]


def benchmark(objects):
    return thing(objects, "Job", "babelward-benchmark")["spec"]


def shard(objects):
    return benchmark(objects)["template"]["spec"]["containers"][0]


def merge(objects):
    return thing(objects, "Job", "babelward-merge")["spec"]["template"]["spec"]["containers"][0]


def config(objects):
    return next(each for each in of_kind(objects, "ConfigMap") if "babelward.toml" in each["data"])["data"]


def picker(objects):
    return next(each for each in of_kind(objects, "ConfigMap") if "endpoint-picker-config.yaml" in each["data"])["data"]


def replaced(data, key, old, new):
    assert old in data[key], f"{old} is not in {data[key]}"
    data[key] = data[key].replace(old, new)


def word(words, old, new):
    words[words.index(old)] = new


# (rule, folder, a mistake, what is said). Each rule has one mistake or more.
MISTAKES = [
    (
        rules.configurations_are_read_by_the_loader,
        "overlays/cpu",
        lambda o: replaced(config(o), "babelward.toml", "drain_grace", "drain_grave"),
        "drain_grave",
    ),
    (
        rules.configurations_are_read_by_the_loader,
        "overlays/gpu",
        lambda o: replaced(config(o), "babelward.toml", "cuda:0", "cuda0"),
        "engine.device",
    ),
    (
        rules.configurations_are_read_by_the_loader,
        "overlays/cpu",
        lambda o: replaced(config(o), "babelward.toml", "insecure_no_tls = true", ""),
        "server.listen",
    ),
    (
        rules.configurations_are_read_by_the_loader,
        "overlays/kserve",
        lambda o: word(runtime(o)["args"], "--metrics-listen", "--metric-listen"),
        "--metric-listen",
    ),
    (
        rules.configurations_are_read_by_the_loader,
        "overlays/cpu",
        lambda o: container(o)["env"][0].update(name="BABELWARD_ENGINE__THREAD"),
        "engine.thread",
    ),
    (
        rules.configurations_are_read_by_the_loader,
        "overlays/cpu",
        lambda o: word(container(o)["args"], "/etc/babelward/babelward.toml", "/etc/babelward.toml"),
        "in no ConfigMap",
    ),
    (
        rules.servers_listen_on_every_address_of_their_pod,
        "overlays/cpu",
        lambda o: replaced(config(o), "babelward.toml", "0.0.0.0:9464", "127.0.0.1:9464"),
        "metrics_listen",
    ),
    (
        rules.ports_agree,
        "overlays/cpu",
        lambda o: replaced(config(o), "babelward.toml", "0.0.0.0:50051", "0.0.0.0:50052"),
        "listens on 50052",
    ),
    (
        rules.ports_agree,
        "overlays/cpu",
        lambda o: container(o)["readinessProbe"]["grpc"].update(port=50050),
        "readinessProbe asks port 50050",
    ),
    (
        rules.ports_agree,
        "overlays/cpu",
        lambda o: thing(o, "Service")["spec"]["ports"][0].update(targetPort="metrics"),
        "leads to 9464",
    ),
    (
        rules.ports_agree,
        "overlays/cpu",
        lambda o: thing(o, "Service", "babelward-pods")["spec"]["ports"][0].update(port=80),
        "port 80",
    ),
    (
        rules.ports_agree,
        "overlays/inference-gateway",
        lambda o: thing(o, "InferencePool")["spec"]["targetPorts"][0].update(number=9464),
        "InferencePool",
    ),
    (
        rules.ports_agree,
        "overlays/inference-gateway",
        lambda o: word(
            thing(o, "Deployment", "babelward-endpoint-picker")["spec"]["template"]["spec"]["containers"][0]["args"],
            "--model-server-metrics-port=9464",
            "--model-server-metrics-port=50051",
        ),
        "reads metrics on 50051",
    ),
    (rules.ports_agree, "overlays/kserve", lambda o: runtime(o)["ports"][0].update(containerPort=8081), "8081"),
    (
        rules.ports_agree,
        "overlays/kserve",
        lambda o: thing(o, "ServingRuntime")["spec"]["annotations"].update({"prometheus.kserve.io/port": "8080"}),
        "annotation",
    ),
    (
        rules.network_policies_let_the_ports_through_and_no_others,
        "overlays/cpu",
        lambda o: thing(o, "NetworkPolicy")["spec"]["ingress"][0]["ports"][0].update(port=50050),
        "admit to",
    ),
    (
        rules.network_policies_let_the_ports_through_and_no_others,
        "overlays/cpu",
        lambda o: thing(o, "NetworkPolicy")["spec"]["ingress"][0].pop("ports"),
        "admit to",
    ),
    (
        rules.network_policies_let_the_ports_through_and_no_others,
        "overlays/cpu",
        lambda o: thing(o, "NetworkPolicy")["spec"]["ingress"][0].pop("from"),
        "admits everybody",
    ),
    (
        rules.callers_are_let_out_to_the_port_of_the_service,
        "benchmark/run",
        lambda o: thing(o, "NetworkPolicy", "babelward-benchmark")["spec"]["egress"].pop(0),
        "does not let through",
    ),
    (
        rules.callers_are_let_out_to_the_port_of_the_service,
        "benchmark/run",
        lambda o: word(shard(o)["args"], "dns:///babelward-pods:50051", "dns:///babelward-pods:443"),
        "no port of a Service",
    ),
    (
        rules.callers_are_let_out_to_the_port_of_the_service,
        "benchmark/run",
        lambda o: benchmark(o)["template"]["metadata"]["labels"].pop("babelward/caller"),
        "label of callers",
    ),
    (
        rules.draining_fits_into_the_grace_period,
        "overlays/cpu",
        lambda o: replaced(config(o), "babelward.toml", 'drain_grace = "30s"', 'drain_grace = "1m"'),
        "do not fit",
    ),
    (
        rules.draining_fits_into_the_grace_period,
        "overlays/gpu",
        lambda o: server(o).update(terminationGracePeriodSeconds=30),
        "do not fit",
    ),
    (
        rules.draining_fits_into_the_grace_period,
        "overlays/kserve",
        lambda o: runtime(o).pop("lifecycle"),
        "preStop does not wait",
    ),
    (
        rules.probes_ask_for_services_that_the_server_has,
        "overlays/cpu",
        lambda o: container(o)["readinessProbe"]["grpc"].update(service="babelward.v1.GuardService"),
        "GuardService",
    ),
    (
        rules.probes_ask_for_services_that_the_server_has,
        "overlays/cpu",
        lambda o: container(o)["livenessProbe"]["grpc"].update(service="babelward.v1.SafetyService"),
        "would be killed",
    ),
    (
        rules.probes_ask_for_services_that_the_server_has,
        "overlays/gpu",
        lambda o: container(o).pop("startupProbe"),
        "no startupProbe",
    ),
    (
        rules.probes_ask_for_services_that_the_server_has,
        "overlays/cpu-tls",
        lambda o: container(o)["readinessProbe"]["httpGet"].update(path="/healthz?service=babelward.v1.GuardService"),
        "GuardService",
    ),
    (
        rules.probes_ask_for_services_that_the_server_has,
        "overlays/cpu-tls",
        lambda o: container(o)["livenessProbe"]["httpGet"].update(path="/metrics"),
        "at /metrics",
    ),
    (
        rules.ports_agree,
        "overlays/cpu-tls",
        lambda o: container(o)["livenessProbe"]["httpGet"].update(port="grpc"),
        "livenessProbe asks port grpc",
    ),
    (
        rules.probes_and_prometheus_speak_as_the_server_does,
        "overlays/cpu-tls",
        lambda o: container(o)["livenessProbe"]["httpGet"].pop("scheme"),
        "livenessProbe speaks no TLS",
    ),
    (
        rules.probes_and_prometheus_speak_as_the_server_does,
        "overlays/cpu",
        lambda o: container(o)["env"].append({"name": "BABELWARD_TLS__CERTIFICATE", "value": "/etc/babelward-tls/tls.crt"})
        or container(o)["env"].append({"name": "BABELWARD_TLS__KEY", "value": "/etc/babelward-tls/tls.key"}),
        "the server does",
    ),
    (
        rules.probes_and_prometheus_speak_as_the_server_does,
        "overlays/cpu-tls",
        lambda o: thing(o, "Service")["spec"]["ports"][0].update(appProtocol="kubernetes.io/h2c"),
        "TLS is on",
    ),
    (
        rules.servers_ask_for_credentials_which_are_in_secrets,
        "overlays/cpu",
        lambda o: container(o)["env"].append({"name": "BABELWARD_SERVER__INSECURE_NO_AUTH", "value": "true"}),
        "no credential",
    ),
    (
        rules.servers_ask_for_credentials_which_are_in_secrets,
        "overlays/cpu",
        lambda o: container(o)["volumeMounts"].pop(1),
        "nothing is mounted",
    ),
    (
        rules.servers_ask_for_credentials_which_are_in_secrets,
        "overlays/cpu-tls",
        lambda o: server(o)["volumes"][-1]["secret"].update(secretName="babelward-keys")
        if server(o)["volumes"][-1]["name"] == "tls"
        else server(o)["volumes"][0]["secret"].update(secretName="babelward-keys"),
        "makes no Secret babelward-keys with tls.crt",
    ),
    (
        rules.servers_ask_for_credentials_which_are_in_secrets,
        "overlays/kserve",
        lambda o: word(runtime(o)["args"], "/etc/babelward-keys/keys.toml", "/etc/babelward-keys/key.toml"),
        "with key.toml",
    ),
    (
        rules.arguments_are_accepted_by_the_program,
        "overlays/cpu",
        lambda o: word(server(o)["initContainers"][0]["args"], "--sha256", "--sha-256"),
        "--sha-256",
    ),
    (
        rules.arguments_are_accepted_by_the_program,
        "overlays/cpu",
        lambda o: next(c for c in of_kind(o, "ConfigMap") if "MODEL_URL" in c["data"])["data"].update(
            MODEL_SHA256="abc"
        ),
        "64 hexadecimal digits",
    ),
    (
        rules.arguments_are_accepted_by_the_program,
        "overlays/cpu",
        lambda o: server(o)["initContainers"][0].pop("envFrom"),
        "nobody sets",
    ),
    (
        rules.arguments_are_accepted_by_the_program,
        "benchmark/run",
        lambda o: word(shard(o)["args"], "job/4", "jobs/4"),
        "--shard",
    ),
    (
        rules.arguments_are_accepted_by_the_program,
        "benchmark/run",
        lambda o: word(shard(o)["args"], "10m", "10"),
        "--retry-for",
    ),
    (
        rules.arguments_are_accepted_by_the_program,
        "benchmark/merge",
        lambda o: word(merge(o)["args"], "--out", "--into"),
        "--into",
    ),
    (
        rules.selectors_select,
        "overlays/cpu",
        lambda o: thing(o, "Service")["spec"]["selector"].update({"app.kubernetes.io/component": "guard"}),
        "selects no pod",
    ),
    (
        rules.selectors_select,
        "overlays/cpu",
        lambda o: thing(o, "Deployment")["spec"]["selector"]["matchLabels"].update(app="x"),
        "does not select its own",
    ),
    (
        rules.selectors_select,
        "overlays/cpu",
        lambda o: thing(o, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].update(app="x"),
        "selects no pod",
    ),
    (
        rules.selectors_select,
        "overlays/cpu",
        lambda o: server(o)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].update(app="x"),
        "spreads",
    ),
    (
        rules.selectors_select,
        "monitoring",
        lambda o: thing(o, "PodMonitor")["spec"]["selector"]["matchLabels"].update(app="x"),
        "selects no pod",
    ),
    (
        rules.references_lead_somewhere,
        "overlays/cpu",
        lambda o: server(o)["volumes"].pop(0),
        "there is no volume config",
    ),
    (
        rules.references_lead_somewhere,
        "overlays/cpu",
        lambda o: server(o)["volumes"][0]["configMap"].update(name="other"),
        "there is no ConfigMap other",
    ),
    (
        rules.references_lead_somewhere,
        "overlays/cpu",
        lambda o: container(o)["volumeMounts"].pop(3),
        "nobody mounts cache",
    ),
    (
        rules.references_lead_somewhere,
        "overlays/cpu",
        lambda o: server(o)["initContainers"][0]["env"][0]["valueFrom"]["secretKeyRef"].update(
            name="other", optional=False
        ),
        "needs token of the Secret other",
    ),
    (
        rules.references_lead_somewhere,
        "benchmark/run",
        lambda o: shard(o)["env"][0]["valueFrom"]["secretKeyRef"].update(key="tokens"),
        "needs tokens of the Secret babelward-benchmark",
    ),
    (
        rules.references_lead_somewhere,
        "overlays/cpu",
        lambda o: server(o)["volumes"][1]["secret"].update(secretName="other"),
        "needs the Secret other",
    ),
    (
        rules.references_lead_somewhere,
        "overlays/cpu",
        lambda o: server(o).update(serviceAccountName="other"),
        "no ServiceAccount",
    ),
    (
        rules.references_lead_somewhere,
        "overlays/cpu",
        lambda o: thing(o, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"].update(name="other"),
        "there is no Deployment/other",
    ),
    (
        rules.references_lead_somewhere,
        "overlays/gpu",
        lambda o: thing(o, "ScaledObject")["spec"]["scaleTargetRef"].update(kind="StatefulSet"),
        "there is no StatefulSet",
    ),
    (
        rules.references_lead_somewhere,
        "overlays/inference-gateway",
        lambda o: thing(o, "InferencePool")["spec"]["endpointPickerRef"]["port"].update(number=9003),
        "with port 9003",
    ),
    (
        rules.references_lead_somewhere,
        "overlays/kserve",
        lambda o: runtime(o)["env"][1]["valueFrom"]["resourceFieldRef"].update(containerName="babelward"),
        "not there",
    ),
    (
        rules.the_model_is_checked_before_it_is_served,
        "overlays/cpu",
        lambda o: server(o).pop("initContainers"),
        "no init container",
    ),
    (
        rules.the_model_is_checked_before_it_is_served,
        "overlays/cpu",
        lambda o: replaced(config(o), "babelward.toml", "/models/guard.gguf", "/models/other.gguf"),
        "other.gguf",
    ),
    (
        rules.the_model_is_checked_before_it_is_served,
        "overlays/gpu",
        lambda o: container(o)["volumeMounts"][2].update(readOnly=False),
        "may write",
    ),
    (
        rules.one_scaler_decides_how_many_pods_there_are,
        "overlays/cpu",
        lambda o: thing(o, "Deployment")["spec"].update(replicas=2),
        "says how many",
    ),
    (
        rules.one_scaler_decides_how_many_pods_there_are,
        "overlays/gpu",
        lambda o: o.append(thing(tools.objects("overlays/cpu"), "HorizontalPodAutoscaler")),
        "scale it",
    ),
    (
        rules.one_scaler_decides_how_many_pods_there_are,
        "overlays/gpu",
        lambda o: thing(o, "ScaledObject")["metadata"].update(namespace="other"),
        "asks for the namespaces",
    ),
    (
        rules.one_scaler_decides_how_many_pods_there_are,
        "overlays/gpu",
        lambda o: thing(o, "ScaledObject")["spec"]["triggers"][0]["metadata"].update(threshold="many"),
        "is no number",
    ),
    (
        rules.one_scaler_decides_how_many_pods_there_are,
        "overlays/cpu",
        lambda o: thing(o, "HorizontalPodAutoscaler")["spec"].update(minReplicas=8),
        "never scales",
    ),
    (
        rules.disruption_budgets_say_one_thing,
        "overlays/cpu",
        lambda o: thing(o, "PodDisruptionBudget")["spec"].update(minAvailable=1),
        "exactly one",
    ),
    (
        rules.quantities_are_quantities,
        "overlays/cpu",
        lambda o: container(o)["resources"]["limits"].update(memory="8zz"),
        "8zz",
    ),
    (
        rules.quantities_are_quantities,
        "overlays/gpu",
        lambda o: container(o)["resources"]["limits"].update({"nvidia.com/gpu": "2"}),
        "its limit is 2",
    ),
    (
        rules.quantities_are_quantities,
        "overlays/cpu",
        lambda o: container(o)["resources"]["limits"].update(cpu="500m"),
        "requests 4 of cpu",
    ),
    (
        rules.quantities_are_quantities,
        "overlays/cpu",
        lambda o: server(o)["volumes"][2].update(emptyDir={}),
        "has no limit",
    ),
    (
        rules.shards_are_all_run_and_all_merged,
        "benchmark/run",
        lambda o: benchmark(o).update(completions=5),
        "its 5 pods",
    ),
    (
        rules.shards_are_all_run_and_all_merged,
        "benchmark/run",
        lambda o: benchmark(o).update(completionMode="Idx"),
        "not numbered",
    ),
    (
        rules.shards_are_all_run_and_all_merged,
        "benchmark/run",
        lambda o: benchmark(o).update(parallelism=9),
        "more pods",
    ),
    (
        rules.shards_are_all_run_and_all_merged,
        "benchmark/run",
        lambda o: shard(o)["args"].remove("--resume"),
        "started again",
    ),
    (
        rules.shards_are_all_run_and_all_merged,
        "benchmark/run",
        lambda o: benchmark(o)["template"]["spec"].update(restartPolicy="OnFailure"),
        "restartPolicy Never",
    ),
    (
        rules.shards_are_all_run_and_all_merged,
        "benchmark/run",
        lambda o: benchmark(o)["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"].append(77),
        "{77}",
    ),
    (
        rules.shards_are_all_run_and_all_merged,
        "benchmark/merge",
        lambda o: merge(o)["args"].remove("/results/shard-3"),
        "the shards are",
    ),
    (
        rules.metrics_are_those_of_the_server,
        "overlays/cpu",
        lambda o: thing(o, "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"].update(
            name="babelward_queue_length"
        ),
        "babelward_queue_length",
    ),
    (
        rules.metrics_are_those_of_the_server,
        "overlays/gpu",
        lambda o: replaced(
            thing(o, "ScaledObject")["spec"]["triggers"][0]["metadata"], "query", "queue_depth", "queue"
        ),
        "babelward_queue",
    ),
    (
        rules.metrics_are_those_of_the_server,
        "overlays/gpu",
        lambda o: replaced(thing(o, "ScaledObject")["spec"]["triggers"][0]["metadata"], "query", "sum(", "sum(("),
        "unclosed",
    ),
    (
        rules.metrics_are_those_of_the_server,
        "overlays/inference-gateway",
        lambda o: replaced(picker(o), "endpoint-picker-config.yaml", "babelward_server_kv_usage_ratio", "babelward_kv_usage"),
        "babelward_kv_usage",
    ),
    (
        rules.metrics_are_those_of_the_server,
        "monitoring",
        lambda o: thing(o, "PrometheusRule")["spec"]["groups"][0]["rules"][3].update(
            expr='rate(babelward_requests_total{status="INTERNAL"}[5m]) > 0'
        ),
        "no label status",
    ),
    (
        rules.metrics_are_those_of_the_server,
        "monitoring",
        lambda o: thing(o, "PrometheusRule")["spec"]["groups"][0]["rules"][3].update(
            expr="sum by (guard) (babelward_queue_depth) > 0"
        ),
        "the label guard",
    ),
    (
        rules.the_endpoint_picker_knows_the_pods_by_their_label,
        "overlays/inference-gateway",
        lambda o: thing(o, "Deployment")["spec"]["template"]["metadata"]["labels"].pop("llm-d.ai/engine-type"),
        "no engine",
    ),
    (
        rules.the_endpoint_picker_knows_the_pods_by_their_label,
        "overlays/inference-gateway",
        lambda o: replaced(
            picker(o),
            "endpoint-picker-config.yaml",
            "babelward_server_running",
            'babelward_running{model="other"}',
        ),
        "of other",
    ),
]

# (policy, folder, a mistake). Each policy has one or more.
BREACHES = [
    ("nobody is root", "overlays/cpu", lambda o: server(o)["securityContext"].pop("runAsNonRoot")),
    ("nobody is root", "benchmark/run", lambda o: shard(o)["securityContext"].update(runAsUser=0)),
    ("pods say as whom they run", "overlays/cpu", lambda o: server(o)["securityContext"].pop("runAsGroup")),
    ("pods are restricted", "overlays/cpu", lambda o: container(o)["securityContext"].update(privileged=True)),
    ("pods are restricted", "overlays/cpu", lambda o: container(o)["securityContext"].pop("allowPrivilegeEscalation")),
    (
        "pods are restricted",
        "overlays/gpu",
        lambda o: container(o)["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
    ),
    (
        "pods are restricted",
        "benchmark/merge",
        lambda o: thing(o, "Job", "babelward-merge")["spec"]["template"]["spec"]["securityContext"].pop(
            "seccompProfile"
        ),
    ),
    ("images are read-only", "overlays/kserve", lambda o: runtime(o)["securityContext"].pop("readOnlyRootFilesystem")),
    ("nothing is of the host", "overlays/cpu", lambda o: server(o).update(hostNetwork=True)),
    (
        "nothing is of the host",
        "overlays/cpu",
        lambda o: server(o)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    ),
    ("nothing is of the host", "overlays/cpu", lambda o: container(o)["ports"][0].update(hostPort=50051)),
    ("no pod gets a token", "overlays/cpu", lambda o: server(o).pop("automountServiceAccountToken")),
    ("no pod gets a token", "overlays/cpu", lambda o: thing(o, "ServiceAccount").pop("automountServiceAccountToken")),
    (
        "every container has resources",
        "overlays/cpu",
        lambda o: server(o)["initContainers"][0]["resources"]["limits"].pop("memory"),
    ),
    ("images have versions", "overlays/cpu", lambda o: container(o).update(image="registry.example/babelward:latest")),
    ("images have versions", "overlays/cpu", lambda o: container(o).update(image="registry.example:5000/babelward")),
    ("every server has probes", "overlays/cpu", lambda o: container(o).pop("livenessProbe")),
    (
        "every pod has a network policy",
        "overlays/cpu",
        lambda o: thing(o, "NetworkPolicy")["spec"]["policyTypes"].remove("Egress"),
    ),
    (
        "every pod has a network policy",
        "benchmark/run",
        lambda o: o.remove(thing(o, "NetworkPolicy", "babelward-benchmark")),
    ),
    ("services stay inside", "overlays/cpu", lambda o: thing(o, "Service")["spec"].update(type="LoadBalancer")),
    (
        "no secrets",
        "overlays/cpu",
        lambda o: server(o)["initContainers"][0]["env"].append({"name": "HF_TOKEN", "value": "hf_x"}),
    ),
    (
        "no secrets",
        "overlays/cpu",
        lambda o: o.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "babelward"}}),
    ),
    (
        "rights are few",
        "overlays/inference-gateway",
        lambda o: of_kind(o, "Role")[0]["rules"][0]["resources"].append("secrets"),
    ),
    (
        "rights are few",
        "overlays/inference-gateway",
        lambda o: of_kind(o, "Role")[0]["rules"][0]["verbs"].append("delete"),
    ),
    (
        "everything is in its namespace",
        "overlays/cpu",
        lambda o: thing(o, "HorizontalPodAutoscaler")["metadata"].pop("namespace"),
    ),
    (
        "the namespace is restricted",
        "overlays/cpu",
        lambda o: thing(o, "Namespace")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
    ),
]

# (folder, a mistake, what the schemas say)
MISSPELT = [
    ("overlays/cpu", lambda o: container(o).update(readinessProb={}), "readinessProb"),
    ("overlays/cpu", lambda o: container(o)["ports"][0].update(containerPort="50051"), "50051"),
    ("overlays/cpu", lambda o: thing(o, "HorizontalPodAutoscaler")["spec"].update(maxReplica=3), "maxReplica"),
    ("overlays/gpu", lambda o: thing(o, "ScaledObject")["spec"].update(minReplicas=3), "minReplicas"),
    ("overlays/inference-gateway", lambda o: thing(o, "InferencePool")["spec"].update(appProtocol="h2c"), "h2c"),
    (
        "overlays/inference-gateway",
        lambda o: thing(o, "HTTPRoute")["spec"]["rules"][0].pop("backendRefs"),
        "backendRefs",
    ),
    ("overlays/kserve", lambda o: runtime(o).update(arg=[]), "arg"),
    ("overlays/kserve", lambda o: thing(o, "InferenceService")["spec"]["predictor"].update(minReplica=1), "minReplica"),
    ("benchmark/run", lambda o: benchmark(o).update(completion=4), "completion"),
    ("monitoring", lambda o: thing(o, "PodMonitor")["spec"]["podMetricsEndpoints"][0].update(interval="15"), "15"),
    ("monitoring", lambda o: thing(o, "PrometheusRule")["spec"]["groups"][0]["rules"][0].pop("expr"), "expr"),
]


class Objects(unittest.TestCase):
    maxDiff = None

    def test_every_folder_fits_the_schemas(self):
        for folder in tools.FOLDERS:
            with self.subTest(folder):
                self.assertEqual(list(schemas.problems(tools.objects(folder))), [])

    def test_every_folder_fits_the_rules(self):
        for folder in tools.FOLDERS:
            for rule in rules.RULES:
                with self.subTest(folder, rule=rule.__name__):
                    self.assertEqual(list(rule(tools.objects(folder))), [])

    def test_every_folder_keeps_the_policies_but_for_what_is_excepted(self):
        used = set()
        for folder in tools.FOLDERS:
            with self.subTest(folder):
                problems, needed = policy.broken(tools.objects(folder))
                self.assertEqual(problems, [])
                used |= needed
        self.assertEqual(set(policy.EXCEPTIONS) - used, set(), "exceptions that nothing needs")

    def test_the_benchmarks_policy_selects_the_pods_that_merge(self):
        (shards,) = of_kind(tools.objects("benchmark/run"), "NetworkPolicy")
        (job,) = of_kind(tools.objects("benchmark/merge"), "Job")
        selector = shards["spec"]["podSelector"]["matchLabels"]
        self.assertEqual(selector, {key: job["spec"]["template"]["metadata"]["labels"].get(key) for key in selector})

    def test_probed_services_are_serving_on_a_server_with_its_models(self):
        asked = {
            service
            for folder in ("overlays/cpu", "overlays/cpu-tls", "overlays/gpu")
            for _, service, _ in rules.probes_of(container(tools.objects(folder)))
        }
        self.assertEqual({service: tools.health_services()[service] for service in asked}, dict.fromkeys(asked, True))


class Mistakes(unittest.TestCase):
    """Each check finds what it is for."""

    def planted(self, folder, mistake):
        objects = copy.deepcopy(tools.objects(folder))
        mistake(objects)
        return objects

    def test_rules_find_planted_mistakes(self):
        for rule, folder, mistake, said in MISTAKES:
            with self.subTest(folder, rule=rule.__name__, said=said):
                self.assertIn(said, "\n".join(rule(self.planted(folder, mistake))))

    def test_policies_find_planted_breaches(self):
        for name, folder, mistake in BREACHES:
            with self.subTest(folder, policy=name):
                problems, _ = policy.broken(self.planted(folder, mistake))
                self.assertIn(name, {problem.split(":")[0] for problem in problems})

    def test_schemas_find_misspelt_fields(self):
        for folder, mistake, said in MISSPELT:
            with self.subTest(folder, said=said):
                self.assertIn(said, "\n".join(schemas.problems(self.planted(folder, mistake))))

    def test_no_check_is_without_a_mistake(self):
        self.assertEqual({rule for rule, *_ in MISTAKES}, set(rules.RULES))
        # Every image here is without a digest, so that one more cannot be told.
        self.assertEqual({name for name, *_ in BREACHES} | {"images are pinned by digest"}, set(policy.POLICIES))
