"""Damaged copies of files, and a process of its own in which they are read.

The process is a fork of this one. It may not take more memory than it is given, may not hang, start a program, unpickle
anything or write outside of its folder; and it must not die. It says which case it is at, so that the one that killed
it is known.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from weighted_stream.errors import WeightedStreamError

MEMORY = 2 << 30
"""Bytes of address space that a case may take beyond what the process had."""
SECONDS = 180
"""For one case; long, for a machine that has much else to do."""
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "socket.connect")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "shutil.rmtree")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
JSON_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 70, 1e308, float("nan"), "", "x" * 5000, "../../x", [], {}, [[]], {"a": None}, ["\0"],
)  # fmt: skip


class Case(NamedTuple):
    """A damaged file.

    Attributes:
        seed: of its damage.
        name: of the file.
        how: what was done to it.
    """

    seed: int
    name: str
    how: str


class Verdict(NamedTuple):
    """What became of some cases.

    Attributes:
        refused: how many ended in an error of ours.
        right: how many in a right answer.
        wrong: what happened in the others, with the case.
    """

    refused: int
    right: int
    wrong: list[str]


def copy(source: Path, target: Path) -> None:
    """A copy of a folder; holes of files stay holes."""
    target.mkdir()
    for entry in os.scandir(source):
        if entry.is_dir():
            copy(source / entry.name, target / entry.name)
            continue
        with open(entry.path, "rb") as old, open(target / entry.name, "wb") as new:
            size, end = os.fstat(old.fileno()).st_size, 0
            os.ftruncate(new.fileno(), size)
            while end < size:
                try:
                    begin = os.lseek(old.fileno(), end, os.SEEK_DATA)
                except OSError:
                    break
                end = os.lseek(old.fileno(), begin, os.SEEK_HOLE)
                os.pwrite(new.fileno(), os.pread(old.fileno(), end - begin, begin), begin)


def damage(file: Path, chance: random.Random, others: list[Path]) -> str:
    """Change a file in place, and say how."""
    data = file.read_bytes()
    if file.suffix == ".json" and chance.random() < 0.5:
        file.write_bytes(_other_json(data, chance))
        return "another value in the JSON"
    how = chance.choice(["flip", "flip", "flip", "number", "bytes", "cut", "extend", "zero", "splice", "move", "empty"])
    if not data or how == "empty":
        file.write_bytes(b"")
        return "emptied"
    changed, at = bytearray(data), _place(data, chance)
    if how == "flip":
        for _ in range(chance.choice([1, 1, 1, 2, 8])):
            changed[_place(data, chance)] ^= 1 << chance.randrange(8)
    elif how == "number":
        width = chance.choice([1, 2, 4, 8])
        value = chance.choice(EXTREMES) & ((1 << 8 * width) - 1)
        at = at // width * width if chance.random() < 0.7 else at
        changed[at : at + width] = value.to_bytes(width, chance.choice(["little", "little", "big"]))
    elif how == "bytes":
        changed[at : at + 8] = chance.randbytes(8)
    elif how == "cut":
        del changed[chance.choice([at, len(data) - 1, len(data) // 2, chance.randrange(len(data))]) :]
    elif how == "extend":
        changed += chance.choice([bytes, chance.randbytes])(chance.choice([1, 7, 128, 5000]))
    elif how == "zero":
        end = min(len(data), at + chance.choice([1, 8, 100, 4096]))
        changed[at:end] = bytes(end - at)
    elif how == "splice":
        other = chance.choice(others).read_bytes() or data
        where = chance.randrange(len(other))
        if chance.random() < 0.5:
            changed = bytearray(data[:at] + other[where:])
        else:
            changed[at : at + 64] = other[where : where + 64]
    else:
        where, width = _place(data, chance), chance.choice([8, 32, 128])
        changed[at : at + width] = data[where : where + width]
    file.write_bytes(changed)
    return f"{how} at {at} of {len(data)}"


def _place(data: bytes, chance: random.Random) -> int:
    """Somewhere, as a rule where there is something."""
    places = [chance.randrange(len(data)) for _ in range(40)]
    return next((place for place in places if data[place]), places[0])


def _other_json(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.1:
        return chance.choice([b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"null", b"[]", b"{}"])
    value = json.loads(data)
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(value)
    node, key = chance.choice(spots)
    if isinstance(node, dict) and chance.random() < 0.3:
        del node[key]
    else:
        node[key] = chance.choice(JSON_VALUES)
    return json.dumps(value).encode()


def judge(
    pristine: Path,
    names: list[str],
    use: Callable[[Path, Case], str | None],
    *,
    home: Path,
    seeds: range,
    change: Callable[[Path, random.Random, list[Path]], str] = damage,
) -> Verdict:
    """Damage one of the files of a folder, use the folder, and see what comes of it; once for each seed.

    Args:
        pristine: the folder.
        names: of the files in it that are damaged.
        use: works on a damaged copy. Returns None if its answer was right, else what was wrong.
        home: for the copies.
        seeds: of the damage.
        change: damages a file.
    """
    refused = right = 0
    wrong: list[str] = []
    left = list(seeds)
    while left:
        heard, status = _in_a_process(left, pristine, names, use, home, change)
        refused += sum(line == "refused" for line in heard)
        right += sum(line == "right" for line in heard)
        wrong += [line[6:].replace("\\n", "\n") for line in heard if line.startswith("wrong ")]
        cases = [line for line in heard if line.startswith("case ")]
        if status != 0:
            wrong.append(f"{cases[-1] if cases else 'before the first case'}: ended by {status}")
        left = left[max(1, len(cases)) :]
    return Verdict(refused, right, wrong)


def _in_a_process(
    seeds: list[int], pristine: Path, names: list[str], use: Any, home: Path, change: Any
) -> tuple[list[str], int]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            _guard(home)
            for seed in seeds:
                _case(seed, pristine, names, use, home, change, writing)
        except BaseException:
            _say(writing, "wrong " + traceback.format_exc())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        heard = pipe.read().decode(errors="replace").splitlines()
    _, status = os.waitpid(child, 0)
    return heard, os.waitstatus_to_exitcode(status)


def _case(seed: int, pristine: Path, names: list[str], use: Any, home: Path, change: Any, to: int) -> None:
    chance = random.Random(seed)
    folder = home / f"case-{seed}"
    copy(pristine, folder)
    name = chance.choice(names)
    case = Case(seed, name, change(folder / name, chance, [pristine / other for other in names]))
    _say(to, f"case {case}")
    signal.alarm(SECONDS)
    try:
        answer = use(folder, case)
        _say(to, "right" if answer is None else f"wrong {case}: {answer}")
    except WeightedStreamError as error:
        whole = type(error) is not WeightedStreamError and error.found != "" and error.do
        _say(to, "refused" if whole else f"wrong {case}: {error!r} lacks its facts")
    except BaseException:
        _say(to, f"wrong {case}: {traceback.format_exc()}")
    signal.alarm(0)
    shutil.rmtree(folder, ignore_errors=True)


def _say(to: int, text: str) -> None:
    os.write(to, text.replace("\n", "\\n").encode(errors="replace")[-8000:] + b"\n")


def _guard(home: Path) -> None:
    """No more memory than that, no core files; no programs, no pickles, nothing written elsewhere."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout, sys.stderr = open(os.devnull, "w"), open(os.devnull, "w")  # noqa: SIM115

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN:
            raise RuntimeError(f"{event} {arguments!r}"[:200])
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if writes or event in CHANGES:
            _check_inside(home, arguments[0], event)

    sys.addaudithook(look)


def _check_inside(home: Path, path: Any, event: str) -> None:
    """Temporary stores are in a folder of their own, and the home of all of this is one, too."""
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
    allowed = (str(home), os.devnull, os.environ.get("TMPDIR", "/tmp"))
    if os.path.isabs(text) and not text.startswith(allowed):
        raise RuntimeError(f"{event} outside of its folder: {text}")
