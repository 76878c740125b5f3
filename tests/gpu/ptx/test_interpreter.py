"""What the interpreter must do, by small PTX texts: the meaning of instructions, and each check that stops a kernel."""

import struct
import unittest

import numpy as np

from interpreter import Fault, GlobalMemory, Launch, floats, parse, run

HEADER = """
.version 9.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
"""
ENTRY = """
.visible .entry kernel(.param .align 8 .b8 kernel_param_0[8])
{
    .reg .pred %p<9>;
    .reg .b16 %rs<9>;
    .reg .b32 %r<40>;
    .reg .f32 %f<40>;
    .reg .b64 %rd<20>;
    .reg .f64 %fd<9>;
    ld.param.u64 %rd1, [kernel_param_0];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd2, %rd1, %rd2;
"""


def execute(body: str, threads: int = 32, words: int = 64, eager: bool = False, inputs=None, blocks=1) -> np.ndarray:
    """Runs a kernel with a buffer of words, %rd1, of which %rd2 is the thread's own; %r1 is the thread."""
    memory = GlobalMemory()
    buffer = np.zeros(words, np.uint32) if inputs is None else inputs
    address = memory.add("words", buffer, True)
    module = parse(HEADER + ENTRY + body + "\n    ret;\n}\n")
    run(module, "kernel", memory, Launch((blocks, 1, 1), threads, 1024, struct.pack("<Q", address), eager))
    return memory.contents(address, np.uint32)


def float_bits(value: float) -> str:
    return f"0f{int(np.float32(value).view(np.uint32)):08X}"


class Meaning(unittest.TestCase):
    def store(self, body: str, result: str = "%r2") -> int:
        return int(execute(f"{body}\nst.global.u32 [%rd2], {result};")[0])

    def test_integers_wrap(self):
        self.assertEqual(self.store("mov.u32 %r3, 4294967295;\nadd.s32 %r2, %r3, 2;"), 1)

    def test_signed_division_truncates(self):
        self.assertEqual(self.store("mov.u32 %r3, -7;\ndiv.s32 %r2, %r3, 2;"), 2**32 - 3)
        self.assertEqual(self.store("mov.u32 %r3, -7;\nrem.s32 %r2, %r3, 2;"), 2**32 - 1)

    def test_shifts_beyond_the_width_give_zeros_or_signs(self):
        self.assertEqual(self.store("mov.u32 %r3, -8;\nshr.u32 %r2, %r3, 32;"), 0)
        self.assertEqual(self.store("mov.u32 %r3, -8;\nshr.s32 %r2, %r3, 40;"), 2**32 - 1)

    def test_bfi_inserts_a_field(self):
        body = "mov.u32 %r3, 255;\nmov.u32 %r4, 4096;\nbfi.b32 %r2, %r3, %r4, 4, 4;"
        self.assertEqual(self.store(body), 4096 + 0xF0)

    def test_lop3_follows_its_table(self):
        body = "mov.u32 %r3, 12;\nmov.u32 %r4, 10;\nmov.u32 %r5, 6;\nlop3.b32 %r2, %r3, %r4, %r5, 0x96;"
        self.assertEqual(self.store(body), 12 ^ 10 ^ 6)

    def test_bytes_are_permuted(self):
        body = "mov.u32 %r3, 0x03020100;\nmov.u32 %r4, 0x07060504;\nprmt.b32 %r2, %r3, %r4, 0x7531;"
        self.assertEqual(self.store(body), 0x07050301)

    def test_the_first_operand_of_a_bf16_pair_is_its_upper_half(self):
        body = f"mov.f32 %f1, {float_bits(1)};\nmov.f32 %f2, {float_bits(2)};\ncvt.rn.bf16x2.f32 %r2, %f1, %f2;"
        self.assertEqual(self.store(body), 0x3F804000)

    def test_bf16_rounds_half_to_even(self):
        values = np.array([0x3F808000, 0x3F818000, 0x7F800001], np.uint32).view(np.float32)
        self.assertEqual(floats.to_bf16(values).tolist(), [0x3F80, 0x3F82, 0x7FFF])

    def test_a_comparison_with_nan_is_false_unless_unordered(self):
        nan = f"mov.f32 %f1, 0f7FC00000;\nmov.f32 %f2, {float_bits(1)};\n"
        for name, want in (("lt", 0), ("ltu", 1), ("ne", 0), ("neu", 1), ("nan", 1)):
            body = nan + f"setp.{name}.f32 %p1, %f1, %f2;\nselp.u32 %r2, 1, 0, %p1;"
            self.assertEqual(self.store(body), want, name)

    def test_fma_rounds_once(self):
        random = np.random.default_rng(1)
        a, b = (random.standard_normal(20000).astype(np.float32) for _ in range(2))
        c = (-(a.astype(np.float64) * b)).astype(np.float32)  # cancels all but the product's lowest bits
        exact = np.array([float(np.longdouble(x) * y + z) for x, y, z in zip(a, b, c)])
        self.assertTrue(np.array_equal(floats.fma32(a, b, c), exact.astype(np.float32)))

    def test_fma_of_doubles_rounds_once(self):
        from fractions import Fraction

        random = np.random.default_rng(2)
        a, b = random.standard_normal(3000), random.standard_normal(3000)
        c = np.where(np.arange(3000) % 2, -(a * b), random.standard_normal(3000))
        exact = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c)]
        self.assertEqual(floats.fma64(a, b, c).tolist(), exact)

    def test_fma_of_bf16_rounds_once(self):
        # 1 + 2^-8 lies halfway between two values of bf16; 2^-40 more decides.
        one, half, tiny = 0x3F80, 0x3B80, 0x2B80
        a, b, c = (np.array(values, np.uint16) for values in ([one, half], [one, one], [half, one]))
        self.assertEqual(floats.fma_bf16(a, b, c).tolist(), [0x3F80, 0x3F80])
        product = floats.fma_bf16(
            np.array([0x3F81], np.uint16), np.array([0x3F81], np.uint16), np.array([tiny], np.uint16)
        )
        self.assertEqual(product.tolist(), [0x3F82])

    def test_ex2_flushes_subnormals(self):
        results = floats.exp2_approximate(np.array([-127.0, -126.0, 0.5], np.float32), True)
        self.assertEqual(results.tolist(), [0.0, 2.0**-126, float(np.float32(2**0.5))])

    def test_threads_that_part_meet_again(self):
        body = """
            setp.lt.u32 %p1, %r1, 7;
            @%p1 bra LOW;
            mov.u32 %r2, 100;
            bra.uni MEET;
        LOW:
            mov.u32 %r2, 200;
        MEET:
            shfl.sync.idx.b32 %r3, %r2, 0, 31, -1;
            st.global.u32 [%rd2], %r3;
        """
        self.assertEqual(set(execute(body)[:32].tolist()), {200})

    def test_loops_run_for_each_thread_as_often_as_it_wants(self):
        body = """
            mov.u32 %r2, 0;
        AGAIN:
            setp.ge.u32 %p1, %r2, %r1;
            @%p1 bra DONE;
            add.s32 %r2, %r2, 1;
            bra.uni AGAIN;
        DONE:
            st.global.u32 [%rd2], %r2;
        """
        self.assertEqual(execute(body)[:32].tolist(), list(range(32)))

    def test_shuffles_stay_in_their_segment(self):
        body = "shfl.sync.down.b32 %r2|%p1, %r1, 1, 7199, -1;\nst.global.u32 [%rd2], %r2;"  # segments of 4 lanes
        self.assertEqual(execute(body)[:8].tolist(), [1, 2, 3, 3, 5, 6, 7, 7])

    def test_a_ballot_has_a_bit_for_each_lane(self):
        body = "setp.lt.u32 %p1, %r1, 3;\nvote.sync.ballot.b32 %r2, %p1, -1;\nst.global.u32 [%rd2], %r2;"
        self.assertEqual(int(execute(body)[31]), 7)

    def test_atomic_additions_find_each_a_value_of_their_own(self):
        body = """
            mov.u32 %r5, dynamic;
            setp.ne.s32 %p1, %r1, 0;
            @%p1 bra READY;
            st.shared.u32 [%r5], 5;
        READY:
            bar.sync 0;
            atom.shared.add.u32 %r2, [%r5], 2;
            st.global.u32 [%rd2], %r2;
        """
        self.assertEqual(execute(body)[:32].tolist(), [5 + 2 * i for i in range(32)])

    def test_the_product_of_matrices(self):
        # Each lane has ones in A, and its own number in both places of B: a column's sum is four lanes' numbers.
        body = f"""
            mov.u32 %r2, 0x3F803F80;
            cvt.rn.f32.u32 %f1, %r1;
            cvt.rn.bf16x2.f32 %r3, %f1, %f1;
            mov.f32 %f2, {float_bits(0.5)};
            mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{%f3,%f4,%f5,%f6}}, {{%r2,%r2,%r2,%r2}}, {{%r3,%r3}},
                {{%f2,%f2,%f2,%f2}};
            st.global.f32 [%rd2], %f4;
        """
        columns = [0.5 + 4 * sum(range(4 * n, 4 * n + 4)) for n in range(8)]
        found = execute(body)[:32].view(np.float32)
        self.assertEqual(found.tolist(), [columns[2 * (lane % 4) + 1] for lane in range(32)])

    def test_matrices_are_loaded_by_rows_and_by_columns(self):
        for modifier, want in (
            ("", lambda lane: lane // 4 * 8 + 2 * (lane % 4)),
            (".trans", lambda lane: 2 * (lane % 4) * 8 + lane // 4),
        ):
            body = f"""
                mov.u32 %r5, dynamic;
                shl.b32 %r6, %r1, 2;
                add.s32 %r6, %r6, %r5;
                shl.b32 %r7, %r1, 1;
                add.s32 %r8, %r7, 1;
                cvt.u16.u32 %rs1, %r7;
                cvt.u16.u32 %rs2, %r8;
                st.shared.u16 [%r6], %rs1;
                st.shared.u16 [%r6+2], %rs2;
                bar.sync 0;
                and.b32 %r9, %r1, 7;
                shl.b32 %r9, %r9, 4;
                add.s32 %r9, %r9, %r5;
                ldmatrix.sync.aligned.m8n8.x1{modifier}.shared.b16 {{%r10}}, [%r9];
                and.b32 %r10, %r10, 65535;
                st.global.u32 [%rd2], %r10;
            """
            self.assertEqual(execute(body)[:32].tolist(), [want(lane) for lane in range(32)])


class Checks(unittest.TestCase):
    def fails(self, body: str, *words: str, **settings) -> None:
        with self.assertRaises(Fault) as caught:
            execute(body, **settings)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_an_unknown_instruction_is_named(self):
        self.fails("wgmma.fence.sync.aligned;", "wgmma", "unknown")

    def test_an_unknown_modifier_is_named(self):
        self.fails("mov.f32 %f1, 0f3F800000;\nadd.rz.f32 %f2, %f1, %f1;", ".rz", "unknown")

    def test_an_approximation_that_nobody_meant(self):
        self.fails("mov.f32 %f1, 0f3F800000;\ndiv.approx.f32 %f2, %f1, %f1;", "approx", "unknown")

    def test_a_register_that_nobody_wrote(self):
        self.fails("st.global.u32 [%rd2], %r9;", "%r9", "before it is written")

    def test_a_register_that_only_other_threads_wrote(self):
        body = "setp.lt.u32 %p1, %r1, 5;\n@%p1 mov.u32 %r9, 1;\nst.global.u32 [%rd2], %r9;"
        self.fails(body, "%r9", "thread 5")

    def test_a_store_behind_the_end(self):
        self.fails("st.global.u32 [%rd2+4], %r1;", "words", "128 bytes", words=32)

    def test_a_load_before_the_begin(self):
        self.fails("ld.global.u32 %r2, [%rd2+-4];", "no buffer")

    def test_a_misaligned_access(self):
        self.fails("ld.global.v2.u32 {%r2, %r3}, [%rd2];", "misaligned")

    def test_two_threads_store_at_one_place(self):
        self.fails("st.global.u32 [%rd1], %r1;", "two threads write one place of words at once")

    def test_a_thread_reads_what_another_wrote_without_a_barrier(self):
        body = "st.global.u32 [%rd2], %r1;\n{}\nxor.b32 %r3, %r1, 1;\n"
        body += "mul.wide.u32 %rd3, %r3, 4;\nadd.s64 %rd3, %rd1, %rd3;"
        body += "\nld.global.u32 %r4, [%rd3];"
        self.fails(body.format(""), "words is read that another thread has written")
        execute(body.format("bar.sync 0;"))

    def test_blocks_are_ordered_by_nothing(self):
        store = "st.global.u32 [%rd2], %r1;"
        self.fails(store, "two threads write one place of words", blocks=2)
        read = "mov.u32 %r3, %ctaid.x;\nsetp.eq.s32 %p1, %r3, 0;\nbar.sync 0;\n"
        self.fails(
            read + "@%p1 ld.global.u32 %r4, [%rd2];\n@!%p1 st.global.u32 [%rd2], %r1;",
            "another thread has read",
            blocks=2,
        )
        execute("ld.global.u32 %r4, [%rd2];", blocks=2)

    def test_many_blocks_may_read_what_nobody_writes(self):
        body = "ld.global.u32 %r4, [%rd1];\nst.global.u32 [%rd2+4], %r4;"
        execute(body, threads=32)
        self.fails(
            "ld.global.u32 %r4, [%rd1];\nbar.sync 0;\nst.global.u32 [%rd2], %r4;", "another thread has read", blocks=300
        )

    def test_shared_memory_behind_its_end(self):
        self.fails("mov.u32 %r5, dynamic;\nst.shared.u32 [%r5+1024], %r1;", "1024")

    def test_shared_memory_that_nobody_wrote(self):
        self.fails("mov.u32 %r5, dynamic;\nld.shared.u32 %r2, [%r5];", "no thread of the block has written")

    EXCHANGE = """
        mov.u32 %r5, dynamic;
        shl.b32 %r6, %r1, 2;
        add.s32 %r6, %r5, %r6;
        xor.b32 %r7, %r6, 4;
    """

    def test_a_missing_barrier_after_writing(self):
        body = self.EXCHANGE + "st.shared.u32 [%r6], %r1;\n{}\nld.shared.u32 %r2, [%r7];\nst.global.u32 [%rd2], %r2;"
        self.fails(body.format(""), "another thread has written", "no barrier")
        self.assertEqual(execute(body.format("bar.sync 0;"))[:4].tolist(), [1, 0, 3, 2])

    def test_a_missing_barrier_after_reading(self):
        body = (
            self.EXCHANGE
            + "st.shared.u32 [%r6], %r1;\nbar.sync 0;\nld.shared.u32 %r2, [%r7];\nst.shared.u32 [%r6], %r2;"
        )
        self.fails(body, "another thread has read", "no barrier")

    def test_two_threads_write_one_place(self):
        self.fails("mov.u32 %r5, dynamic;\nst.shared.u32 [%r5], %r1;", "two threads write one place")

    def test_a_barrier_that_some_threads_never_reach(self):
        body = "setp.lt.u32 %p1, %r1, 40;\n@%p1 bra OUT;\nbar.sync 0;\nOUT:"
        self.fails(body, "24 of 64 threads", "have ended", threads=64)

    def test_a_shuffle_that_some_lanes_never_reach(self):
        body = "setp.lt.u32 %p1, %r1, 4;\n@%p1 bra OUT;\nshfl.sync.idx.b32 %r2, %r1, 5, 31, -1;\nOUT:"
        self.fails(body, "28 of 32 threads", "shfl")

    def test_a_shuffle_whose_mask_leaves_out_who_executes_it(self):
        self.fails("shfl.sync.bfly.b32 %r2, %r1, 1, 31, 65535;", "mask does not name it")

    def test_a_division_by_zero(self):
        self.fails("div.u32 %r2, %r1, %r1;", "divided by zero")

    def test_a_loop_without_end(self):
        import interpreter.schedule as schedule

        most, schedule.MOST_STEPS = schedule.MOST_STEPS, 1000
        try:
            self.fails("AGAIN:\nadd.s32 %r1, %r1, 1;\nbra.uni AGAIN;", "does not end")
        finally:
            schedule.MOST_STEPS = most

    COPY = """
        mov.u32 %r5, dynamic;
        shl.b32 %r6, %r1, 4;
        add.s32 %r5, %r5, %r6;
        shl.b32 %r6, %r6, 0;
        cvt.u64.u32 %rd3, %r6;
        add.s64 %rd3, %rd1, %rd3;
        cp.async.cg.shared.global [%r5], [%rd3], 16, 16;
    """

    def test_a_copy_lands_when_it_is_waited_for(self):
        numbers = np.arange(1, 257, dtype=np.uint32)
        first = 128  # The results lie behind what is copied.
        read = "ld.shared.u32 %r2, [%r5];\nst.global.u32 [%rd2+512], %r2;"
        waited = self.COPY + "cp.async.commit_group;\ncp.async.wait_group 0;\n" + read
        self.assertEqual(execute(waited, inputs=numbers)[first : first + 3].tolist(), [1, 5, 9])
        early = self.COPY + "cp.async.commit_group;\ncp.async.wait_group 1;\n" + read
        self.assertEqual(int(execute(early, inputs=numbers)[first]), 2**32 - 1)
        self.assertEqual(int(execute(early, inputs=numbers, eager=True)[first]), 1)
        uncommitted = self.COPY + "cp.async.wait_group 0;\n" + read
        self.assertEqual(int(execute(uncommitted, inputs=numbers)[first]), 2**32 - 1)

    def test_a_copy_that_reads_more_than_it_copies(self):
        body = self.COPY.replace("cg.", "ca.").replace("16, 16;", "8, 16;")
        self.fails(body, "8 bytes is told to read 16", words=128)


if __name__ == "__main__":
    unittest.main()
