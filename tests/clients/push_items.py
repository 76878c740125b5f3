#!/usr/bin/env python3
"""Pushes many short items to each of the three item streams, as fast as grpcio does, and reads the answers.

usage: push_items.py ADDRESS COUNT      e.g. 127.0.0.1:50051 5000

Fails when an item is not answered, is answered twice, or is answered with an error.
"""

import sys

from reflect import Client

CONVERSATION = {"messages": [{"role": "ROLE_USER", "content": "[mute]"}]}
GENERATE = {"conversation": CONVERSATION, "stopping": {"max_new_tokens": 1}}
STREAMS = {
    "SafetyService/ClassifyStream": {"classify": {"conversation": CONVERSATION}},
    "GenerationService/GenerateStream": {"generate": GENERATE},
    "ScoringService/ScoreStream": {"score": {"generate": GENERATE}},
}


def push(client: Client, path: str, item: dict, count: int) -> None:
    answered = set()
    requests = ({"id": str(index), **item} for index in range(count))
    for answer in client.call(path, requests, timeout=600):
        if answer.WhichOneof("result") == "error":
            raise AssertionError(f"{path}: item {answer.id}: {answer.error}")
        is_event = path.startswith("GenerationService") and answer.response.WhichOneof("event") != "finished"
        if is_event:
            continue
        if answer.id in answered:
            raise AssertionError(f"{path}: item {answer.id} was answered twice")
        answered.add(answer.id)
    if len(answered) != count:
        raise AssertionError(f"{path}: {len(answered)} of {count} items were answered")
    print(f"ok {path}", flush=True)


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    client = Client(sys.argv[1])
    for path, item in STREAMS.items():
        push(client, path, item, int(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
