"""The examples of docs/python.md print what the page says that they print."""

import contextlib
import io
import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs/python.md"


def test_examples_print_what_the_page_says(server: str) -> None:
    blocks = re.findall(
        r"^```(python|text)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    names: dict[str, object] = {"__name__": "__main__"}
    printed = io.StringIO()
    said = 0
    for kind, block in blocks:
        if kind == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.replace("127.0.0.1:50051", server), PAGE, "exec"), names)
        else:
            assert printed.getvalue() == block
            said += 1
    assert said >= 8
