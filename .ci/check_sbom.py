#!/usr/bin/env python3
"""Checks a bill of materials that scripts/sbom has printed.

usage: check_sbom.py BILL TOOLS      TOOLS is the folder with the packages of .ci/requirements.txt

It must be valid by CycloneDX' own schema, name each crate once with a licence and with Cargo.lock's digest, hold what is
known to be linked, and hold nothing of tests and builds. A second pass plants a mistake for each of these checks, which
must be found.
"""

import copy
import json
import pathlib
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINKED = {"tokio", "h2", "rustls", "ring", "tokenizers", "prost", "rust-std"}
# Of tests; of the build; a procedural macro; of a feature that is off.
NOT_LINKED = {"proptest", "protox", "serde_derive", "candle-core"}


def schema_of(tools: pathlib.Path):
    """What raises an exception for a document that CycloneDX 1.6 does not allow."""
    import fastjsonschema

    folder = tools / "cyclonedx/schema/_res"

    def read(name: str) -> dict:
        return json.loads((folder / name).read_text())

    def referred(address: str) -> dict:
        return read(address.rsplit("/", 1)[1])

    handlers = {"http": referred, "https": referred}
    return fastjsonschema.compile(read("bom-1.6.SNAPSHOT.schema.json"), handlers=handlers), fastjsonschema.JsonSchemaException


def mistakes(bill: dict, validate, invalid) -> list[str]:
    """Everything that is wrong with a bill."""
    try:
        validate(copy.deepcopy(bill))
    except invalid as error:
        return [f"not CycloneDX 1.6: {error}"]
    found = []
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    digests = {f"{package['name']} {package['version']}": package.get("checksum") for package in lock["package"]}
    names = [component["name"] for component in bill["components"]]
    found += [f"{name} is linked and not in the bill" for name in sorted(LINKED - set(names))]
    found += [f"{name} is in the bill and not linked" for name in sorted(NOT_LINKED & set(names))]
    references = [component["bom-ref"] for component in bill["components"]]
    found += [f"{one} is there twice" for one in sorted({one for one in references if references.count(one) > 1})]
    for component in bill["components"]:
        name = f"{component['name']} {component['version']}"
        if not component.get("licenses"):
            found.append(f"{name} has no licence")
        if name.startswith("rust-std "):
            continue
        content = [digest["content"] for digest in component.get("hashes", [])]
        if content != [digests.get(name)]:
            found.append(f"{name} has not the digest of Cargo.lock")
    known = {bill["metadata"]["component"]["bom-ref"], *references}
    edges = {edge["ref"]: edge["dependsOn"] for edge in bill["dependencies"]}
    found += [f"{one} has no list of what it uses" for one in sorted(known - set(edges))]
    found += [f"{one} uses what is not in the bill" for one, used in edges.items() if not known.issuperset(used)]
    return found


def planted(bill: dict):
    """Bills with one mistake each."""

    def change(text: str, apply) -> tuple[str, dict]:
        changed = copy.deepcopy(bill)
        apply(changed)
        return text, changed

    crate = next(index for index, component in enumerate(bill["components"]) if component["name"] == "tokio")
    proptest = {"type": "library", "bom-ref": "x", "name": "proptest", "version": "1"}
    yield change("an unknown type", lambda changed: changed["components"][crate].update(type="crate"))
    yield change("an unknown field", lambda changed: changed["components"][crate].update(licence="MIT"))
    yield change("a crate without licence", lambda changed: changed["components"][crate].pop("licenses"))
    yield change("another digest", lambda changed: changed["components"][crate]["hashes"][0].update(content="0" * 64))
    yield change("a crate left out", lambda changed: changed["components"].pop(crate))
    yield change("a crate of tests", lambda changed: changed["components"].append(proptest))
    yield change("a crate twice", lambda changed: changed["components"].append(copy.deepcopy(changed["components"][crate])))
    yield change("no edges", lambda changed: changed["dependencies"].clear())


def main() -> int:
    bill = json.loads(pathlib.Path(sys.argv[1]).read_text())
    tools = pathlib.Path(sys.argv[2])
    sys.path.insert(0, str(tools))
    validate, invalid = schema_of(tools)
    found = mistakes(bill, validate, invalid)
    found += [f"not found: {text}" for text, changed in planted(bill) if not mistakes(changed, validate, invalid)]
    for line in found:
        print(f"{sys.argv[1]}: {line}", file=sys.stderr)
    if not found:
        print(f"{len(bill['components'])} components, valid, and every planted mistake was found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
