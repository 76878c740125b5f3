"""NVRTC by ctypes: compiles CUDA C++ to PTX and to machine code, without a driver or a card."""

import ctypes
import dataclasses
import pathlib


class CompileError(Exception):
    """NVRTC refused a source; the text has its log."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    ptx: str
    cubin: bytes
    log: str


@dataclasses.dataclass(frozen=True)
class Source:
    name: str
    text: str
    headers: dict


def options(architecture: str, definitions: tuple = ()) -> list:
    """What babelward gives NVRTC, and a report of ptxas in the log."""
    fixed = ["--std=c++17", "--fmad=false", f"--gpu-architecture=sm_{architecture}"]
    return fixed + [f"-D{definition}" for definition in definitions] + ["--ptxas-options=-v"]


class Nvrtc:
    def __init__(self, packages: pathlib.Path):
        folder = packages / "nvidia" / "cu13" / "lib"
        # NVRTC opens its builtins by name; it finds them because they are loaded already.
        self.builtins = ctypes.CDLL(str(next(folder.glob("libnvrtc-builtins.so.*"))), ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(next(folder.glob("libnvrtc.so.*"))))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def version(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def compile(self, source: Source, arguments: list) -> Compiled:
        program = ctypes.c_void_p()
        names = (ctypes.c_char_p * len(source.headers))(*[name.encode() for name in source.headers])
        texts = (ctypes.c_char_p * len(source.headers))(*[text.encode() for text in source.headers.values()])
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            source.text.encode(),
            source.name.encode(),
            len(source.headers),
            texts,
            names,
        )
        try:
            given = (ctypes.c_char_p * len(arguments))(*[argument.encode() for argument in arguments])
            status = self.library.nvrtcCompileProgram(program, len(arguments), given)
            log = self._text(program, "ProgramLog").decode(errors="replace")
            if status != 0:
                raise CompileError(f"NVRTC cannot compile {source.name} with {' '.join(arguments)}:\n{log}")
            ptx = self._text(program, "PTX").decode()
            return Compiled(ptx, self._text(program, "CUBIN"), log)
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(size.value, 1))
        self._call(f"nvrtcGet{what}", program, buffer)
        # Texts end with a zero byte that counts; machine code does not.
        return buffer.raw[: size.value] if what == "CUBIN" else buffer.value

    def _call(self, function: str, *arguments) -> None:
        status = getattr(self.library, function)(*arguments)
        if status != 0:
            raise CompileError(f"{function}: {self.library.nvrtcGetErrorString(status).decode()}")
