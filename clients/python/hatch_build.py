"""Makes the modules of babelward/v1 out of proto/babelward/v1 while the wheel is built.

The repository holds the proto files alone, so that messages and client cannot differ. protoc comes from grpcio-tools, and the
types of the messages and stubs from mypy-protobuf.
"""

import os
import pathlib
import shutil
import sys
import tempfile
from importlib import resources
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def type_plugin(name: str) -> str:
    """The path of a protoc plugin of mypy-protobuf."""
    beside = pathlib.Path(sys.executable).parent
    found = shutil.which(name, path=os.pathsep.join([str(beside), os.environ.get("PATH", "")]))
    if found is None:
        raise FileNotFoundError(f"{name} is not on the PATH: it comes with the package mypy-protobuf")
    return found


def generate(folder: pathlib.Path) -> list[pathlib.Path]:
    """Runs protoc on every proto file of ours, and returns what it wrote."""
    protos = REPOSITORY / "proto"
    files = sorted(str(path) for path in (protos / "babelward/v1").glob("*.proto"))
    if not files:
        raise FileNotFoundError(
            f"no proto files in {protos}: the wheel is built from a clone of the whole repository"
        )
    known_types = str(resources.files("grpc_tools") / "_proto")
    status = protoc.main(
        [
            "protoc",
            f"--plugin=protoc-gen-mypy={type_plugin('protoc-gen-mypy')}",
            f"--plugin=protoc-gen-mypy_grpc={type_plugin('protoc-gen-mypy_grpc')}",
            f"--proto_path={protos}",
            f"--proto_path={known_types}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            f"--mypy_out=quiet:{folder}",
            f"--mypy_grpc_out=quiet:{folder}",
            *files,
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc ended with {status}: its message is above")
    return sorted(path for path in folder.rglob("*") if path.is_file())


class GeneratedModules(BuildHookInterface[Any]):
    """Adds the generated modules, and the licence, to the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="babelward-protos-"))
        for path in generate(self.folder):
            build_data["force_include"][str(path)] = str(path.relative_to(self.folder))
        build_data["force_include"][str(REPOSITORY / "LICENSE")] = "babelward/LICENSE"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
