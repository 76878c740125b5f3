"""Kubernetes' objects as the rules want to see them: pods wherever they are described, and who selects them."""

import math
import re
from dataclasses import dataclass, field

TEMPLATED = ("Deployment", "StatefulSet", "DaemonSet", "Job")


@dataclass
class Pod:
    """The pods that an object makes."""

    owner: dict
    labels: dict
    spec: dict
    name: str = field(init=False)

    def __post_init__(self):
        self.name = name_of(self.owner)

    def containers(self):
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def container(self, *names):
        return next((each for each in self.spec["containers"] if each["name"] in names), None)


def name_of(thing: dict) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"


def of_kind(objects, *kinds):
    return [thing for thing in objects if thing["kind"] in kinds]


def pods(objects):
    """The pods of all objects. A ServingRuntime is the larger part of a pod, and its InferenceService the rest."""
    found = []
    for thing in of_kind(objects, *TEMPLATED):
        template = thing["spec"]["template"]
        found.append(Pod(thing, template.get("metadata", {}).get("labels", {}), template["spec"]))
    for thing in of_kind(objects, "ServingRuntime"):
        spec = dict(thing["spec"])
        for service in of_kind(objects, "InferenceService"):
            predictor = service["spec"]["predictor"]
            for key in ("terminationGracePeriodSeconds", "automountServiceAccountToken", "securityContext"):
                if key in predictor:
                    spec[key] = predictor[key]
            spec["containers"] = [
                {**each, "env": [*each.get("env", []), *predictor["model"].get("env", [])]}
                for each in spec["containers"]
            ]
        found.append(Pod(thing, {}, spec))
    return found


def servers(objects):
    """The pods that run Babelward's server, with the container that does."""
    for pod in pods(objects):
        container = pod.container("babelward", "kserve-container")
        if container is not None:
            yield pod, container


def selects(selector: dict, labels: dict) -> bool:
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")


def cores(quantity: str) -> int:
    """A limit on processors as the downward API gives it: rounded up."""
    text = str(quantity)
    return math.ceil(int(text[:-1]) / 1000) if text.endswith("m") else math.ceil(float(text))


def environment(container: dict, objects) -> dict:
    """The variables of a container that are known before it runs."""
    known = {}
    for source in container.get("envFrom", []):
        wanted = source.get("configMapRef", {}).get("name")
        for config in of_kind(objects, "ConfigMap"):
            if config["metadata"]["name"] == wanted:
                known.update(config["data"])
    for variable in container.get("env", []):
        value_from = variable.get("valueFrom", {})
        if "value" in variable:
            known[variable["name"]] = variable["value"]
        elif value_from.get("resourceFieldRef", {}).get("resource") == "limits.cpu":
            known[variable["name"]] = str(cores(container["resources"]["limits"]["cpu"]))
    return known


def expanded(words, known: dict):
    """Arguments with `$(NAME)` replaced, as the kubelet does it."""
    return [re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], found[0]), word) for word in words]


def seconds(text: str) -> float:
    """A time as our configuration writes it."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    number, unit = re.fullmatch(r"([0-9.]+)(ms|s|m|h)", text).groups()
    return float(number) * units[unit]
