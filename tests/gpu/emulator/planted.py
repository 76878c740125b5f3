"""Plants mistakes in copies of the kernels, and expects the checks to find each.

A mistake is a text of a kernel's file and what replaces it. The file is compiled for the emulator, linked with the
rest, which is built once, and the checks that have one of the named parts in their names run. A mistake that they do
not find needs a better check.
"""

import dataclasses
import pathlib
import shutil
import subprocess
import tempfile


@dataclasses.dataclass(frozen=True)
class Mistake:
    name: str
    file: str
    text: str
    replacement: str
    checks: tuple[str, ...]


def attention(name, text, replacement, *checks):
    return Mistake(name, "attention.cu", text, replacement, checks or ("head size 48",))


def rows(name, text, replacement, *checks):
    return Mistake(name, "rows.cu", text, replacement, checks)


def logits(name, text, replacement, *checks):
    return Mistake(name, "logits.cu", text, replacement, checks or ("read_logits",))


def low_rank(name, text, replacement):
    return Mistake(name, "low_rank.cu", text, replacement, ("low_rank",))


def packed(name, text, replacement):
    return Mistake(name, "packed.cu", text, replacement, ("packed",))


def noise(name, text, replacement):
    return Mistake(name, "noise.cu", text, replacement, ("noise",))


def device(name, text, replacement, *checks):
    return Mistake(name, "device.cuh", text, replacement, checks)


# Head sizes that attention's mistakes are built for.
HEADS = (48, 16)

MISTAKES = (
    attention(
        "no barrier when a tile of keys has arrived",
        "// whose place the next one takes.\n        sync_block();",
        "",
    ),
    attention("a copy too few is waited for", "wait_for_copies<0>();", "wait_for_copies<1>();"),
    attention("copies are not waited for", "wait_for_copies<0>();", ""),
    attention("one token behind the end is read", "token < span.end;", "token <= span.end;"),
    attention("the last token is not read", "token < span.end;", "token + 1 < span.end;"),
    attention("a row sees the token behind it", "key <= token &&", "key <= token + 1 &&"),
    attention("a row does not see itself", "key <= token &&", "key < token &&"),
    attention("the window is one token short", "? token + 1 - window", "? token + 2 - window"),
    attention(
        "the window is one token long", "token + 1 > window ? token + 1 - window", "token > window ? token - window"
    ),
    attention("the mask has no window", "&& key >= low", "&& key + window + low > 0"),
    attention("tokens before the window are read", "token >= span.begin && token", "token"),
    attention(
        "a lane leaves out a shuffle",
        "maximum = larger(maximum, shuffle_xor(maximum, 1));",
        "maximum = lane == 5 ? maximum : larger(maximum, shuffle_xor(maximum, 1));",
    ),
    attention("the maximum is of two lanes only", "maximum = larger(maximum, shuffle_xor(maximum, 2));", ""),
    attention("the sum is of two lanes only", "sum = add(sum, shuffle_xor(sum, 2));", ""),
    attention("tiles of keys begin too far behind", "shared + ROWS * HEAD * 2;", "shared + ROWS * HEAD * 2 + 32;"),
    attention("tiles of keys overlap queries", "shared + ROWS * HEAD * 2;", "shared + ROWS * HEAD * 2 - 32;"),
    attention("chunks are swapped out of their row", "row / (8 / swapped) % swapped", "row % 8"),
    attention("chunks are not swapped", "row / (8 / swapped) % swapped", "0 * swapped"),
    attention(
        "segments are folded in descending order",
        "+ segment) * (HEAD + 2);",
        "+ span.begin / SEGMENT + (span.end - 1) / SEGMENT - segment) * (HEAD + 2);",
        "order of segments",
    ),
    attention("segments have another length", "(first + KEYS) % SEGMENT == 0", "(first + KEYS) % 128 == 0"),
    attention(
        "a segment's state is kept for the next",
        "fold_states(total, part);\n                clear(part);",
        "fold_states(total, part);",
    ),
    attention("tiles of keys begin at the window", "u32 first = span.begin / KEYS * KEYS;", "u32 first = span.begin;"),
    attention(
        "a row that has seen nothing has no base",
        "fold.maximum == negative_infinity() ? 0.0f : fold.maximum",
        "fold.maximum",
    ),
    attention("sums are not corrected", "mul(part.sums[n][2 * half + 1], correction)", "part.sums[n][2 * half + 1]"),
    attention(
        "denominators are not corrected",
        "fused(part.denominator[half], correction, sum)",
        "add(part.denominator[half], sum)",
    ),
    attention(
        "heads of a group lie apart",
        "args.heads + kv_head * group + packed % group",
        "args.heads + packed % group * args.kv_heads + kv_head",
    ),
    attention(
        "queries of other heads",
        "const u32 head = kv_head * group + packed % group;",
        "const u32 head = packed % args.heads;",
    ),
    attention("tokens of a block are swapped", "PAGE + token % PAGE;", "PAGE + (token ^ 1) % PAGE;"),
    attention("another block", "args.tables[tile.table + token / PAGE]", "args.tables[token / PAGE]"),
    attention(
        "the tile's first row is forgotten",
        "tile.context + (tile.sequence_row + rows[1]) / group",
        "tile.context + rows[1] / group",
        "groups",
    ),
    attention(
        "values are read as keys are",
        "cell(values, n * 16 + lane % 16, 2 * d + lane / 16)",
        "cell(values, n * 16 + lane % 8 + lane / 16 * 8, 2 * d + lane / 8 % 2)",
    ),
    attention(
        "two numerators are swapped",
        "pack_bf16(numerators[2 * n][2], numerators[2 * n][3])",
        "pack_bf16(numerators[2 * n][3], numerators[2 * n][2])",
    ),
    attention(
        "warps without rows leave",
        "    // The lane's two rows in the tile",
        "    if (warp * 16 >= tile.rows) {\n        return;\n    }\n    // The lane's two rows in the tile",
    ),
    attention("rows behind the tile's end are written", "if (rows[half] < tile.rows)", "if (rows[half] < ROWS)"),
    attention("queries behind the tile's end are read", "if (row < tile.rows) {", "if (row < ROWS) {"),
    attention("scores have no cap", "if (soft_cap != 0) {", "if (soft_cap < 0) {", "soft caps"),
    attention("the cap is too high", "mul(soft_cap, log2_of_e)", "mul(add(soft_cap, 1.0f), log2_of_e)", "soft caps"),
    attention("padded tiles are not left out", "if (tile.rows == 0) {", "if (tile.rows > 64) {"),
    attention(
        "the fold leaves out a lane's last pair",
        "if (pair < pairs) {\n                const TwoWords added",
        "if (pair + 1 < pairs) {\n                const TwoWords added",
    ),
    rows(
        "a row's position is not looked up",
        "static_cast<u64>(args.positions[row]) * args.width",
        "static_cast<u64>(row) * args.width",
        "embed",
    ),
    rows(
        "elements behind a row's end count",
        "first + i < width ? add(four.at[i], -mean) : 0.0f",
        "add(four.at[i], -mean)",
        "norm_rows",
    ),
    rows("eps is forgotten", "square_root(add(variance, eps))", "square_root(variance)", "norm_rows"),
    rows(
        "the mean is not subtracted",
        "mul(mul(add(four.at[i], -mean), scale), weight.at[i])",
        "mul(mul(four.at[i], scale), weight.at[i])",
        "norm_rows",
    ),
    rows(
        "the norm replaces the sum", "sum.at[i] = add(sum.at[i], four.at[i]);", "sum.at[i] = four.at[i];", "norm_rows"
    ),
    rows("heads have one weight", "args.weight + static_cast<u64>(blockIdx.y) * width", "args.weight", "norm_heads"),
    rows("halves of pairs lie half a head apart", "pair + args.pairs;", "pair + args.head_dim / 2;", "rope_store"),
    rows("rotation goes the other way", "fused(x, cos, -mul(y, sin))", "fused(x, cos, mul(y, sin))", "rope_store"),
    rows("all rows have one position", "static_cast<u64>(args.positions[row]) * args.pairs", "0", "rope_store"),
    rows("padded rows are stored", "if (slot == NO_SLOT) {", "if (slot == NO_SLOT - 1) {", "rope_store"),
    rows(
        "key heads and blocks are swapped",
        "static_cast<u64>(slot / CACHE_BLOCK) * args.kv_heads * stride",
        "static_cast<u64>(slot / CACHE_BLOCK) * stride",
        "rope_store",
    ),
    rows(
        "dimensions that are not rotated are not stored",
        "i < args.kv_heads * rest;",
        "i < args.kv_heads * rest / 2;",
        "rope_store",
    ),
    rows(
        "gate and up are swapped",
        "mul(activate_one(four.at[i], args.activation), up.at[i])",
        "mul(activate_one(up.at[i], args.activation), four.at[i])",
        "gate",
    ),
    rows("gelu is the approximation", "return gelu(x);", "return gelu_tanh(x);", "gate"),
    rows(
        "a bias begins anew in each part",
        "load_four(args.bias, first, args.width)",
        "load_four(args.bias, first % PART, args.width)",
        "add_bias",
    ),
    rows(
        "rows are moved in descending order",
        "args.indices[i]) * args.words + word;\n        args.rows[static_cast<u64>(i)",
        "args.indices[args.count - 1 - i]) * args.words + word;\n"
        "        args.rows[static_cast<u64>(args.count - 1 - i)",
        "keep_rows",
    ),
    low_rank("a warp leaves out ranks", "rank += DOWN_THREADS / WARP", "rank += DOWN_THREADS / WARP + 1"),
    low_rank("the first output is forgotten", "+ part.first_output + output", "+ output"),
    low_rank("rows without an adapter have one", "if (adapter == NO_ADAPTER) {", "if (adapter == NO_ADAPTER - 1) {"),
    low_rank("B is transposed", "static_cast<u64>(output) * part.rank", "output"),
    low_rank(
        "one part's A for all",
        "(row * PARTS + blockIdx.y) * args.max_rank + rank] = sum",
        "row * PARTS * args.max_rank + rank] = sum",
    ),
    logits(
        "no barrier before other threads' logits",
        "// From here on all threads see the logits that others have changed, too.\n    sync_block();",
        "",
    ),
    logits("the last of several largest logits", "b.token < a.token", "b.token > a.token"),
    logits("a fault is seen by its own lane only", "        faults |= shuffle_xor(faults, mask);\n", ""),
    logits("NaN is no fault", "four.at[i] < positive_infinity() ? 0 : 1", "four.at[i] == positive_infinity() ? 1 : 0"),
    logits("a row of masked tokens is sound", "faults == 0 && largest.logit > negative_infinity()", "faults == 0"),
    logits(
        "tokens outside of the vocabulary are read", "token < vocab ? row[token] : negative_infinity()", "row[token]"
    ),
    logits(
        "log-sum-exp without the maximum",
        "add(static_cast<double>(largest.logit), natural_logarithm(sum))",
        "natural_logarithm(sum)",
    ),
    logits("a term of e^x is missing", "    p = fused(p, r, 2.7557319223985893e-6);\n", ""),
    logits("both zeros differ", "logit == logit ? add(logit, 0.0f)", "logit == logit ? logit", "top_logits"),
    logits(
        "NaN is largest", "logit == logit ? add(logit, 0.0f) : negative_infinity()", "add(logit, 0.0f)", "top_logits"
    ),
    logits("of equal logits the higher token", "<< 32 | ~token;", "<< 32 | token;", "top_logits"),
    logits("the weight has another temperature", "mul(difference, inverse_temperature)", "difference", "top_logits"),
    logits(
        "the weight without the largest logit",
        "add(static_cast<double>(row[token]), -largest)",
        "row[token]",
        "top_logits",
    ),
    logits(
        "counts are not cleared for all",
        "counts.set(thread, 0);\n        }\n        sync_block();",
        "counts.set(thread, 0);\n        }",
        "top_logits",
    ),
    logits(
        "no barrier between steps of the sort",
        "                }\n            }\n            sync_block();",
        "                }\n            }",
        "top_logits",
    ),
    packed("a warp leaves out tiles", "first += AHEAD * PACKED_WARPS", "first += (AHEAD + 1) * PACKED_WARPS"),
    packed("a tile behind the last is loaded", "if (input_tile < input_tiles) {", "if (input_tile <= input_tiles) {"),
    packed("no barrier before the warps' sums", "sync_block();", ""),
    packed("the warps' sums are of other rows", "from_lane = tile_output % 8 * 4", "from_lane = tile_output / 2 * 4"),
    packed("rows behind the last are read", "if (row < args.rows) {", "if (row <= args.rows) {"),
    packed("outputs behind the last are written", "row < args.rows && output < weights.outputs", "row < args.rows"),
    packed("groups of 16 have one scale", "step == 1 || weights.groups == 2", "step == 1"),
    packed("products are not cleared", "products[set][i] = 0;", ""),
    packed("sums of inputs are not cleared", "input_sums[set][i] = 0;", ""),
    packed("both outputs have one scale", "group * TILE_OUTPUTS + half * 8", "group * TILE_OUTPUTS"),
    packed("steps have no sign", "((stored & 0xff) ^ 0x80) - 128", "(stored & 0xff)"),
    packed(
        "one base for all inputs", "tile * base_tiles + input_tile / (BASE_INPUTS / TILE_INPUTS)", "tile * base_tiles"
    ),
    packed("bytes have no sign", "(bytes & 0x00800080u) ^ 0xc380c380u", "0xc380c380u"),
    packed("nibbles have no zero", "0xc300c300u | zero | zero << 16", "0xc300c300u"),
    packed("the product is not added", "args.add != 0 ? add(*out, sum) : sum", "sum"),
    packed("the expansion has no minimum", "weights.has_minimum != 0 ? factor.minimum : 0.0f", "0.0f"),
    packed("the second columns are left out", "args.rows > first_row + COLUMNS ? 2 : 1", "1"),
    noise("all words of noise are the first", "args.counter + STEP * index", "args.counter + 0 * index"),
    noise("words of noise are one late", "args.counter + STEP * index", "args.counter + STEP * (index + 1)"),
    noise("words of noise are mixed once", "* SECOND_FACTOR", "* 1"),
    noise("all values of a word are the first", "word >> (16 * i) & 0xffff", "word & 0xffff"),
    noise("noise has only positive values", "- 32768;", ";"),
    noise(
        "noise is written behind the last value",
        "store_four(args.out, first, args.count, four)",
        "store_four(args.out, first, args.count + 4, four)",
    ),
    device(
        "the first barrier of a block's sum is missing",
        "value);\n    }\n    sync_block();\n    T sum",
        "value);\n    }\n    T sum",
        "norm_rows",
    ),
    device(
        "the last barrier of a block's sum is missing",
        "// The next sum may write only when all have read this one.\n    sync_block();",
        "",
        "norm_rows",
    ),
    device(
        "a warp's sum leaves out neighbours",
        "mask > 0; mask /= 2) {\n        value",
        "mask > 1; mask /= 2) {\n        value",
        "norm_rows",
    ),
    device(
        "four elements are written at a row's end",
        "if (first + 4 <= width && is_aligned(row, 16)) {\n        FourWords words;\n",
        "if (is_aligned(row, 16)) {\n        FourWords words;\n",
        "rows:",
    ),
    device(
        "rows that are not aligned are read at once",
        "first + 4 <= width && is_aligned(row, 8)) {\n        TwoWords words = load_8",
        "first + 4 <= width) {\n        TwoWords words = load_8",
        "embed",
    ),
    device("e^x overflows to infinity early", "x > 88.3f ? 88.3f", "x > 8.3f ? 8.3f", "gate"),
    device("tanh is wrong near 0", "0.13331444f", "0.1f", "read_logits"),
)


class Built:
    """All parts without mistakes, built once, and how to build some with a mistake."""

    def __init__(self, builder, folder):
        self.builder = builder
        self.folder = folder
        clean = builder.kernels
        self.objects = {name: builder.compile(name, clean, folder, self.flags(name)) for name in builder.sources}

    @staticmethod
    def flags(name):
        if name == "attention":
            return [f"-DEMULATED_HEAD={HEADS[0]}", f"-DEMULATED_SECOND_HEAD={HEADS[1]}"]
        return []

    def with_mistake(self, mistake, folder):
        """The program of checks with one mistake."""
        kernels = folder / "kernels"
        shutil.copytree(self.builder.kernels, kernels)
        path = kernels / mistake.file
        source = path.read_text()
        if mistake.text not in source:
            raise ValueError(f"{mistake.name}: {mistake.file} has no such text any more")
        path.write_text(source.replace(mistake.text, mistake.replacement))
        changed = {"attention.cu": ["attention"], "device.cuh": ["library"]}.get(mistake.file, ["library"])
        objects = dict(self.objects)
        for name in changed:
            objects[name] = self.builder.compile(name, kernels, folder, self.flags(name))
        return self.builder.link(objects.values(), folder / "check")


def find(built, mistake):
    """What the checks say to a mistake: a line of text, or None when they do not find it."""
    with tempfile.TemporaryDirectory() as folder:
        program = built.with_mistake(mistake, pathlib.Path(folder))
        try:
            ran = subprocess.run([program, *mistake.checks], capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            return "it does not end"
    if ran.returncode < 0:
        return f"ended by signal {-ran.returncode}"
    if ran.returncode == 0:
        return None
    failed = [line.split("FAILED: ")[1] for line in ran.stdout.splitlines() if "FAILED: " in line]
    fault = failed[0] if failed else ran.stdout + ran.stderr
    if not failed or "there is no kernel" in fault:
        raise ValueError(f"{mistake.name}: the checks did not come so far: {fault}")
    return fault
