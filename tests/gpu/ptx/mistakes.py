"""Mistakes planted into a copy of device.cuh, of the kind that the emulator cannot see. Each must be found.

The emulator has C++ of its own in place of each instruction of the card, so it passes whatever stands between the
quotes of inline assembly. The interpreter runs what stands there, so results differ or a check fails.
"""

import dataclasses
import pathlib
import shutil
import tempfile

from case import Case, Mismatch
from interpreter import Fault
from kernels import Compiler, Totals, check_case
from nvrtc import CompileError, Nvrtc
from units import KERNELS

ATTENTION = "attention_whole_16"


@dataclasses.dataclass(frozen=True)
class Mistake:
    title: str
    right: str
    wrong: str
    kernel: str = ATTENTION
    quick: bool = False


MISTAKES = (
    Mistake("operands of cvt swapped", ': "f"(high), "f"(low)', ': "f"(low), "f"(high)', quick=True),
    Mistake(
        "registers of mma's first matrix swapped",
        '"r"(a[0]), "r"(a[1]), "r"(a[2])',
        '"r"(a[0]), "r"(a[2]), "r"(a[1])',
        quick=True,
    ),
    Mistake("registers of mma's second matrix swapped", '"r"(b0), "r"(b1)', '"r"(b1), "r"(b0)'),
    Mistake("mma adds to other registers than it writes", ', {%0,%1,%2,%3};"', ', {%0,%2,%1,%3};"'),
    Mistake("ldmatrix without .trans", "m8n8.x4.trans.shared", "m8n8.x4.shared", quick=True),
    Mistake("ldmatrix with .trans", "m8n8.x4.shared", "m8n8.x4.trans.shared"),
    Mistake(
        "ldmatrix's results swapped", '"=r"(matrices[1]), "=r"(matrices[2])', '"=r"(matrices[2]), "=r"(matrices[1])'
    ),
    Mistake(
        "cp.async of 8 bytes",
        "cp.async.cg.shared.global [%0], [%1], 16",
        "cp.async.ca.shared.global [%0], [%1], 8",
        quick=True,
    ),  # fmt: skip
    Mistake("cp.async reads half of a chunk", "real ? 16 : 0", "real ? 8 : 0"),
    Mistake("cp.async reads what is not there", "real ? 16 : 0", "16"),
    Mistake("one group too many stays unwaited for", '"n"(LEFT)', '"n"(LEFT + 1)', quick=True),
    Mistake("copies are not committed", "cp.async.commit_group;", ""),
    Mistake("a shuffle's mask names half of the lanes", "0xffffffffu, value", "0x0000ffffu, value", quick=True),
    Mistake("a shuffle down in place of xor", "__shfl_xor_sync", "__shfl_down_sync"),
    Mistake("no barrier", "__syncthreads();", "", quick=True),
    Mistake("exp2 of another base", "ex2.approx.ftz.f32 %0, %1;", "ex2.approx.ftz.f32 %0, %0;"),
    Mistake("the smaller in place of the larger", "fmaxf(a, b)", "fminf(a, b)"),
    Mistake("factor and summand swapped", "__fmaf_rn(a, b, c)", "__fmaf_rn(a, c, b)", "norm_rows"),
    Mistake("an approximate division", "__fdiv_rn(a, b)", "__fdividef(a, b)", "norm_rows", quick=True),
    Mistake("words of eight bytes swapped", "{{words.x, words.y}}", "{{words.y, words.x}}", "embed"),
    Mistake("words of sixteen bytes swapped", "words.at[2], words.at[3])", "words.at[3], words.at[2])", "embed"),
    Mistake(
        "factor and summand of pairs swapped",
        '"r"(a), "r"(ones), "r"(b)',
        '"r"(a), "r"(b), "r"(ones)',
        "packed_product_4",
        quick=True,
    ),
    Mistake(
        "an addition that is not atomic",
        "return atomicAdd(&elements[index], value);",
        "T before = elements[index]; elements[index] = before + value; return before;",
        "top_logits",
    ),
)


def planted(folder: pathlib.Path, mistake: Mistake) -> None:
    header = folder / "device.cuh"
    text = header.read_text()
    if mistake.right not in text:
        raise LookupError(f"{header.name} does not have {mistake.right!r}: {mistake.title} must be planted anew")
    header.write_text(text.replace(mistake.right, mistake.wrong))


def find(emulator, nvrtc: Nvrtc, mistake: Mistake, case: Case) -> "str | None":
    """How the mistake was found, or None."""
    with tempfile.TemporaryDirectory() as staging:
        folder = pathlib.Path(staging) / "kernels"
        shutil.copytree(KERNELS, folder)
        planted(folder, mistake)
        try:
            check_case(emulator, Compiler(nvrtc, "80", folder), case, Totals())
        except (Fault, Mismatch) as found:
            return str(found)
        except CompileError as error:
            raise LookupError(f"{mistake.title} does not compile: {error}") from None
    return None


def check(emulator, nvrtc: Nvrtc, cases: list, quick: bool) -> list:
    """Prints how each mistake is found, and gives what is wrong as sentences."""
    wrong = []
    for mistake in MISTAKES:
        if quick and not mistake.quick:
            continue
        case = next(case for case in cases if case.kernel == mistake.kernel)
        try:
            how = find(emulator, nvrtc, mistake, case)
        except LookupError as error:
            wrong.append(str(error))
            continue
        print(f"  {mistake.title}: {how[:150] if how else 'NOT FOUND'}")
        if how is None:
            wrong.append(f"a planted mistake is not found: {mistake.title}")
    return wrong
