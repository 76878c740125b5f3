"""What the machine can do at best, in a process of its own: f32 matrix products by OpenBLAS, or reading memory.

usage: OPENBLAS_NUM_THREADS=N roofline_probe.py gemm           prints FLOP/s
       OPENBLAS_NUM_THREADS=1 roofline_probe.py read N BYTES   prints bytes/s

BYTES is how much N threads read over and over: a small model may stay in a cache that a large one does not fit, and a
step of either reads all its weights once."""

import sys
import threading
import time

import numpy

GEMM_WIDTH = 2048
REPETITIONS = 7


def gemm() -> float:
    """Best FLOP/s of a square product; OpenBLAS uses as many threads as its environment says."""
    draw = numpy.random.default_rng(0)
    left, right = (draw.random((GEMM_WIDTH, GEMM_WIDTH), numpy.float32) for _ in range(2))
    out = numpy.empty_like(left)
    times = []
    for _ in range(REPETITIONS):
        begin = time.perf_counter()
        numpy.matmul(left, right, out=out)
        times.append(time.perf_counter() - begin)
    return 2 * GEMM_WIDTH**3 / min(times)


def read(threads: int, size: int) -> float:
    """Best bytes/s of threads that each read their own share of `size` bytes, summing it as a dot product does."""
    passes = max(1, (1 << 30) // size)
    shares = [numpy.ones(size // threads // 4, numpy.float32) for _ in range(threads)]

    def work(share, gate) -> None:
        gate.wait()
        for _ in range(passes):
            share.dot(share)
        gate.wait()

    times = []
    for _ in range(REPETITIONS):
        gate = threading.Barrier(threads + 1)
        running = [threading.Thread(target=work, args=(share, gate)) for share in shares]
        for thread in running:
            thread.start()
        gate.wait()
        begin = time.perf_counter()
        gate.wait()
        times.append(time.perf_counter() - begin)
        for thread in running:
            thread.join()
    return passes * sum(share.nbytes for share in shares) / min(times)


if __name__ == "__main__":
    if sys.argv[1] == "gemm":
        print(gemm())
    else:
        print(read(int(sys.argv[2]), int(sys.argv[3])))
