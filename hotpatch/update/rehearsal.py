# SPDX-License-Identifier: GPL-2.0-or-later
"""Rehearsal: the checks, transfers and reverses of a patch, tried out in a replica of the target.

The replica is made at a moment like that of the commit, by the program that makes snapshots
(`update.snapshot`), and runs while the target does. In it all is run three times: once to be rolled
back at its end, after which the variables of the program have to be as before; once in earnest; and
then the reverses, after which they are compared again. What fails here never gets to the target.

If we die, the kernel kills the replica. It is then a zombie, which the next patcher reaps: its
pid is in the patch's header since before it could run.
"""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import NamedTuple

from hotpatch.arch import syscalls
from hotpatch.arch.registers import Registers
from hotpatch.elf.file import ElfFile
from hotpatch.errors import Busy, Gone, Refused, RolledBack
from hotpatch.link.scope import symbol_tables
from hotpatch.linux import procfs
from hotpatch.linux.memory import Memory
from hotpatch.linux.remote import Overdue, Program
from hotpatch.linux.replica import Replica, is_inside
from hotpatch.linux.snapshot import Lost
from hotpatch.linux.threads import Hold
from hotpatch.process import ledger
from hotpatch.quiescence import references
from hotpatch.update import calls, cloning, job, snapshot
from hotpatch.update.borrow import suitable
from hotpatch.update.drain import Drain
from hotpatch.update.failure import Image, explained
from hotpatch.update.moment import NotNow, at_quiescence
from hotpatch.update.plan import Plan
from hotpatch.update.result import Rehearsal, Step
from hotpatch.update.session import Session, no_time
from hotpatch.update.transfer import GRACE_NS, Attendant, Failed

_PAGE = 4096
_LARGEST = 64 << 20  # of the variables of one module, to be compared
_NAMES = 5
_MAP_ANONYMOUS = 0x20
# What changes nothing outside of the replica, besides mmap without a file.
_ALLOWED = frozenset(
    {
        *(syscalls.MPROTECT, syscalls.MUNMAP, syscalls.BRK, syscalls.MREMAP, syscalls.MADVISE),
        *(syscalls.RT_SIGACTION, syscalls.RT_SIGPROCMASK, syscalls.SIGALTSTACK),
        *(syscalls.RT_SIGTIMEDWAIT, syscalls.RT_SIGRETURN, syscalls.TIMER_CREATE),
        *(syscalls.TIMER_SETTIME, syscalls.TIMER_DELETE, syscalls.FUTEX, syscalls.RESTART_SYSCALL),
        *(syscalls.GETPID, syscalls.GETTID, syscalls.SCHED_YIELD, syscalls.NANOSLEEP),
        *(syscalls.CLOCK_NANOSLEEP, syscalls.CLOCK_GETTIME, syscalls.GETTIMEOFDAY),
        *(syscalls.GETRANDOM, syscalls.TIME, syscalls.GETCPU),
    }
)


class _Data(NamedTuple):
    """Variables of a module: where they are, and what they were."""

    name: str
    start: int
    content: bytes


def rehearse(session: Session, plan: Plan, elf: ElfFile) -> Rehearsal:
    """Try a staged and armed patch out; return what it took.

    Raises RolledBack for a step that fails, Refused for one that changes variables past the log,
    Busy, Gone, Denied.
    """
    start, size = plan.record.regions[0]
    with explained(session, Image(elf, plan.bias, start, start + size, "in the rehearsal, ")):
        for attempt in count(1):
            try:
                return _rehearse(session, plan)
            except (Lost, NotNow) as error:
                reason = str(error) or "the replica was ended by somebody else"
            finally:
                with suppress(Busy):  # the next patcher does it, then
                    snapshot.reap_leftover(session, plan.header, "rehearse")
            if not session.wait_before_retry("rehearse", attempt, ()):
                break
    raise no_time(f"the patch could not be rehearsed: {reason}", session,
                  "try again, or use --no-rehearse")  # fmt: skip


def _rehearse(session: Session, plan: Plan) -> Rehearsal:
    at = snapshot.site(plan.header, plan.regions[0].header_size, plan.scratch)
    with Drain(session, plan.header, plan.record, ledger.OFF) as drain:
        act = partial(_clone, session, at)
        made = at_quiescence(session, "rehearse", plan.active, act, drain=drain)
    if isinstance(made, str):
        raise Refused(f"the patch can't be rehearsed: {made}", "use --no-rehearse")
    pid = snapshot.child_pid(session, plan.header)
    try:
        with Replica(pid, session.process.gadgets) as replica:
            return _Stage(session, plan, replica).play()
    except Gone:  # the replica; or all
        session.process.check_alive()
        raise Lost from None


def expect_affordable(session: Session) -> None:
    """Refuse to rehearse in a replica of a target for which that would be a burden."""
    pid = session.process.pid
    try:
        cloning.expect_affordable(pid, references.survey(pid, ()), session.max_pause_ns)
    except cloning.TooDear as error:
        raise Refused(f"the patch can't be rehearsed: {error}", "use --no-rehearse") from None


def _clone(session: Session, at: snapshot.Site, hold: Hold) -> int | str:
    """Make the replica in a stop of all threads; return a string where the target can't."""
    thread = suitable(session, hold, session.stacks, calls.waits, snapshot.TAKE)
    if thread is None:
        raise NotNow("no thread waits in a system call from which the replica could be made")
    return snapshot.clone(session, at, thread)


class _Stage:
    """A replica in which a patch is tried out."""

    def __init__(self, session: Session, plan: Plan, replica: Replica) -> None:
        self._session = session
        self._plan = plan
        self._record = plan.record
        self._replica = replica
        self._shared = replica.seclude()
        self._refused: set[int] = set()
        self._pid = procfs.innermost_pid(replica.pid)

    def play(self) -> Rehearsal:
        """Run all; see the module."""
        before = self._variables()
        self._begin_anew()
        self._run_and_roll_back()
        self._expect_the_same(before)
        self._begin_anew()
        before = self._variables()
        began = time.perf_counter_ns()
        self._run(self._plan.steps, ledger.ON)
        us = (time.perf_counter_ns() - began) // 1000
        logged = job.progress(self._replica.memory, self._record)[2]
        kib = self._replica.private_kib()
        if self._plan.reverse:
            self._run(self._plan.reverse, ledger.OFF)
            self._note_differences(before)
        for number in sorted(self._refused):
            self._session.warnings.append(
                f"a transfer calls {syscalls.name(number)}, which was refused in the rehearsal"
            )
        return Rehearsal(us, logged, kib, self._session.longest_stop_us("rehearse"))

    def _begin_anew(self) -> None:
        """Give the patch its data as it is in the file, and run what is run before the steps."""
        self._plan.renew(self._replica.memory)
        resolvers = [call for call in self._plan.calls if call.slot is not None]
        results = self._call([call.address for call in resolvers])
        for call, value in zip(resolvers, results, strict=True):
            assert call.slot is not None
            self._replica.memory.write(call.slot, struct.pack("<Q", value))
        self._call([call.address for call in self._plan.calls if call.slot is None])

    def _call(self, functions: Sequence[int]) -> list[int]:
        """Run resolvers or constructors; return their results."""
        memory, place = self._replica.memory, calls.Place(self._record)
        watcher = _Strict(self._session, self._record, memory, self._pid, self._refused)
        results: list[int] = []
        for function in functions:
            memory.write(place.stack, calls.table([function]))
            with self._replica.borrowed() as borrowed:
                try:
                    borrowed.run_watched(
                        place.program,
                        place.stack + ledger.STACK_SIZE,
                        calls.LIMIT_NS,
                        watcher,
                        tuple,
                        rbx=place.stack,
                        r12=1,
                    )
                except (Overdue, Gone):
                    self._session.process.check_alive()
                    what = "crashed" if watcher.fault_seen else "did not end"
                    raise RolledBack(
                        f"in the rehearsal, a constructor of the patch {what}",
                        "the target has its old code and state; mend the patch",
                    ) from None
            results += calls.results(memory, place, 1)
        return results

    def _run_and_roll_back(self) -> None:
        """Run the steps, and one more that fails."""
        assert self._record.transfer is not None
        last = Step("end", "", "", self._record.transfer.fails)
        try:
            self._run((*self._plan.steps, last), ledger.ON)
        except Failed as failed:
            if failed.step != last:
                raise

    def _run(self, steps: Sequence[Step], value: int) -> None:
        """Run steps to their end; raises Failed, and NotNow where one waits for a lock."""
        code, memory, plan = self._record.transfer, self._replica.memory, self._plan
        assert code is not None
        limit_ns = int(self._session.options.transfer_timeout * 1e9)
        switch = job.Switch(
            plan.header,
            plan.regions[0].header_size,
            plan.header + ledger.SWITCH_OFFSET,
            value,
        )
        job.set_up(memory, self._record, [step.address for step in steps], switch, limit_ns)
        watcher = _Strict(self._session, self._record, memory, self._pid, self._refused)
        with self._replica.borrowed() as borrowed:
            try:
                borrowed.run_watched(
                    Program(code.start, code.asleep, uses_fpu=True),
                    self._record.stack + ledger.STACK_SIZE,
                    limit_ns + GRACE_NS,
                    watcher,
                    lambda: job.begin(memory, self._record.stack),
                    rbx=self._record.stack,
                )
            except Overdue:
                raise Lost from None
        self._judge(steps, watcher, limit_ns)

    def _judge(self, steps: Sequence[Step], watcher: Attendant, limit_ns: int) -> None:
        memory = self._replica.memory
        outcome = job.outcome(memory, self._record.stack)
        fault = watcher.fault_seen
        if fault is not None and is_inside(fault.info.address, self._shared):
            raise Refused(
                f"{steps[outcome.function]} writes to memory that is shared with other processes, "
                "which can't be rehearsed",
                "use --no-rehearse",
            )
        if outcome.status == job.LOCKED:
            raise NotNow("a transfer waits for a lock that another thread has")
        if outcome.status == job.INTERRUPTED and watcher.interruption is not None:
            raise watcher.interruption
        if outcome.status != job.DONE:
            step = steps[min(outcome.function, len(steps) - 1)]
            raise Failed(step, outcome, limit_ns, job.messages(memory, self._record), fault)

    def _variables(self) -> list[_Data]:
        """Read the variables of the program and of what is patched; not the allocator's."""
        patched = {function.module for function in self._record.replaced}
        found = []
        for mapping in procfs.mappings(self._replica.pid):
            if not mapping.protection.startswith("rw-p"):
                continue
            module = self._session.process.module_at(mapping.start)
            if module is None or not (module.program or module.path in patched):
                continue
            if any(table.by_name("malloc_trim") for table in symbol_tables(module)[:1]):
                continue  # it has an allocator of its own among its variables
            size = min(mapping.end - mapping.start, _LARGEST)
            content = self._replica.memory.read(mapping.start, size)
            found.append(_Data(module.name, mapping.start, content))
        return found

    def _expect_the_same(self, before: Iterable[_Data]) -> None:
        names = self._differences(before)
        if names:
            raise Refused(
                f"a transfer changes {', '.join(names[:_NAMES])} past the log: if it failed, that "
                "would not be put back",
                "change it by hotpatch_set, or after hotpatch_save",
            )

    def _note_differences(self, before: Iterable[_Data]) -> None:
        names = self._differences(before)
        if names:
            self._session.warnings.append(
                f"after the transfer and its reverse, {len(names)} variables are not as before: "
                f"{', '.join(names[:_NAMES])}"
            )

    def _differences(self, before: Iterable[_Data]) -> list[str]:
        """Return the variables that differ; not those that point somewhere else than before."""
        mappings = procfs.mappings(self._replica.pid)
        writable = [(m.start, m.end) for m in mappings if m.protection[1] == "w"]
        names = []
        for data in before:
            now = self._replica.memory.read(data.start, len(data.content))
            for at in _changed_words(data.content, now):
                words = struct.unpack("<QQ", data.content[at : at + 8] + now[at : at + 8])
                if not all(is_inside(word, writable) for word in words):
                    names.append(self._name(data, data.start + at))
        return list(dict.fromkeys(names))

    def _name(self, data: _Data, address: int) -> str:
        module = self._session.process.module_at(data.start)
        assert module is not None
        for table in symbol_tables(module):
            for byte in range(8):
                symbol = table.at(address + byte - module.bias)
                if symbol is not None:
                    return symbol.name
        return f"{address:#x} ({data.name})"


def _changed_words(old: bytes, new: bytes) -> Iterator[int]:
    """Yield where the 8-byte words are that differ."""
    for page in range(0, len(old), _PAGE):
        if old[page : page + _PAGE] != new[page : page + _PAGE]:
            for at in range(page, min(page + _PAGE, len(old)), 8):
                if old[at : at + 8] != new[at : at + 8]:
                    yield at


class _Strict(Attendant):
    """One that lets nothing out of the replica."""

    def __init__(
        self,
        session: Session,
        record: ledger.Record,
        memory: Memory,
        pid: int,
        refused: set[int],
    ) -> None:
        super().__init__(session, record, memory, "rehearse")
        self._pid = pid
        self.every_call = True
        self._refused = refused

    def call(self, registers: Registers) -> bool:
        """Refuse all that might be seen outside."""
        changed = super().call(registers)
        self.every_call = True
        number = registers.syscall
        if changed or number is None or number in _ALLOWED or not registers.enters_call:
            return changed
        if number == syscalls.MMAP and registers.argument(3) & _MAP_ANONYMOUS:
            return False
        if number == syscalls.TGKILL and registers.argument(0) == self._pid:
            registers.rsi = self._pid  # raise(3) takes the thread id that its original has
            return True
        self._refused.add(number)
        registers.refuse_call(errno.EPERM)
        return True
