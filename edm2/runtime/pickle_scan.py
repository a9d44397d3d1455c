"""What a pickle would make, counted before anything is made of it.

An unpickler believes sizes: a number for a memo allocates the memory of all memos before it, and the
length of a text is allocated before it is read. A key of nested tuples is hashed by recursion in C, and as
often as it occurs in them.
"""

import pickletools
from mmap import mmap
from typing import Any, NamedTuple

from edm2.runtime.limits import (
    MAX_HASHED,
    MAX_HASHED_TOGETHER,
    MAX_NUMBER_BYTES,
    MAX_OPCODES,
    Budget,
    LimitError,
)

MARK = pickletools.markobject
LENGTHS = {  # bytes of the length in front of an argument
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
LINES = {"INST": 2, "GLOBAL": 2}  # of an argument in lines; others have 1
TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}  # hashed by what is in them
KEYS, MEMBERS = {"SETITEM", "SETITEMS", "DICT"}, {"ADDITEMS", "FROZENSET"}
NUMBERS = {"LONG1", "LONG4", "INT", "LONG", "FLOAT", "GET", "PUT"}
PUTS, GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


class _Opcode(NamedTuple):
    name: str
    pushes: bool  # whether it does nothing but add an object
    size: int  # of the argument; below 0 one of the kinds of pickletools
    marked: bool  # whether it takes all above a mark
    taken: int  # objects below
    made: int


def _opcode(info: Any) -> _Opcode:
    before, made = info.stack_before, len(info.stack_after)
    taken = before.index(MARK) if MARK in before else len(before)
    pushes = not before and made == 1 and info.name not in GETS and info.name != "MARK"
    return _Opcode(info.name, pushes, info.arg.n if info.arg else 0, MARK in before, taken, made)


OPCODES: list[_Opcode | None] = [None] * 256
for _info in pickletools.opcodes:
    OPCODES[ord(_info.code)] = _opcode(_info)


def scan(data: bytes | mmap, start: int = 0) -> int:
    """Where the pickle that begins at `start` ends.

    Raises:
        LimitError: it asks for more than any real file needs.
        ValueError: it is truncated, or no pickle.
    """
    stack, position, size = _Stack(), start, len(data)
    for _ in range(MAX_OPCODES):
        if position >= size:
            raise ValueError("truncated")
        opcode = OPCODES[data[position]]
        if opcode is None:
            raise ValueError(f"invalid load key, {bytes([data[position]])!r}")
        begin = position + 1
        position = begin + opcode.size if opcode.size >= 0 else _end(data, opcode, begin)
        if position > size:
            raise ValueError(f"truncated: {opcode.name} is longer than what follows")
        if opcode.pushes:
            stack.values.append(1)
        elif opcode.name == "FRAME":
            if int.from_bytes(data[begin:position], "little") > size - position:
                raise ValueError("truncated: a frame is longer than what follows")
        elif opcode.name == "STOP":
            return position
        else:
            stack.apply(opcode, data[begin:position])
    raise LimitError(f"more than {MAX_OPCODES} operations")


def _end(data: bytes | mmap, opcode: _Opcode, begin: int) -> int:
    """Where an argument of variable length ends; after the data if it is longer."""
    if opcode.size in LENGTHS:
        start = begin + LENGTHS[opcode.size]
        end = start + int.from_bytes(data[begin:start], "little")
    else:
        end = begin
        for _ in range(LINES.get(opcode.name, 1)):
            end = data.find(b"\n", end) + 1 or len(data) + 1
    if opcode.name in NUMBERS and end - begin > MAX_NUMBER_BYTES:
        raise LimitError(f"an integer of {end - begin} bytes")
    return end


class _Stack:
    """How many values are hashed where an object is a key, for each object on the stack; None: a mark."""

    def __init__(self) -> None:
        self.values: list[int | None] = []
        self.memo: dict[int, int | None] = {}
        self.hashed = Budget(MAX_HASHED_TOGETHER, "values in keys")

    def apply(self, opcode: _Opcode, argument: bytes) -> None:
        if opcode.name in PUTS or opcode.name == "MEMOIZE":
            self._put(opcode, argument)
        elif opcode.name in GETS:
            number = _number(opcode, argument)
            if number not in self.memo:
                raise ValueError(f"damaged: nothing has the number {number}")
            self.values.append(self.memo[number])
        elif opcode.name == "DUP":
            self.values += [self._pop()] * 2
        elif opcode.name == "MARK":
            self.values.append(None)
        elif opcode.name == "POP":
            self._pop()
        else:
            self._replace(opcode)

    def _replace(self, opcode: _Opcode) -> None:
        """What most opcodes do: take some objects, and make others."""
        taken: list[int] = []
        while opcode.marked and (value := self._pop()) is not None:
            taken.append(value)
        for _ in range(opcode.taken):
            value = self._pop()
            if value is None:
                raise ValueError("damaged: unexpected MARK")
            taken.append(value)
        hashed = taken[1::2] if opcode.name in KEYS else taken if opcode.name in MEMBERS else []
        if max(hashed, default=0) > MAX_HASHED:
            raise LimitError(f"a key that is a tuple of more than {MAX_HASHED} values")
        self.hashed.spend(sum(hashed))
        size = min(1 + sum(taken), MAX_HASHED + 1) if opcode.name in TUPLES else 1
        self.values += [size] * opcode.made

    def _put(self, opcode: _Opcode, argument: bytes) -> None:
        number = len(self.memo) if opcode.name == "MEMOIZE" else _number(opcode, argument)
        if number > len(self.memo) + 1:  # they are consecutive, from 0 or 1
            raise LimitError(f"object {len(self.memo)} has the number {number}")
        if not self.values:
            raise ValueError("damaged: stack underflow")
        self.memo[number] = self.values[-1]

    def _pop(self) -> int | None:
        if not self.values:
            raise ValueError("damaged: stack underflow")
        return self.values.pop()


def _number(opcode: _Opcode, argument: bytes) -> int:
    return int(argument) if opcode.name in ("GET", "PUT") else int.from_bytes(argument, "little")
