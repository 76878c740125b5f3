"""Prompts of guards for conversations that begin with a system message, as their makers' own templates render them.

    pip install jinja2
    python tests/golden/guard_system.py

Writes tests/golden/guard_system.json. The source is guard_templates/qwen3guard_gen.jinja, the chat template of
Qwen/Qwen3Guard-Gen-0.6B, -4B and -8B (Apache-2.0). It is the only template of a guard here that takes a system message.
"""

import json
import pathlib

import jinja2

FOLDER = pathlib.Path(__file__).parent
SYSTEM = "You are the assistant of a bakery.\n"
CONVERSATIONS = [["How do I bake bread?"], ["Hello", "Hello!"], [" a ", "b", "c"]]


def main():
    qwen = jinja2.Environment().from_string((FOLDER / "guard_templates/qwen3guard_gen.jinja").read_text())
    cases = []
    for contents in CONVERSATIONS:
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
        messages = [{"role": "system", "content": SYSTEM}] + messages
        cases.append({"contents": contents, "prompt": qwen.render(messages=messages)})
    target = FOLDER / "guard_system.json"
    document = {"made_by": f"jinja2 {jinja2.__version__}", "system": SYSTEM, "cases": cases}
    target.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
