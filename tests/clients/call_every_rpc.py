#!/usr/bin/env python3
"""Calls every RPC of a running server through reflection only, and checks what comes back.

usage: call_every_rpc.py ADDRESS      e.g. 127.0.0.1:50051; one target, one guard and one quality
                                       estimator must be resident, and
                                       admin calls allowed

Fails when reflection lists a method of ours that was not called.
"""

import base64
import hashlib
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from reflect import PACKAGE, Client, decoded, error_info, status_of, violations

INVALID_ARGUMENT, NOT_FOUND, CANCELLED = 3, 5, 1
SERVICES = [
    "AdminService", "GenerationService", "ModelService", "QualityService", "SafetyService", "ScoringService"
]
QUESTION = {"messages": [{"role": "ROLE_USER", "content": "Which town is the capital of France?"}]}
JUDGED = {
    "messages": [
        {"role": "ROLE_USER", "content": "How do I bake bread?"},
        {"role": "ROLE_ASSISTANT", "content": "Mix flour, water, salt and yeast, wait, and bake it."},
    ]
}
GREEDY = {"conversation": QUESTION, "sampling": {"temperature": 0}, "stopping": {"max_new_tokens": 12}}
CALLED: set[str] = set()


def check(condition, message) -> None:
    """An assertion that `python -O` keeps."""
    if not condition:
        raise AssertionError(message)


def called(path: str) -> None:
    CALLED.add(path)
    print(f"ok {path}", flush=True)


def fails(code: grpc.StatusCode, action) -> grpc.RpcError:
    """Runs an action that must fail with this code."""
    try:
        action()
    except grpc.RpcError as error:
        check(error.code() == code, f"expected {code}, got {error.code()}: {error.details()}")
        return error
    raise AssertionError(f"expected {code}, but the call succeeded")


def check_reflection(client: Client) -> None:
    wanted = {f"{PACKAGE}.{name}" for name in SERVICES} | {"grpc.health.v1.Health"}
    for version, listed in (("v1alpha", client.services()), ("v1", client.services_v1())):
        check(wanted <= set(listed), f"reflection {version} lists {listed}, expected at least {sorted(wanted)}")
    print("ok reflection v1 and v1alpha", flush=True)


def check_health(client: Client) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ["", *(f"{PACKAGE}.{name}" for name in SERVICES)]:
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        check(answer.status == serving, f"health of {service!r} is {answer.status}")
    unknown = health_pb2.HealthCheckRequest(service="babelward.v1.NoSuchService")
    fails(grpc.StatusCode.NOT_FOUND, lambda: health.Check(unknown, timeout=30))
    watch = health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=30)
    check(next(watch).status == serving, "health watch does not begin with SERVING")
    watch.cancel()
    print("ok health", flush=True)


def check_models(client: Client) -> None:
    models = client.call("ModelService/ListModels", {}).models
    check(models, "no models are listed")
    for name in ("CAPABILITY_GENERATE", "CAPABILITY_CLASSIFY", "CAPABILITY_ESTIMATE_QUALITY"):
        some = client.call("ModelService/ListModels", {"capability": name}).models
        check(some, f"no model has {name}")
    called("ModelService/ListModels")

    ready = client.pool.FindEnumTypeByName(f"{PACKAGE}.Model.State").values_by_name["STATE_READY"].number
    for listed in models:
        model = client.call("ModelService/GetModel", {"name": listed.name}).model
        check(model.name == listed.name and model.state == ready, f"{listed.name}: {model}")
        check(model.digest.startswith("sha256:") and len(model.digest) == 71, f"digest {model.digest!r}")
        check(model.parameters > 0 and model.context_tokens > 0 and model.resident_bytes > 0, f"{model}")
    error = fails(grpc.StatusCode.NOT_FOUND, lambda: client.call("ModelService/GetModel", {"name": "nobody"}))
    check(error_info(status_of(error)).reason, "NOT_FOUND carries no reason")
    called("ModelService/GetModel")

    watch = client.call("ModelService/WatchModels", {})
    seen = {next(watch).model.name for _ in models}
    check(seen == {model.name for model in models}, f"WatchModels began with {seen}")
    watch.cancel()
    called("ModelService/WatchModels")

    text = "The quick brown fox jumps over the lazy dog."
    one = client.call("ModelService/CountTokens", {"text": text}).tokens
    two = client.call("ModelService/CountTokens", {"text": f"{text} {text}"}).tokens
    check(0 < one < len(text) and two == 2 * one, f"CountTokens says {one} and {two}")
    called("ModelService/CountTokens")

    stats = client.call("ModelService/GetServerStats", {})
    counted = {name for model in stats.models for name in model.names}
    check(counted == {model.name for model in models}, f"GetServerStats has {counted}")
    called("ModelService/GetServerStats")


def check_admin(client: Client) -> None:
    """The model is pinned, goes, and comes back; whatever is called afterwards uses it."""

    def number(enum: str, name: str) -> int:
        return client.pool.FindEnumTypeByName(f"{PACKAGE}.{enum}").values_by_name[name].number

    name = client.call("ModelService/ListModels", {}).models[0].name
    estimate = client.call("AdminService/EstimateModel", {"name": name})
    check(estimate.verdict == number("EstimateModelResponse.Verdict", "VERDICT_RESIDENT"), f"{estimate}")
    check(0 < estimate.weight_bytes < estimate.budget_bytes and estimate.kv_minimum_bytes > 0, f"{estimate}")
    called("AdminService/EstimateModel")

    for pinned in (True, False):
        model = client.call("AdminService/PinModel", {"name": name, "pinned": pinned}).model
        check(model.pinned == pinned, f"{model}")
    called("AdminService/PinModel")

    model = client.call("AdminService/UnloadModel", {"name": name}).model
    check(model.state == number("Model.State", "STATE_UNLOADED"), f"{model}")
    called("AdminService/UnloadModel")

    model = client.call("AdminService/LoadModel", {"name": name}).model
    check(model.state == number("Model.State", "STATE_READY"), f"{model}")
    called("AdminService/LoadModel")


def check_verdict(verdict) -> None:
    check(verdict.label in (1, 2, 3), f"label {verdict.label}")
    check(0.0 <= verdict.label_mass <= 1.0, f"label_mass {verdict.label_mass}")
    if verdict.HasField("unsafe_score"):
        check(0.0 <= verdict.unsafe_score <= 1.0, f"unsafe_score {verdict.unsafe_score}")
    check(verdict.usage.prompt_tokens > 200, f"a guard prompt has more than {verdict.usage.prompt_tokens} tokens")
    check(verdict.provenance.model_digest.startswith("sha256:"), f"{verdict.provenance}")
    check(verdict.provenance.template_digest.startswith("sha256:"), f"{verdict.provenance}")


def check_policies(client: Client) -> None:
    """Another policy than the guard's own, cold and from the prefix cache; this server has none by name."""
    listed = client.call("SafetyService/ListPolicies", {}).policies
    check(not listed, f"{listed}")
    categories = [
        {"code": "S1", "name": "Fraud", "description": "Offers of goods that do not exist."},
        {"code": "S7", "name": "Insults"},
    ]
    request = {"conversation": JUDGED, "inline_policy": {"name": "shop", "categories": categories}}
    cold = client.call("SafetyService/Classify", request).verdict
    warm = client.call("SafetyService/Classify", request).verdict
    check(warm.usage.cached_prompt_tokens > cold.usage.cached_prompt_tokens, f"{cold.usage} {warm.usage}")
    same = ("label", "unsafe_score", "label_mass", "raw_output")
    check(all(getattr(cold, name) == getattr(warm, name) for name in same), f"{cold}\n{warm}")
    check(cold.provenance.policy == "shop", f"{cold.provenance}")
    check(cold.provenance.policy_digest.startswith("sha256:"), f"{cold.provenance}")
    error = fails(
        grpc.StatusCode.NOT_FOUND,
        lambda: client.call("SafetyService/Classify", {"conversation": JUDGED, "policy": "nobody's"}),
    )
    check(error_info(status_of(error)).reason == "POLICY_NOT_FOUND", f"{status_of(error)}")
    called("SafetyService/ListPolicies")


def check_classify(client: Client) -> None:
    first = client.call("SafetyService/Classify", {"conversation": JUDGED}).verdict
    check_verdict(first)
    again = client.call("SafetyService/Classify", {"conversation": JUDGED}).verdict
    check(again.usage.cached_prompt_tokens > 0, "a repeated prompt was not found in the prefix cache")
    same = ("label", "unsafe_score", "label_mass", "raw_output")
    check(all(getattr(first, name) == getattr(again, name) for name in same), f"{first}\n{again}")
    system = {"messages": [{"role": "ROLE_SYSTEM", "content": "Be kind."}]}
    error = fails(
        grpc.StatusCode.INVALID_ARGUMENT,
        lambda: client.call("SafetyService/Classify", {"conversation": system}),
    )
    check(any("messages[0]" in field for field in violations(status_of(error))), f"{status_of(error)}")
    called("SafetyService/Classify")

    items = [
        {"id": "good", "request": {"conversation": JUDGED}},
        {"id": "bad", "request": {"conversation": {"messages": []}}},
    ]
    results = client.call("SafetyService/BatchClassify", {"items": items}).results
    check([result.id for result in results] == ["good", "bad"], f"order {results}")
    check(results[0].response.verdict.label_mass == first.label_mass, "a batch changed the probabilities")
    check(results[1].error.code == INVALID_ARGUMENT, f"{results[1]}")
    field = "items[1].request.conversation.messages"
    check(set(violations(results[1].error)) == {field}, f"{violations(results[1].error)}")
    called("SafetyService/BatchClassify")

    requests = [{"id": f"item-{index}", "classify": {"conversation": JUDGED}} for index in range(4)]
    requests.append({"id": "bad", "classify": {"conversation": {"messages": []}}})
    answers = {answer.id: answer for answer in client.call("SafetyService/ClassifyStream", requests)}
    check(set(answers) == {request["id"] for request in requests}, f"ids {sorted(answers)}")
    check(answers.pop("bad").error.code == INVALID_ARGUMENT, "the malformed item did not fail alone")
    for answer in answers.values():
        check(answer.response.verdict.label_mass == first.label_mass, "a stream changed the probabilities")
    called("SafetyService/ClassifyStream")

    together = client.call("SafetyService/ClassifyRenderings", {"renderings": [{"conversation": JUDGED}] * 2})
    check(
        [result.response.verdict.label_mass for result in together.results] == [first.label_mass] * 2,
        "renderings changed the probabilities",
    )
    check(together.label == first.label, f"{together}")
    called("SafetyService/ClassifyRenderings")

    found = client.call("SafetyService/FindEvidence", {"request": {"conversation": JUDGED}, "maxPasses": 4})
    check(found.verdict.label_mass == first.label_mass, "a search changed the probabilities")
    check(found.passes <= 4 and found.outcome != 0, f"{found}")
    called("SafetyService/FindEvidence")


def check_guard_stream(client: Client) -> None:
    question, answer = JUDGED["messages"]
    text = answer["content"].encode()
    chunks = [base64.b64encode(text[at : at + 7]).decode() for at in range(0, len(text), 7)]
    start = {"conversation": {"messages": [question]}, "options": {"mode": "GUARD_MODE_OBSERVE"}}
    requests = [{"start": start}, *({"chunk": chunk} for chunk in chunks), {"end": {}}]
    events = list(client.call("SafetyService/GuardStream", requests))
    ended = events[-1].ended
    check(ended.released_bytes == ended.received_bytes == len(text), f"{ended}")
    whole = client.call("SafetyService/Classify", {"conversation": JUDGED}).verdict
    check(ended.verdict.label_mass == whole.label_mass, f"{ended.verdict} {whole}")
    kinds = [event.WhichOneof("event") for event in events]
    check(kinds.count("ended") == 1 and kinds.count("look") == ended.looks >= 1, f"events {kinds}")
    error = fails(
        grpc.StatusCode.INVALID_ARGUMENT, lambda: list(client.call("SafetyService/GuardStream", requests[1:]))
    )
    check(set(violations(status_of(error))) == {"chunk"}, f"{status_of(error)}")
    called("SafetyService/GuardStream")


def read_answer(events) -> tuple[str, list[int]]:
    """Checks Started, Delta*, Finished; returns the text and the tokens."""
    events = list(events)
    kinds = [event.WhichOneof("event") for event in events]
    check(kinds[0] == "started" and kinds[-1] == "finished", f"events {kinds}")
    check(set(kinds[1:-1]) <= {"delta"}, f"events {kinds}")
    text, tokens = "", []
    for event in events[1:-1]:
        check(event.delta.offset_bytes == len(text.encode()), f"offset {event.delta.offset_bytes} after {text!r}")
        text += event.delta.text
        tokens += event.delta.token_ids
    finished = events[-1].finished
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    check(finished.text_digest == digest, f"text_digest {finished.text_digest}, expected {digest}")
    check(finished.usage.prompt_tokens == events[0].started.prompt_tokens, f"{finished.usage}")
    check(finished.finish_reason != 0, "no finish reason")
    return text, tokens


def check_generate(client: Client) -> None:
    text, tokens = read_answer(client.call("GenerationService/Generate", GREEDY))
    check(text and len(tokens) <= 12, f"{len(tokens)} tokens: {text!r}")
    seeded = {"text": "Once upon a time", "sampling": {"seed": "7"}, "stopping": {"max_new_tokens": 12}}
    drawn = read_answer(client.call("GenerationService/Generate", seeded))
    check(read_answer(client.call("GenerationService/Generate", seeded)) == drawn, "the same seed, other tokens")
    raw = {"token_ids": {"ids": tokens}, "stopping": {"max_new_tokens": 1}}
    read_answer(client.call("GenerationService/Generate", raw))

    wrong = {"text": "x", "sampling": {"temperature": 9}, "stopping": {"max_new_tokens": 99999}}
    error = fails(
        grpc.StatusCode.INVALID_ARGUMENT, lambda: list(client.call("GenerationService/Generate", wrong))
    )
    status = status_of(error)
    check(status.code == INVALID_ARGUMENT and status.message == error.details(), f"{status}")
    fields = violations(status)
    check(set(fields) == {"sampling.temperature", "stopping.max_new_tokens"}, f"violations {fields}")
    check(all(fields.values()) and error_info(status).reason, f"{status}")
    for field, description in fields.items():
        check(f"{field}: {description}" in error.details(), f"the message lacks {field}: {error.details()}")
    details = {detail["@type"].split("/")[-1]: detail for detail in decoded(client, status)["details"]}
    check(len(details["google.rpc.BadRequest"]["fieldViolations"]) == 2, f"{details}")
    check(details["google.rpc.ErrorInfo"]["reason"] == "INVALID_FIELDS", f"{details}")
    check(details["google.rpc.RequestInfo"]["requestId"], f"{details}")
    called("GenerationService/Generate")

    endless = {"text": "Once upon a time", "stopping": {"max_new_tokens": 1000}}
    requests = [
        {"id": "stopped", "generate": endless},
        {"id": "stopped", "cancel": {}},
        {"id": "answered", "generate": GREEDY, "timeout": "100s"},
        {"id": "bad", "generate": {}},
    ]
    events, errors = {}, {}
    for answer in client.call("GenerationService/GenerateStream", requests):
        if answer.WhichOneof("result") == "error":
            errors[answer.id] = answer.error.code
        else:
            events.setdefault(answer.id, []).append(answer.response)
    check(errors == {"stopped": CANCELLED, "bad": INVALID_ARGUMENT}, f"errors {errors}")
    check(read_answer(events["answered"]) == (text, tokens), "a stream changed the greedy answer")
    called("GenerationService/GenerateStream")


def check_score(client: Client) -> None:
    request = {
        "generate": {
            "conversation": QUESTION,
            "sampling": {"temperature": 1, "seed": "5"},
            "stopping": {"max_new_tokens": 8},
        },
        "samples": 2,
        "keep_text": True,
    }
    answer = client.call("ScoringService/Score", request)
    check([sample.seed for sample in answer.samples] == [5, 6], f"{answer}")
    check(answer.safe_count + answer.unsafe_count + answer.undetermined_count == 2, f"{answer}")
    for sample in answer.samples:
        digest = "sha256:" + hashlib.sha256(sample.text.encode()).hexdigest()
        check(sample.text_digest == digest, f"{sample}")
        check_verdict(sample.verdict)
    called("ScoringService/Score")

    requests = [
        {"id": "kept", "score": request},
        {"id": "digests", "score": {**request, "keep_text": False}},
        {"id": "bad", "score": {"generate": {}, "samples": 99}},
    ]
    answers = {item.id: item for item in client.call("ScoringService/ScoreStream", requests)}
    check(set(answers) == {"kept", "digests", "bad"}, f"{sorted(answers)}")
    check(answers["bad"].error.code == INVALID_ARGUMENT, f"{answers['bad']}")
    check("score.samples" in violations(answers["bad"].error), f"{violations(answers['bad'].error)}")
    expected = [sample.text_digest for sample in answer.samples]
    for name in ("kept", "digests"):
        got = [sample.text_digest for sample in answers[name].response.samples]
        check(got == expected, f"{name}: the same seeds, other texts")
    check(not any(sample.text for sample in answers["digests"].response.samples), "text came back unasked")
    called("ScoringService/ScoreStream")


def check_quality(client: Client) -> None:
    pairs = [
        {"id": "good", "source": "How do I bake bread?", "translation": "Wie backe ich Brot?"},
        {"id": "bad", "source": "How do I bake bread?"},
    ]
    answer = client.call("QualityService/EstimateQuality", {"pairs": pairs})
    check([result.id for result in answer.results] == ["good", "bad"], f"order {answer}")
    check(answer.metric != 0 and answer.provenance.model_digest.startswith("sha256:"), f"{answer}")
    alone = client.call("QualityService/EstimateQuality", {"pairs": pairs[:1]})
    score = answer.results[0].estimate.score
    check(score == alone.results[0].estimate.score, f"company changed a score: {answer} {alone}")
    error = answer.results[1].error
    check(error.code == INVALID_ARGUMENT, f"{error}")
    check(set(violations(error)) == {"pairs[1].translation"}, f"{violations(error)}")
    called("QualityService/EstimateQuality")


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    client = Client(sys.argv[1])
    steps = (
        check_reflection, check_health, check_admin, check_models, check_classify, check_guard_stream, check_policies,
        check_generate, check_score, check_quality,
    )
    for step in steps:
        step(client)
    every = {method for service in SERVICES for method in client.methods(service)}
    check(CALLED == every, f"never called: {sorted(every - CALLED)}")
    print(f"all {len(every)} RPCs answered", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
