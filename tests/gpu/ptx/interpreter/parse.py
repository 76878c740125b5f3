"""Reads PTX text, as NVRTC writes it, into entries with decoded operands.

The grammar is that of the "PTX ISA" manual, version 9.0, as far as NVRTC uses it for a translation unit without
device functions. A statement that this module does not understand is a `Fault` that quotes it.
"""

import dataclasses
import re

from .fault import Fault


@dataclasses.dataclass(frozen=True)
class Register:
    name: str


@dataclasses.dataclass(frozen=True)
class Immediate:
    """A constant: an integer as it stands in the text, or the bits of a float of `float_width` bits."""

    bits: int
    float_width: int = 0


@dataclasses.dataclass(frozen=True)
class Symbol:
    """The name of a variable or of a label."""

    name: str


@dataclasses.dataclass(frozen=True)
class Address:
    base: "Register | Symbol | Immediate"
    offset: int


@dataclasses.dataclass(frozen=True)
class Vector:
    items: tuple


@dataclasses.dataclass(frozen=True)
class WithPredicate:
    """`value|predicate`: two results of one instruction."""

    value: "Register"
    predicate: "Register"


@dataclasses.dataclass
class Instruction:
    text: str
    line: int
    name: str
    modifiers: tuple
    operands: list
    guard: "Register | None" = None
    guard_negated: bool = False

    def where(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclasses.dataclass
class Variable:
    name: str
    space: str
    alignment: int
    size: int
    data: bytes = b""


@dataclasses.dataclass
class Entry:
    name: str
    parameters: list
    threads: int = 0
    instructions: list = dataclasses.field(default_factory=list)
    labels: dict = dataclasses.field(default_factory=dict)
    register_types: dict = dataclasses.field(default_factory=dict)
    variables: list = dataclasses.field(default_factory=list)
    branch_tables: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Module:
    target: str
    entries: dict
    variables: list


VARIABLE = re.compile(
    r"\.(?P<space>shared|local|const|global|param)\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>[a-z]+)(?P<width>\d+)\s+"
    r"(?P<name>[\w$%]+)\s*(?:\[(?P<count>\d*)\])?\s*(?:=\s*(?P<data>.*))?$",
    re.S,
)
GUARDED = re.compile(r"(?:@(!?)([%\w$]+)\s+)?([a-z][\w]*)((?:\.[\w:]+)*)\s*(.*)$", re.S)
REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)$", re.S)
RANGE = re.compile(r"([%\w$]+)<(\d+)>$")


def parse(text: str) -> Module:
    text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found.group().count("\n"), text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    target = re.search(r"\.target\s+(\w+)", text)
    module = Module(target.group(1) if target else "", {}, [])
    at = 0
    for header in re.finditer(r"\.entry\s+([\w$]+)\s*\((.*?)\)([^{]*)\{", text, re.S):
        module.variables += module_variables(text[at : header.start()])
        end = matching_brace(text, header.end() - 1)
        line = text.count("\n", 0, header.end()) + 1
        entry = Entry(header.group(1), parameters(header.group(2)), threads_of(header.group(3)))
        Body(entry).read(text[header.end() : end], line)
        module.entries[entry.name] = entry
        at = end + 1
    module.variables += module_variables(text[at:])
    return module


def matching_brace(text: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return at
    raise Fault("the PTX text ends inside of an entry")


def module_variables(text: str) -> list:
    found = []
    for statement in text.split(";"):
        statement = re.sub(r"\.(version|target|address_size)\s+[^\n]*", "", statement)
        statement = re.sub(r"\.(extern|visible|weak)\b", "", statement).strip()
        if statement:
            found.append(variable(statement))
    return found


def variable(statement: str) -> Variable:
    parts = VARIABLE.match(statement)
    if not parts:
        raise Fault(f"a declaration that the interpreter does not know: {statement}")
    width = int(parts["width"]) // 8
    count = parts["count"]
    size = width * (1 if count is None else int(count or 0))
    data = b""
    if parts["data"]:
        values = [int(value, 0) for value in re.findall(r"-?\w+", parts["data"])]
        data = b"".join((value & (2 ** (8 * width) - 1)).to_bytes(width, "little") for value in values)
    return Variable(parts["name"], parts["space"], int(parts["align"] or width), size, data)


def parameters(text: str) -> list:
    return [variable(declaration.strip()) for declaration in text.split(",") if declaration.strip()]


def threads_of(directives: str) -> int:
    limits = re.search(r"\.(?:maxntid|reqntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", directives)
    if not limits:
        return 0
    threads = 1
    for dimension in limits.groups():
        threads *= int(dimension or 1)
    return threads


class Body:
    """Reads the statements of one entry. Inline assembly may open scopes with registers of their own."""

    def __init__(self, entry: Entry):
        self.entry = entry
        self.scopes = [{}]
        self.scopes_seen = 0

    def read(self, text: str, line: int) -> None:
        statement, depth = "", 0
        for character in text:
            if character == ";" and depth == 0:
                self.statement(statement.strip(), line)
                statement = ""
            elif character == "{" and not statement.strip():
                self.scopes_seen += 1
                self.scopes.append({})
            elif character == "}" and not statement.strip():
                self.scopes.pop()
            elif character == ":" and re.fullmatch(r"\s*[$\w]+", statement):
                self.label = statement.strip()
                self.entry.labels[self.label] = len(self.entry.instructions)
                statement = ""
            else:
                depth += (character == "{") - (character == "}")
                statement += character
            line += character == "\n"
        if statement.strip():
            raise Fault(f"an entry ends inside of a statement: {statement.strip()}")

    def statement(self, text: str, line: int) -> None:
        text = " ".join(text.split())
        if text.startswith(".reg"):
            self.declare(text)
        elif text.startswith((".local", ".shared")):
            self.entry.variables.append(variable(text))
        elif text.startswith(".branchtargets"):
            targets = text.removeprefix(".branchtargets").split(",")
            self.entry.branch_tables[self.label] = [target.strip() for target in targets]
        elif text.startswith(".") and not text.startswith((".pragma", ".loc", ".file")):
            raise Fault(f"line {line}: a directive that the interpreter does not know: {text}")
        elif text and not text.startswith("."):
            self.entry.instructions.append(self.instruction(text, line))

    def declare(self, text: str) -> None:
        kind, names = REGISTERS.match(text).groups()
        for name in (name.strip() for name in names.split(",")):
            counted = RANGE.match(name)
            for single in [f"{counted[1]}{i}" for i in range(int(counted[2]))] if counted else [name]:
                unique = single if len(self.scopes) == 1 else f"{single}@{self.scopes_seen}"
                self.scopes[-1][single] = unique
                self.entry.register_types[unique] = kind

    def instruction(self, text: str, line: int) -> Instruction:
        parts = GUARDED.match(text)
        if not parts:
            raise Fault(f"line {line}: a statement that the interpreter does not know: {text}")
        negated, guard, name, modifiers, operands = parts.groups()
        return Instruction(
            text=text,
            line=line,
            name=name,
            modifiers=tuple(modifiers.split(".")[1:]),
            operands=[self.operand(operand) for operand in split_operands(operands)],
            guard=self.register(guard) if guard else None,
            guard_negated=negated == "!",
        )

    def register(self, name: str) -> "Register | Symbol":
        for scope in reversed(self.scopes):
            if name in scope:
                return Register(scope[name])
        # Special registers (%tid.x) have a per cent sign and are declared by nobody.
        return Register(name) if name.startswith("%") else Symbol(name)

    def operand(self, text: str):
        if text.startswith("{"):
            return Vector(tuple(self.operand(item) for item in split_operands(text[1:-1])))
        if text.startswith("["):
            base, sign, offset = re.match(r"\[\s*([^\s+\-\]]+)\s*(?:([+-])\s*(-?\w+))?\s*\]$", text).groups()
            distance = int(offset, 0) if offset else 0
            return Address(self.operand(base), -distance if sign == "-" else distance)
        if "|" in text:
            value, predicate = text.split("|")
            return WithPredicate(self.register(value.strip()), self.register(predicate.strip()))
        if text.startswith("!"):
            return ("not", self.register(text[1:]))
        if text[:2] in ("0f", "0F"):
            return Immediate(int(text[2:], 16), 32)
        if text[:2] in ("0d", "0D"):
            return Immediate(int(text[2:], 16), 64)
        if re.match(r"-?\d", text):
            return Immediate(int(text.rstrip("U"), 0))
        return self.register(text)


def split_operands(text: str) -> list:
    parts, depth, part = [], 0, ""
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += character
    if part.strip():
        parts.append(part.strip())
    return parts
