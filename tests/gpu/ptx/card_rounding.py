"""How far attention is from the emulator's when a card rounds in its own way: what self-tests on a card must allow.

Whole and split attention must have equal bits whatever a card's rounding is, since both do the same in the same order.
"""

import numpy as np

from case import Case, emulate, interpret
from cases import attention
from interpreter import Fault, LikeACard
from interpreter.floats import from_bf16
from kernels import Compiler

# Of the length of a head's output: a unit in the last place of bf16, relative to the largest values that round there.
MOST = 2.0**-8


def difference(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest distance of a head's output, relative to its length."""
    a, b = (from_bf16(values).astype(np.float64) for values in (expected, found))
    written = np.isfinite(a).all(axis=-1)
    lengths = np.linalg.norm(a[written], axis=-1)
    return float((np.linalg.norm(a[written] - b[written], axis=-1) / lengths).max())


def chosen(cases: list, quick: bool) -> list:
    """Of all head sizes, the shape with the most rows and the one with the largest scores."""
    shapes = (attention.SHAPES[0], attention.SHAPES[-1])
    return [
        case
        for case in cases
        if case.head and (case.quick or not quick and any(shape.title in case.title for shape in shapes))
    ]


def check(emulator, compiler: Compiler, cases: list, quick: bool) -> list:
    """Prints the largest difference for each head size, and gives what is wrong as sentences."""
    wrong, by_head, outputs = [], {}, {}
    for case in chosen(cases, quick):
        title = f"{case.kernel} ({case.title}) with a card's rounding"
        try:
            out = output(interpret(emulator.layout, compiler.module(case), case, rounding=LikeACard)[0], case)
        except Fault as fault:
            wrong.append(f"{title}: {fault}")
            continue
        distance = difference(output(emulate(emulator, case), case), out)
        by_head[case.head] = max(by_head.get(case.head, 0), distance)
        if not distance <= MOST:
            wrong.append(f"{title}: a head differs by {distance:.2e} of its length, {MOST:.2e} are allowed")
        # The same head size and inputs: whole, and split and folded.
        other = outputs.setdefault(case.title, out)
        if not np.array_equal(other, out):
            wrong.append(f"{title}: whole and split attention differ in bits")
    for head, distance in sorted(by_head.items()):
        print(f"  heads of {head}: a head's output differs by at most {distance:.1e} of its length")
    return wrong


def output(results: dict, case: Case) -> np.ndarray:
    return results["out"].reshape(-1, case.head)
