"""What is refused of the registers and the memory that ptxas reports."""

import unittest

import resources
from resources import Bound, Use

LOG = """ptxas info    : Compiling entry function 'norm' for 'sm_80'
ptxas info    : Function properties for norm
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 39 registers, used 1 barriers, 32 bytes smem, 408 bytes cmem[0]
ptxas info    : Compiling entry function 'gate' for 'sm_80'
ptxas info    : Function properties for gate
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 26 registers, used 0 barriers, 376 bytes cmem[0]
"""


class Resources(unittest.TestCase):
    def test_the_report_of_ptxas_is_read(self):
        expected = {"norm": Use(39, 32, 16, 20), "gate": Use(26, 0, 0, 0)}
        self.assertEqual(resources.uses(LOG), expected)

    def refused(self, use: Use, word: str) -> None:
        bounds = {"norm": Bound(threads=256, blocks=4, registers=64, shared=32, local=0)}
        (sentence,) = resources.mistakes("norm", "80", use, bounds)
        self.assertIn(word, sentence)

    def test_what_is_over_a_bound_is_refused(self):
        self.refused(Use(64, 36, 0, 0), "36 bytes of shared memory")
        self.refused(Use(64, 32, 16, 0), "16 bytes of local memory")
        self.refused(Use(64, 32, 0, 4), "spills 4 bytes")

    def test_registers_over_the_bound_are_refused(self):
        sentences = resources.mistakes("norm", "80", Use(65, 0, 0, 0), {"norm": Bound(256, 4, 64, 0, 0)})
        self.assertEqual(len(sentences), 2)  # over the bound, and four blocks do not fit
        self.assertIn("do not fit", sentences[1])

    def test_a_kernel_without_a_bound_is_refused(self):
        self.assertIn("no line", resources.mistakes("gate", "80", Use(1, 0, 0, 0), {})[0])

    def test_what_is_within_bounds_is_taken(self):
        self.assertEqual(resources.mistakes("norm", "80", Use(64, 32, 0, 0), {"norm": Bound(256, 4, 64, 32, 0)}), [])
