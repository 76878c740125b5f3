#!/usr/bin/env python3
"""Checks the folder that `babelward demo --out FOLDER` has written, whichever of its two guards has judged.

usage: check_demo.py FOLDER PROMPTS      PROMPTS is how many prompts the run had, over all languages
"""

import collections
import json
import pathlib
import re
import sys

LANGUAGES = {"en", "de", "es", "fr", "it"}
LABELS = ("safe", "unsafe", "undetermined")
# What a guard calls controversial counts as unsafe in a run that does not say otherwise.
COUNTED_AS = {label: label for label in LABELS} | {"controversial": "unsafe"}
# Who judges, by run.json's kind: what report.html says of it.
KINDS = {"mechanism_demo": "safety judgement", "demo": "trained as a guard"}


def check(condition, message) -> None:
    """An assertion that `python -O` keeps."""
    if not condition:
        sys.exit(f"check_demo: {message}")


def counts_of(value):
    """Every object in a JSON document that counts all four outcomes."""
    if isinstance(value, dict):
        if all(isinstance(value.get(name), int) for name in (*LABELS, "failed")):
            yield {name: value[name] for name in (*LABELS, "failed")}
        for inner in value.values():
            yield from counts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from counts_of(inner)


def check_results(folder: pathlib.Path, prompts: int) -> collections.Counter:
    """Every prompt has one line, and the languages are parallel."""
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    check(len(records) == prompts, f"results.jsonl has {len(records)} lines, expected {prompts}")
    by_language = collections.defaultdict(set)
    outcomes = collections.Counter()
    for record in records:
        by_language[record["language"]].add(record["id"])
        answer = record["outcome"].get("answered")
        # The demo has one guard, so each answer has one verdict.
        judged = answer["verdicts"][0].get("judged") if answer else None
        if judged is None:
            outcomes["failed"] += 1
            print(f"failed: {record['id']} {record['language']}: {record['outcome']}")
            continue
        check(judged["label"] in COUNTED_AS, f"label {judged['label']}")
        outcomes[COUNTED_AS[judged["label"]]] += 1
        check(0 <= judged["label_mass"] <= 1, f"label_mass {judged['label_mass']}")
        check(answer["tokens"]["completion"] > 0, f"an answer without tokens: {record}")
        check(judged["tokens"]["prompt"] > 200, f"a guard prompt without its policy: {record}")
    check(set(by_language) == LANGUAGES, f"languages {sorted(by_language)}")
    check(len({frozenset(ids) for ids in by_language.values()}) == 1, "the languages have different prompts")
    # On loopback and with no other load nothing may fail.
    check(outcomes["failed"] == 0, f"{outcomes['failed']} prompts failed")
    return outcomes


def check_summary(folder: pathlib.Path, outcomes: collections.Counter) -> None:
    """The counts of summary.json are those of results.jsonl."""
    summary = json.loads((folder / "summary.json").read_text())
    expected = {name: outcomes[name] for name in (*LABELS, "failed")}
    found = list(counts_of(summary))
    check(expected in found, f"summary.json has no total of {expected} among {found}")


def check_report(folder: pathlib.Path) -> None:
    """report.html is one file: it loads nothing, and it says what kind of verdicts these are, as run.json does."""
    kind = json.loads((folder / "run.json").read_text())["settings"]["kind"]
    check(kind in KINDS, f"run.json has the kind {kind}")
    report = (folder / "report.html").read_text()
    check("</html>" in report, "report.html is not complete")
    loads = re.findall(r"""(?:\bsrc|\bsrcset|\bdata|\bposter|\baction)\s*=\s*["']?(?!data:|#)[^"'\s>]+""", report)
    loads += re.findall(r"<(?:link|iframe|object|embed|base)\b[^>]*", report)
    loads += re.findall(r"url\(\s*(?!['\"]?(?:data:|#))[^)]*\)|@import[^;]*|\bfetch\(|XMLHttpRequest", report)
    check(not loads, f"report.html loads {loads[:5]}")
    check(KINDS[kind] in report, f"report.html does not say what the verdicts of a {kind} are")


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, prompts = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    outcomes = check_results(folder, prompts)
    check_summary(folder, outcomes)
    check_report(folder)
    print(f"{folder.name}: {prompts} prompts, " + ", ".join(f"{outcomes[name]} {name}" for name in (*LABELS, "failed")))


if __name__ == "__main__":
    main()
