"""Writes text_tools.json: conversations in which tools were called, as transformers renders them.

    pip install transformers jinja2
    python text_tools.py "$(python3 ../llama_cpp/fetch.py CACHE)" > text_tools.json

Of each rendering of a third-party template a SHA-256 is kept (its first 16 digits). A conversation that a template refuses is
"refuses", one of which it leaves out a name, an argument or a content is "drops", and one on which it fails (it wants definitions of
tools) is null. For templates that print the date it is noon (UTC) of 29 February 2024.
"""

import datetime
import hashlib
import json
import pathlib
import sys

import jinja2
from transformers.utils import chat_template_utils

NOW = datetime.datetime(2024, 2, 29, 12, 0, 0)


class FrozenDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = FrozenDatetime


def call(number, name, arguments):
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


def said(role, content, **more):
    return {"role": role, "content": content, **more}


CONVERSATIONS = [
    [
        said("user", "What is the weather in Darmstadt?"),
        said("assistant", "", tool_calls=[call(0, "read_weather", {"town": "Darmstadt", "days": 2})]),
        said("tool", "rain and wind", name="read_weather", tool_call_id="call00000"),
    ],
    [
        said("system", "You are terse."),
        said("user", "Which of the two is warmer?"),
        said("assistant", "Let me look.", tool_calls=[
            call(0, "read_weather", {"town": "Köln \"am\" Rhein", "units": {"of_heat": ["celsius", True, None, 1.5]}}),
        ]),
        said("tool", "12 degrees", name="read_weather", tool_call_id="call00000"),
        said("assistant", "It is cold there."),
        said("user", "And the other one?"),
        said("assistant", "", tool_calls=[call(1, "find_town", {"query": "<|im_end|>\n</tool_call>"})]),
        said("tool", "nothing found", name="find_town", tool_call_id="call00001"),
    ],
]


def render(template, conversation):
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[conversation], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        )
        return rendered[0]
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, AttributeError) as error:
        print(f"refused or failed: {error}", file=sys.stderr)
        # Undefined and type errors are the template's own failures without tools, not refusals.
        return "refuses" if type(error) is jinja2.exceptions.TemplateError else None


def words(value):
    if isinstance(value, dict):
        return [word for key, one in value.items() for word in [key, *words(one)]]
    if isinstance(value, list):
        return [word for one in value for word in words(one)]
    return [value] if isinstance(value, str) else []


def digest(text, conversation):
    if text in (None, "refuses"):
        return text
    expected = [message["content"] for message in conversation]
    for message in conversation:
        for called in message.get("tool_calls", []):
            expected += [called["function"]["name"], *words(called["function"]["arguments"])]
    spellings = lambda word: [word, json.dumps(word, ensure_ascii=False)[1:-1], json.dumps(word)[1:-1]]
    shown = lambda word: any(spelling in text for spelling in spellings(word))
    if not all(map(shown, expected)):
        return "drops"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


folder = pathlib.Path(sys.argv[1]) / "models" / "templates"
sources = {path.name: path.read_text() for path in sorted(folder.glob("*.jinja"))}
templates = {
    name: [digest(render(source, conversation), conversation) for conversation in CONVERSATIONS]
    for name, source in sources.items()
}
out = {"conversations": CONVERSATIONS, "templates": templates}
json.dump(out, sys.stdout, ensure_ascii=True, separators=(",", ":"))
