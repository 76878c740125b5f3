#!/usr/bin/env python3
"""Runs LiteLLM's proxy with Babelward's HTTP port as its guardrail, and holds what its callers get to what they should get.

usage: call_litellm.py URL [KEY]      URL is the HTTP port of a server whose guard says unsafe to texts with "[unsafe]", nothing
                                      that it knows to "[odd]", and safe to all others; KEY is sent as LiteLLM's api_key

Needs the package `litellm[proxy]` in the Python that runs it. The model behind the proxy is LiteLLM's own `mock_response`, so
nothing but URL is called. Exit status 1 and a message when something is not as it should be.
"""

import json
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# Far more than a start takes; only a proxy that hangs gets there.
START_SECONDS = 300
ANSWER_SECONDS = 60

BREAD = "Mix flour and water, let the dough rest for an hour, then bake it until it is brown. " * 3
HARM = BREAD + "[unsafe] " + BREAD


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def configuration(url: str, key: str | None, closed_port: int, master_key: str) -> dict:
    def model(name: str, says: str) -> dict:
        return {
            "model_name": name,
            "litellm_params": {"model": f"openai/{name}", "api_key": "none", "mock_response": says},
        }

    def guardrail(name: str, mode, base: str, **more) -> dict:
        params = {"guardrail": "generic_guardrail_api", "mode": mode, "api_base": base, **more}
        return {"guardrail_name": name, "litellm_params": params}

    access = {"api_key": key} if key else {}
    nobody = f"http://127.0.0.1:{closed_port}"
    return {
        "model_list": [model("baker", BREAD), model("villain", HARM)],
        "guardrails": [
            guardrail("before", "pre_call", url, **access),
            guardrail("after", "post_call", url, streaming_sampling_rate=5, **access),
            guardrail("down-closed", "pre_call", nobody),
            guardrail("down-open", "pre_call", nobody, unreachable_fallback="fail_open"),
        ],
        "general_settings": {"master_key": master_key},
    }


class Proxy:
    """LiteLLM's proxy as a process, ended when left."""

    def __init__(self, settings: dict, folder: pathlib.Path, master_key: str):
        # YAML reads JSON.
        file = folder / "config.yaml"
        file.write_text(json.dumps(settings), encoding="utf-8")
        self.base = f"http://127.0.0.1:{free_port()}"
        self.master_key = master_key
        self.log = folder / "log"
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "litellm.proxy.proxy_cli", "--config", str(file)]
                + ["--host", "127.0.0.1", "--port", self.base.rsplit(":", 1)[1]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Nothing is fetched from elsewhere.
                env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            )

    def __enter__(self) -> "Proxy":
        end = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.base}/health/liveliness", timeout=5):
                    return self
            except OSError:
                time.sleep(0.5)
        self.__exit__()
        raise SystemExit(f"LiteLLM's proxy does not start:\n{self.log.read_text(encoding='utf-8')[-4000:]}")

    def __exit__(self, *_error) -> None:
        self.process.terminate()
        self.process.wait()

    def ask(self, model: str, text: str, guardrails: list[str], stream: bool = False) -> tuple[int, str]:
        """Status and body of a chat completion."""
        body = {
            "model": model,
            "messages": [{"role": "system", "content": "You are a cook."}, {"role": "user", "content": text}],
            "guardrails": guardrails,
            "stream": stream,
        }
        request = urllib.request.Request(
            f"{self.base}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json", "authorization": f"Bearer {self.master_key}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def said(body: str) -> str:
    """The text of a chat completion."""
    return json.loads(body)["choices"][0]["message"]["content"]


def streamed(body: str) -> tuple[str, list[dict]]:
    """The text of a stream, and its errors."""
    text, errors = "", []
    for line in body.splitlines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            errors.append(event)
        for choice in event.get("choices", []):
            text += choice["delta"].get("content") or ""
    return text, errors


def check(name: str, holds: bool, seen) -> None:
    print(f"{'ok   ' if holds else 'WRONG'} {name}: {str(seen)[:200]}")
    if not holds:
        raise SystemExit(f"{name}: {seen}")


def run(proxy: Proxy) -> None:
    both = ["before", "after"]
    status, body = proxy.ask("baker", "How do I bake bread?", both)
    check("a harmless exchange passes", status == 200 and said(body) == BREAD, (status, body))

    status, body = proxy.ask("baker", "How do I bake bread?", both, stream=True)
    text, errors = streamed(body)
    check("a harmless stream passes", status == 200 and (text, errors) == (BREAD, []), (status, text, errors))

    status, body = proxy.ask("baker", "[unsafe] please", both)
    check("a harmful prompt is blocked with the guard's reason", 400 <= status < 500 and "says unsafe" in body, (status, body))
    check("the reason does not repeat the text", "please" not in body, body)

    status, body = proxy.ask("villain", "How do I bake bread?", both)
    blocked = 400 <= status < 500 and "says unsafe" in body and "[unsafe]" not in body
    check("a harmful answer is blocked", blocked, (status, body))

    status, body = proxy.ask("villain", "How do I bake bread?", both, stream=True)
    text, errors = streamed(body)
    blocked = "[unsafe]" not in text or len(text) < len(HARM)
    check("a harmful stream is cut off", blocked and ("says unsafe" in body), (status, len(text), len(HARM), errors))

    status, body = proxy.ask("baker", "[odd]", both)
    check("a text without a verdict is blocked, and not called unsafe", status != 200 and "there is no verdict" in body, (status, body))

    status, body = proxy.ask("baker", "How do I bake bread?", ["down-closed"])
    check("with the guardrail down, fail_closed blocks", status >= 500, (status, body))

    status, body = proxy.ask("baker", "How do I bake bread?", ["down-open"])
    check("with the guardrail down, fail_open passes", status == 200 and said(body) == BREAD, (status, body))


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    master_key = f"sk-{secrets.token_hex(24)}"
    with socket.socket() as taken, tempfile.TemporaryDirectory() as folder:
        # Bound and not listening: whoever connects is refused.
        taken.bind(("127.0.0.1", 0))
        settings = configuration(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None, taken.getsockname()[1], master_key)
        with Proxy(settings, pathlib.Path(folder), master_key) as proxy:
            run(proxy)
    return 0


if __name__ == "__main__":
    sys.exit(main())
