#!/usr/bin/env python3
"""Validates the objects of others' kinds by the definitions (CRDs) of the projects that they belong to.

usage: PYTHONPATH=PACKAGES against_crds.py FOLDER      FOLDER has the definitions as YAML files

Fields that a definition does not have are reported too, except where it says that it keeps them.
"""

import pathlib
import sys

import jsonschema
import yaml

import schemas
import tools
from model import name_of


def strict(schema):
    """The schema, without room for fields that it does not name."""
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if "items" in made:
        made["items"] = strict(schema["items"])
    if isinstance(schema.get("properties"), dict):
        made["properties"] = {key: strict(value) for key, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return made


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    definitions = {}
    for file in sorted(pathlib.Path(sys.argv[1]).glob("*.yaml")):
        for crd in yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader):
            for version in crd["spec"]["versions"]:
                kind = (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"])
                definitions[kind] = version["schema"]["openAPIV3Schema"]
    bad = 0
    for folder in tools.FOLDERS:
        for thing in tools.objects(folder):
            kind = (thing["apiVersion"], thing["kind"])
            if kind not in schemas.SPECS:
                continue
            if kind not in definitions:
                print(f"not checked: {folder}: {name_of(thing)}, because {sys.argv[1]} has no definition of it")
                continue
            schema = strict(definitions[kind])
            schema["properties"]["metadata"] = {"type": "object"}
            errors = list(jsonschema.Draft202012Validator(schema).iter_errors(thing))
            bad += len(errors)
            print(
                f"{'bad' if errors else 'good'}: {folder}: {name_of(thing)}",
                *[f"  {e.json_path}: {e.message}" for e in errors],
                sep="\n",
            )
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
