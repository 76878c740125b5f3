"""Which card is here. NVIDIA's driver is asked in a process of its own, which can be ended when the driver hangs."""

import dataclasses
import json
import subprocess
import sys


class CannotRun(Exception):
    """Nothing can be measured here; the text says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Card:
    name: str
    memory_bytes: int
    capability: str
    driver_cuda: int

    def describe(self) -> str:
        cuda = f"{self.driver_cuda // 1000}.{self.driver_cuda % 1000 // 10}"
        return f"{self.name}, {self.memory_bytes / 2**30:.0f} GiB, sm_{self.capability}, driver for CUDA {cuda}"


# Asks libcuda.so.1 by ctypes and prints JSON: {"error"} or the fields of `Card`.
PROBE = """
import ctypes, json, sys
def end(**fields):
    print(json.dumps(fields)); sys.exit(0)
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    end(error=f"NVIDIA's driver is not installed ({error})")
status = cuda.cuInit(0)
if status:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(status, ctypes.byref(text))
    end(error=f"NVIDIA's driver does not start: {(text.value or b'').decode()} (CUDA error {status})")
count, version = ctypes.c_int(), ctypes.c_int()
cuda.cuDeviceGetCount(ctypes.byref(count))
cuda.cuDriverGetVersion(ctypes.byref(version))
number = int(sys.argv[1])
if number >= count.value:
    end(error=f"there is no card cuda:{number}: the driver has {count.value}")
device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
cuda.cuDeviceGet(ctypes.byref(device), number)
cuda.cuDeviceGetName(name, 256, device)
cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
parts = []
for attribute in (75, 76):  # major and minor compute capability
    value = ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    parts.append(str(value.value))
end(name=name.value.decode(), memory_bytes=memory.value, capability="".join(parts), driver_cuda=version.value)
"""


def find(number: int, seconds: float = 30) -> Card:
    command = [sys.executable, "-c", PROBE, str(number)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise CannotRun(f"NVIDIA's driver does not answer within {seconds:.0f} s") from None
    if done.returncode != 0:
        raise CannotRun(f"asking NVIDIA's driver ends with {done.returncode}: {done.stderr.strip()[-300:]}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise CannotRun(f"no NVIDIA card can be used here: {answer['error']}")
    return Card(**answer)
