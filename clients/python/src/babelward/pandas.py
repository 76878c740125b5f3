"""Judges the rows of a data frame. Needs pandas: `pip install babelward[pandas]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import pandas as pd
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("babelward.pandas needs pandas: pip install 'babelward[pandas]'") from missing

from . import v1
from .errors import BabelwardError, CallError, ProtocolError
from .verdicts import label_name, unsafe_score

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from .client import Client

#: The columns of the result, in their order.
COLUMNS = ("label", "unsafe_score", "label_mass", "categories", "error")


def classify_frame(
    frame: pd.DataFrame,
    client: Client,
    *,
    text_column: Hashable,
    prompt_column: Hashable | None = None,
    request: v1.ClassifyRequest | None = None,
    window: int = 64,
) -> pd.DataFrame:
    """Judges each row, and returns a frame with the same index in the same order.

    A row's text is judged as a user's message or, with `prompt_column`, as the answer to the prompt of that column. `request`
    has everything else, such as the model and the policy. The columns of the result:

    - label: `safe`, `unsafe`, `undetermined` or `controversial`; missing where there is no verdict, and never safe for that;
    - unsafe_score, 0 to 1, and label_mass; NaN where there is none;
    - categories: the list of those that the guard named;
    - error: why a row has no verdict, as text; missing where it has one.

    A row without a text has an error and is not sent. Where the stream itself fails, rows that are not answered have its
    error. It is raised if no row was answered, because then something is wrong with all of them.
    """
    columns = [text_column] if prompt_column is None else [prompt_column, text_column]
    present: list[Hashable] = list(frame.columns)
    for column in columns:
        if present.count(column) != 1:
            raise KeyError(f"{present.count(column)} columns of the frame are called {column!r}, not one")
    # By position: an index may have the same label twice.
    texts = list(zip(*(frame[column].tolist() for column in columns), strict=True))
    rows: dict[int, dict[str, object]] = {}

    def items() -> Iterator[tuple[str, v1.ClassifyRequest]]:
        for position, row in enumerate(texts):
            unusable = [
                column
                for column, text in zip(columns, row, strict=True)
                if not isinstance(text, str) or not text
            ]
            if unusable:
                rows[position] = _failed(f"no text in the column {unusable[0]!r}")
                continue
            yield str(position), _request(request, row)

    answered = False
    try:
        for id, result in client.classify_stream(items(), window=window):
            answered = True
            rows[int(id)] = _row(result)
    except BabelwardError as error:
        if not answered:
            raise
        for position in range(len(texts)):
            rows.setdefault(position, _failed(str(error)))
    result_rows = [rows[position] for position in range(len(texts))]
    judged = pd.DataFrame(result_rows, columns=list(COLUMNS), index=frame.index)
    return judged.astype(
        {"label": "string", "unsafe_score": "float64", "label_mass": "float64", "error": "string"}
    )


def _request(template: v1.ClassifyRequest | None, texts: tuple[str, ...]) -> v1.ClassifyRequest:
    request = v1.ClassifyRequest()
    if template is not None:
        request.CopyFrom(template)
    # Messages of the template come before those of the row.
    roles = (v1.ROLE_USER, v1.ROLE_ASSISTANT)
    for role, text in zip(roles, texts, strict=False):
        request.conversation.messages.add(role=role, content=text)
    return request


def _row(result: v1.ClassifyResponse | CallError) -> dict[str, object]:
    if isinstance(result, CallError):
        return _failed(str(result))
    if not result.HasField("verdict"):
        return _failed("classifiers alone have answered, without a verdict")
    try:
        return _judged(result.verdict)
    except ProtocolError as unknown:
        return _failed(str(unknown))


def _judged(verdict: v1.Verdict) -> dict[str, object]:
    return {
        "label": label_name(verdict.label),
        "unsafe_score": unsafe_score(verdict),
        "label_mass": verdict.label_mass,
        "categories": [category.category for category in verdict.categories],
        "error": None,
    }


def _failed(error: str) -> dict[str, object]:
    return {"label": None, "unsafe_score": None, "label_mass": None, "categories": [], "error": error}
