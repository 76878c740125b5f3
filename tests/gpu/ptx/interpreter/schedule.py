"""Runs the threads of some blocks: the lowest instruction first, so that threads that took different ways meet again.

A barrier holds threads until all threads of their block are there; a warp instruction holds them until all threads
that it names are there. When nothing can go on, whoever waits is reported: a divergent barrier or warp instruction.
"""

import numpy as np

from . import moves  # noqa: F401  (fills the table of decoders)
from . import warp
from .arithmetic import DECODERS
from .context import PREDICATE
from .fault import Fault
from .registers import Active

WARP = warp.WARP
ORDINARY, JUMP, TABLE, EXIT, BARRIER, TOGETHER = range(6)
# A kernel of ours takes some ten thousand steps; more than this is a loop without end.
MOST_STEPS = 3_000_000


class Step:
    """An instruction that is ready to run."""

    __slots__ = ("kind", "run", "guard", "target", "instruction")

    def __init__(self, context, instruction):
        self.instruction = instruction
        self.guard = None
        self.target = None
        self.run = None
        if instruction.guard:
            guard = instruction.guard
            self.guard = context.reader(("not", guard) if instruction.guard_negated else guard, PREDICATE)
        self.kind = self._decode(context, instruction)

    def _decode(self, context, instruction) -> int:
        name = instruction.name
        if name == "bra":
            self.target = context.entry.labels[instruction.operands[0].name]
            return JUMP
        if name == "brx":
            labels = context.entry.branch_tables[instruction.operands[1].name]
            self.target = np.array([context.entry.labels[label] for label in labels])
            self.run = context.reader(instruction.operands[0], warp.U32)
            return TABLE
        if name in ("ret", "exit"):
            return EXIT
        if name in ("bar", "barrier"):
            if instruction.modifiers == ("warp", "sync"):
                self.run = warp.WarpStep(lambda active: None, context.reader(instruction.operands[0], warp.U32))
                return TOGETHER
            if "sync" not in instruction.modifiers or [getattr(o, "bits", None) for o in instruction.operands] != [0]:
                raise Fault(f"{instruction.where()}: a barrier that the interpreter does not know")
            return BARRIER
        if name in warp.DECODERS:
            self.run = warp.DECODERS[name](context, instruction)
            return TOGETHER
        if name not in DECODERS:
            raise Fault(f"{instruction.where()}: the instruction {name} is unknown to the interpreter")
        self.run = DECODERS[name](context, instruction)
        return ORDINARY


class Schedule:
    """One run of the blocks of a context."""

    def __init__(self, context, steps: list, present: np.ndarray):
        self.context = context
        self.steps = steps
        self.ready = {0: present.copy()}  # instruction -> threads that are to execute it
        self.held = {}  # barrier or warp instruction -> threads that wait there
        self.count = 0

    def run(self) -> int:
        with np.errstate(all="ignore"):
            while self.ready:
                self._run_from(min(self.ready))
        if self.held:
            self._report()
        return self.count

    def _add(self, at: int, mask: np.ndarray) -> None:
        self.ready[at] = self.ready[at] | mask if at in self.ready else mask

    def _run_from(self, at: int) -> None:
        """Runs the threads at instruction `at` until they jump, wait, or come to where others are."""
        active = Active(self.ready.pop(at))
        meeting = min(self.ready, default=len(self.steps))
        while at != meeting:
            if at >= len(self.steps):
                raise Fault("a thread runs past the end of the kernel")
            step = self.steps[at]
            self.count += 1
            if self.count > MOST_STEPS:
                raise Fault(f"{step.instruction.where()}: the kernel does not end")
            try:
                if step.kind == ORDINARY:
                    if step.guard is None:
                        step.run(active)
                    else:
                        taken = active.mask & step.guard(active)
                        if taken.any():
                            step.run(Active(taken))
                    at += 1
                    continue
                left = self._leave(at, step, active)
            except Fault as fault:
                raise Fault(f"{fault} [{step.instruction.where()}]") from None
            if left is None:
                return
            at += 1
            active = left
            meeting = min(self.ready, default=len(self.steps))
        self._add(at, active.mask)

    def _leave(self, at: int, step: Step, active: Active) -> "Active | None":
        """Executes what is not ordinary; gives the threads that go on to the next instruction, if nothing changed."""
        if step.kind == TOGETHER and step.guard is None and at not in self.held and active.whole_warps:
            step.run.run(active)
            return active
        mask = active.mask if step.guard is None else active.mask & step.guard(active)
        others = active.mask & ~mask
        if not mask.any():
            return active
        if step.kind == TOGETHER:
            complete = self._complete_warps(at, step, mask)
            if complete is None:
                if others.any():
                    self._add(at + 1, others)
                return None
            step.run.run(complete)
            mask = complete.mask
        if others.any():
            self._add(at + 1, others)
        if step.kind == TOGETHER:
            self._add(at + 1, mask)
        elif step.kind == JUMP:
            self._add(step.target, mask)
        elif step.kind == TABLE:
            chosen = step.run(active)
            for index in np.unique(chosen[mask]):
                self._add(int(step.target[index]), mask & (chosen == index))
        elif step.kind == BARRIER:
            self._arrive(at, mask)
        return None

    def _complete_warps(self, at: int, step: Step, mask: np.ndarray) -> "Active | None":
        """The threads of those warps all of whose members are here; the others are held."""
        if at in self.held:
            mask = mask | self.held.pop(at)
        here = mask.reshape(-1, WARP)
        if here.all():
            needed = None
        elif step.run.members is None:
            needed = np.ones_like(here)
        else:
            members = np.asarray(step.run.members(Active(mask)))
            members = np.full(mask.size, members) if members.ndim == 0 else members
            needed = (members.reshape(-1, WARP)[:, :] >> warp.LANE.astype(np.uint32)) & 1 > 0
            # A lane's own opinion counts only when it is here.
            needed = np.where(here.any(axis=1)[:, None], needed, False)
        if needed is None:
            return Active(mask)
        complete = here.any(axis=1) & (here | ~needed).all(axis=1)
        going = (here & complete[:, None]).reshape(-1)
        waiting = mask & ~going
        if waiting.any():
            self.held[at] = waiting
        if not going.any():
            return None
        if not here[complete].all():
            raise Fault("a warp instruction for a part of a warp is unknown to the interpreter")
        return Active(going)

    def _arrive(self, at: int, mask: np.ndarray) -> None:
        if at in self.held:
            mask = mask | self.held.pop(at)
        by_block = mask.reshape(-1, self.context.threads)
        complete = by_block.all(axis=1)
        waiting = (by_block & ~complete[:, None]).reshape(-1)
        if waiting.any():
            self.held[at] = waiting
        if complete.any():
            self.context.shared.barrier(np.flatnonzero(complete))
            self._add(at + 1, mask & ~waiting)

    def _report(self) -> None:
        at = min(self.held)
        waiting = self.held[at].reshape(-1, self.context.threads)
        block = int(np.flatnonzero(waiting.any(axis=1))[0])
        count = int(waiting[block].sum())
        others = [
            self.steps[other].instruction.where()
            for other, mask in self.held.items()
            if other != at and mask.reshape(-1, self.context.threads)[block].any()
        ]
        where = f"others wait at {others}" if others else "the others have ended"
        waiting_at = self.steps[at].instruction.where()
        raise Fault(f"{count} of {self.context.threads} threads of a block wait at {waiting_at}, {where}")
