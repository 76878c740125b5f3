"""Global, shared and local memory: every access is checked for bounds, alignment and, in shared memory, for races.

Addresses are numbers of the interpreter: buffer `i` begins at `(i + 1) << 32`, so an address says which buffer it
belongs to, and running over the end of one never reaches another. Shared and local memory have windows of their own
in the generic address space.
"""

import dataclasses

import numpy as np

from .fault import Fault
from .races import Races, tags

SHARED_WINDOW = 0x7F << 40
LOCAL_WINDOW = 0x7E << 40
BUFFER_SHIFT = 32


def padded(size: int) -> int:
    return (size + 15) // 16 * 16


@dataclasses.dataclass
class Buffer:
    """A piece of global memory. `data` is padded to whole 16 bytes, `size` is what a kernel may touch.

    Only what kernels may write has `races`.
    """

    name: str
    data: np.ndarray
    size: int
    races: "Races | None"


class GlobalMemory:
    def __init__(self):
        self.buffers = []

    def add(self, name: str, contents: np.ndarray, writable: bool) -> int:
        """Copies `contents` into a buffer of its own and gives the buffer's address."""
        raw = np.ascontiguousarray(contents).reshape(-1).view(np.uint8)
        data = np.zeros(padded(raw.size), np.uint8)
        data[: raw.size] = raw
        self.buffers.append(Buffer(name, data, raw.size, Races(name, data.size) if writable else None))
        return len(self.buffers) << BUFFER_SHIFT

    def contents(self, address: int, dtype) -> np.ndarray:
        buffer = self.buffers[(address >> BUFFER_SHIFT) - 1]
        return buffer.data[: buffer.size].view(dtype)

    def begin_launch(self) -> None:
        """Launches follow one another, so what another one did is no race."""
        for buffer in self.buffers:
            if buffer.races:
                buffer.races.forget()

    def _buffer(self, number: int, example: int) -> Buffer:
        if not 1 <= number <= len(self.buffers):
            raise Fault(f"address {example:#x} is in no buffer")
        return self.buffers[number - 1]

    def _pieces(self, addresses: np.ndarray, size: int):
        """For each buffer that is touched: the buffer, which accesses touch it, and their byte offsets."""
        numbers = addresses >> np.uint64(BUFFER_SHIFT)
        first = numbers[0]
        if (numbers == first).all():
            groups = [(int(first), slice(None))]
        else:
            groups = [(int(number), numbers == number) for number in np.unique(numbers)]
        for number, which in groups:
            offsets = (addresses[which] & np.uint64((1 << BUFFER_SHIFT) - 1)).astype(np.int64)
            buffer = self._buffer(number, int(addresses[which][0]))
            last = int(offsets.max())
            if last + size > buffer.size:
                raise Fault(f"{size} bytes at offset {last} of {buffer.name}, which has {buffer.size} bytes")
            if (offsets % size).any():
                wrong = int(offsets[offsets % size != 0][0])
                raise Fault(f"a misaligned access of {size} bytes at offset {wrong} of {buffer.name}")
            yield buffer, which, offsets

    def load(self, addresses: np.ndarray, width: int, count: int, who: np.ndarray) -> np.ndarray:
        """`count` values of `width` bytes from each address, as unsigned integers [address, count].

        `who` has the tag of the thread of each address.
        """
        result = np.empty((addresses.size, count), f"uint{8 * width}")
        for buffer, which, offsets in self._pieces(addresses, width * count):
            if buffer.races:
                buffer.races.read(Races.granules(offsets, width * count), who[which][:, None])
            cells = buffer.data.view(result.dtype)
            result[which] = cells[(offsets // width)[:, None] + np.arange(count)]
        return result

    def store(self, addresses: np.ndarray, values: np.ndarray, who: np.ndarray) -> None:
        width, count = values.dtype.itemsize, values.shape[1]
        for buffer, which, offsets in self._pieces(addresses, width * count):
            if buffer.races is None:
                raise Fault(f"a store to {buffer.name}, which is an input")
            buffer.races.write(Races.granules(offsets, width * count), who[which][:, None])
            cells = buffer.data.view(values.dtype)
            cells[(offsets // width)[:, None] + np.arange(count)] = values[which]


class SharedMemory:
    """The shared memory of several blocks, each with `size` bytes; it begins as NaN of every float type."""

    def __init__(self, blocks: int, threads: int, size: int):
        self.size = size
        self.stride = padded(size)
        self.threads = threads
        self.data = np.full(blocks * self.stride, 0xFF, np.uint8)
        self.barriers = np.zeros(blocks, np.int32)
        self.races = Races("shared memory", blocks * self.stride)

    def forget(self) -> None:
        self.data[:] = 0xFF
        self.barriers[:] = 0
        self.races.forget()

    def _place(self, lanes: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
        """Checks offsets of a block's memory and makes them offsets of `data`."""
        offsets = offsets.astype(np.int64)
        if int(offsets.max()) + size > self.size or int(offsets.min()) < 0:
            wrong = int(offsets.max())
            raise Fault(f"{size} bytes at offset {wrong} of shared memory, which has {self.size} bytes")
        if (offsets % size).any():
            wrong = int(offsets[offsets % size != 0][0])
            raise Fault(f"a misaligned access of {size} bytes at offset {wrong} of shared memory")
        return offsets + (lanes // self.threads) * self.stride

    def tags(self, lanes: np.ndarray) -> np.ndarray:
        """Blocks do not share this memory, so their numbers are left out."""
        blocks = lanes // self.threads
        return tags(np.zeros_like(blocks), self.barriers[blocks], lanes % self.threads)[:, None]

    def note_reads(self, lanes: np.ndarray, at: np.ndarray, size: int) -> None:
        granules = Races.granules(at, size)
        if not self.races.is_written(granules):
            raise Fault("shared memory is read that no thread of the block has written")
        self.races.read(granules, self.tags(lanes))

    def note_writes(self, lanes: np.ndarray, at: np.ndarray, size: int) -> None:
        self.races.write(Races.granules(at, size), self.tags(lanes))

    def load(self, lanes: np.ndarray, offsets: np.ndarray, width: int, count: int) -> np.ndarray:
        at = self._place(lanes, offsets, width * count)
        self.note_reads(lanes, at, width * count)
        cells = self.data.view(f"uint{8 * width}")
        return cells[(at // width)[:, None] + np.arange(count)]

    def store(self, lanes: np.ndarray, offsets: np.ndarray, values: np.ndarray) -> None:
        width, count = values.dtype.itemsize, values.shape[1]
        at = self._place(lanes, offsets, width * count)
        self.note_writes(lanes, at, width * count)
        self.data.view(values.dtype)[(at // width)[:, None] + np.arange(count)] = values

    def add(self, lanes: np.ndarray, offsets: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Adds atomically, thread after thread; gives what each found."""
        width = values.dtype.itemsize
        at = self._place(lanes, offsets, width)
        granules = Races.granules(at, width)
        if not self.races.is_written(granules):
            raise Fault("shared memory is read that no thread of the block has written")
        self.races.add(granules, self.tags(lanes))
        cells = self.data.view(values.dtype)
        order = np.argsort(at, kind="stable")
        places, added = at[order] // width, values[order]
        sums = np.cumsum(added, dtype=values.dtype)
        starts = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
        lengths = np.diff(np.append(starts, places.size))
        base = np.repeat(sums[starts] - added[starts], lengths)
        found = np.empty_like(values)
        found[order] = cells[places] + (sums - added - base)
        np.add.at(cells, places, added)
        return found

    def rows(self, lanes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Eight 16-bit values from each offset, which must be a multiple of 16 bytes: rows of ldmatrix."""
        return self.load(lanes, offsets, 16 // 8, 8) if not (offsets % 16).any() else self._misaligned_row(offsets)

    def _misaligned_row(self, offsets: np.ndarray):
        wrong = int(offsets[offsets % 16 != 0][0])
        raise Fault(f"a row of ldmatrix begins at offset {wrong} of shared memory, which is no multiple of 16")

    def barrier(self, blocks: np.ndarray) -> None:
        self.barriers[blocks] += 1


class LocalMemory:
    """Memory of each thread alone: arrays that the compiler could not keep in registers."""

    def __init__(self, lanes: int, size: int):
        self.size = size
        self.stride = padded(size)
        self.data = np.zeros(lanes * self.stride, np.uint8)

    def _place(self, lanes: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
        offsets = offsets.astype(np.int64)
        if int(offsets.max()) + size > self.size or int(offsets.min()) < 0 or (offsets % size).any():
            raise Fault(f"{size} bytes at offset {int(offsets.max())} of local memory, which has {self.size} bytes")
        return offsets + lanes * self.stride

    def load(self, lanes: np.ndarray, offsets: np.ndarray, width: int, count: int) -> np.ndarray:
        at = self._place(lanes, offsets, width * count)
        return self.data.view(f"uint{8 * width}")[(at // width)[:, None] + np.arange(count)]

    def store(self, lanes: np.ndarray, offsets: np.ndarray, values: np.ndarray) -> None:
        width, count = values.dtype.itemsize, values.shape[1]
        at = self._place(lanes, offsets, width * count)
        self.data.view(values.dtype)[(at // width)[:, None] + np.arange(count)] = values


class AsyncCopies:
    """cp.async: copies to shared memory that land when their group is waited for, or at once (`eager`).

    The card may do either, so a kernel must be right with both: what lands late shows a missing wait, what lands early
    shows a buffer that is filled again too soon.
    """

    def __init__(self, lanes: int, shared: SharedMemory, eager: bool):
        self.shared = shared
        self.eager = eager
        self.commits = np.zeros(lanes, np.int32)
        self.waiting = []

    def forget(self) -> None:
        self.commits[:] = 0
        self.waiting = []

    def start(self, lanes: np.ndarray, offsets: np.ndarray, data: np.ndarray) -> None:
        at = self.shared._place(lanes, offsets, data.shape[1])
        self.shared.note_writes(lanes, at, data.shape[1])
        if self.eager:
            self._land(at, data)
        else:
            self.waiting.append((lanes, self.commits[lanes], at, data))

    def commit(self, lanes: np.ndarray) -> None:
        self.commits[lanes] += 1

    def wait(self, mask: np.ndarray, newest_left: int) -> None:
        """Lands all groups of the threads in `mask` but the `newest_left` newest committed ones."""
        left = []
        for lanes, groups, at, data in self.waiting:
            lands = mask[lanes] & (groups < self.commits[lanes] - newest_left)
            if lands.all():
                self._note_landing(lanes, at, data)
            elif lands.any():
                self._note_landing(lanes[lands], at[lands], data[lands])
                stays = ~lands
                left.append((lanes[stays], groups[stays], at[stays], data[stays]))
            else:
                left.append((lanes, groups, at, data))
        self.waiting = left

    def _note_landing(self, lanes: np.ndarray, at: np.ndarray, data: np.ndarray) -> None:
        self.shared.note_writes(lanes, at, data.shape[1])
        self._land(at, data)

    def _land(self, at: np.ndarray, data: np.ndarray) -> None:
        self.shared.data[at[:, None] + np.arange(data.shape[1])] = data
