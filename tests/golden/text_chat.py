"""Writes text_chat.json: chat templates as transformers renders them.

    pip install transformers jinja2 gguf
    python text_chat.py SmolLM2-135M-Instruct.Q4_1.gguf LLAMA_CPP_SOURCE > text_chat.json

SmolLM2's renderings are written out. Of the third-party templates in LLAMA_CPP_SOURCE/models/templates only a
SHA-256 of each rendering is kept; a conversation that a template refuses has the digest null, and one on which
it fails (it wants tools) is left out.
"""

import hashlib
import json
import pathlib
import sys

import jinja2
from gguf import GGUFReader
from transformers.utils.chat_template_utils import render_jinja_template


def message(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = [
    [message("user", "Hi")],
    [message("system", "You are terse."), message("user", "How do I bake bread?")],
    [message("user", "  Wie geht's?\n"), message("assistant", "Gut."), message("user", "Schön ✓")],
    [message("system", " S \n"), message("user", "a\n\nb"), message("assistant", "\tc "), message("user", "<b>d</b> {{ x }}")],
]


def render(template, conversation, answer, bos, eos):
    try:
        rendered, _ = render_jinja_template(
            conversations=[conversation], chat_template=template, add_generation_prompt=answer, bos_token=bos, eos_token=eos
        )
        return rendered[0]
    except jinja2.exceptions.TemplateError as error:
        # Undefined and type errors are the template's own failures without tools, not refusals.
        if type(error) is not jinja2.exceptions.TemplateError:
            raise
        print(f"refused: {error}", file=sys.stderr)
        return None


def cases(template, bos, eos, show):
    for index, conversation in enumerate(CONVERSATIONS):
        for answer in (True, False):
            try:
                yield index, answer, show(render(template, conversation, answer, bos, eos))
            except (TypeError, jinja2.exceptions.UndefinedError) as error:
                print(f"failed: {error}", file=sys.stderr)


def digest(text):
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def main():
    template = GGUFReader(sys.argv[1]).fields["tokenizer.chat_template"].contents()
    smollm2 = list(cases(template, "<|im_start|>", "<|im_end|>", lambda text: text))
    folder = pathlib.Path(sys.argv[2]) / "models" / "templates"
    sources = {path.name: path.read_text() for path in sorted(folder.glob("*.jinja"))}
    # A template that prints today's date has no lasting digest.
    others = {
        name: list(cases(source, "<s>", "</s>", digest)) for name, source in sources.items() if "strftime_now" not in source
    }
    out = {"conversations": CONVERSATIONS, "smollm2": smollm2, "templates": others}
    json.dump(out, sys.stdout, ensure_ascii=True, separators=(",", ":"))
    print()


main()
