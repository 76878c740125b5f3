"""Schemas: Kubernetes' own, strictly, and for objects of others closed ones of what we use.

The closed schemas are written by hand, from the definitions that KEDA, the gateway API with its inference extension, KServe
and the Prometheus operator had in August 2026. `against_crds.py FOLDER` validates the same objects by the definitions
themselves, for whoever has them.
"""

import jsonschema
import kubernetes_validate

from model import name_of, of_kind, pods

# The oldest version that knows all that we use (a preStop that sleeps), and the newest that the package has.
VERSIONS = ("1.32", "1.37")


def closed(required, **properties):
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def many(schema):
    return {"type": "array", "items": schema, "minItems": 1}


TEXT = {"type": "string", "minLength": 1}
NUMBER = {"type": "integer", "minimum": 0}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1}
LABELS = closed(["matchLabels"], matchLabels=TEXTS)
ANY = {"type": "object"}
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}

SPECS = {
    ("keda.sh/v1alpha1", "ScaledObject"): closed(
        ["scaleTargetRef", "triggers"],
        scaleTargetRef=closed(["name"], apiVersion=TEXT, kind=TEXT, name=TEXT),
        minReplicaCount=NUMBER,
        maxReplicaCount=NUMBER,
        pollingInterval=NUMBER,
        cooldownPeriod=NUMBER,
        fallback=closed(["failureThreshold", "replicas"], failureThreshold=NUMBER, replicas=NUMBER),
        advanced=closed([], horizontalPodAutoscalerConfig=closed([], behavior=ANY)),
        triggers=many(
            closed(
                ["type", "metadata"],
                type={"const": "prometheus"},
                metricType={"enum": ["AverageValue", "Value"]},
                metadata=closed(
                    ["serverAddress", "query", "threshold"], serverAddress=TEXT, query=TEXT, threshold=TEXT
                ),
            )
        ),
    ),
    ("inference.networking.k8s.io/v1", "InferencePool"): closed(
        ["selector", "targetPorts", "endpointPickerRef"],
        selector=LABELS,
        targetPorts={**many(closed(["number"], number=PORT)), "maxItems": 8},
        appProtocol={"enum": ["http", "kubernetes.io/h2c"]},
        endpointPickerRef=closed(
            ["name", "port"],
            name=TEXT,
            port=closed(["number"], number=PORT),
            failureMode={"enum": ["FailOpen", "FailClose"]},
        ),
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): closed(
        ["parentRefs", "rules"],
        parentRefs=many(closed(["name"], name=TEXT, namespace=TEXT)),
        rules=many(
            closed(
                ["backendRefs"],
                matches=many(
                    closed(["path"], path=closed(["type", "value"], type={"enum": ["PathPrefix", "Exact"]}, value=TEXT))
                ),
                backendRefs=many(closed(["name"], group=TEXT, kind=TEXT, name=TEXT)),
            )
        ),
    ),
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): closed(
        ["supportedModelFormats", "containers"],
        annotations=TEXTS,
        supportedModelFormats=many(closed(["name"], name=TEXT, version=TEXT, autoSelect={"type": "boolean"})),
        # As those of a pod, by Kubernetes' own schema.
        containers=many(ANY),
        volumes=many(ANY),
    ),
    ("serving.kserve.io/v1beta1", "InferenceService"): closed(
        ["predictor"],
        predictor=closed(
            ["model"],
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            automountServiceAccountToken={"type": "boolean"},
            terminationGracePeriodSeconds=NUMBER,
            model=closed(
                ["modelFormat"],
                modelFormat=closed(["name"], name=TEXT, version=TEXT),
                runtime=TEXT,
                storageUri=TEXT,
                env=many(closed(["name", "value"], name=TEXT, value=TEXT)),
            ),
        ),
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): closed(
        ["selector", "podMetricsEndpoints"],
        selector=LABELS,
        podMetricsEndpoints=many(
            closed(
                ["port"],
                port=TEXT,
                path=TEXT,
                interval=DURATION,
                scheme={"enum": ["http", "https"]},
                tlsConfig=closed(
                    ["serverName", "ca"],
                    serverName=TEXT,
                    ca=closed(["secret"], secret=closed(["name", "key"], name=TEXT, key=TEXT)),
                ),
            )
        ),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): closed(
        ["groups"],
        groups=many(
            closed(
                ["name", "rules"],
                name=TEXT,
                rules=many(
                    closed(
                        ["alert", "expr"], alert=TEXT, expr=TEXT, labels=TEXTS, annotations=TEXTS, **{"for": DURATION}
                    )
                ),
            )
        ),
    ),
}


def problems(objects):
    """What the schemas say."""
    for thing in objects:
        schema = SPECS.get((thing["apiVersion"], thing["kind"]))
        if schema is not None:
            if set(thing) != {"apiVersion", "kind", "metadata", "spec"}:
                yield f"{name_of(thing)}: has {sorted(thing)}"
            for error in jsonschema.Draft202012Validator(schema).iter_errors(thing["spec"]):
                yield f"{name_of(thing)}: {error.json_path}: {error.message}"
            continue
        yield from _kubernetes(thing, name_of(thing))
    for pod in pods(of_kind(objects, "ServingRuntime")):
        spec = {key: pod.spec[key] for key in ("containers", "volumes") if key in pod.spec}
        shape = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runtime"}, "spec": spec}
        yield from _kubernetes(shape, pod.name)


def _kubernetes(thing, name):
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name}: {version}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f"{name}: {version}: {error}"
