"""Build sdist and wheel, install the wheel where the source is not, and use it as a stranger would.

    python -m tools.check_package [--slow]

The fast form borrows the dependencies of this environment, and so needs no network. ``--slow`` makes an environment
that has nothing else (gigabytes, minutes), and lets pip resolve every extra.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys
from pathlib import Path

import torch

import weighted_stream
from weighted_stream import LinUpper, Signals, Strategy, WeightedStream, WeightStore, per_sample_cross_entropy


class Even(Strategy):
    def weights(self, signals: Signals) -> torch.Tensor:
        return torch.ones_like(self.losses(signals))


model = torch.nn.Linear(4, 3)
dataset = torch.utils.data.TensorDataset(torch.rand(64, 4), torch.randint(0, 3, (64,)))
stream = WeightedStream(dataset, LinUpper() * Even(), store="run/weights")
for (x, y), weight in stream.loader(batch_size=8, shuffle=True, num_workers=2):
    losses = per_sample_cross_entropy(model(x), y)
    (losses * weight).mean().backward()
visits: float = stream.stats()["visits"]
assert visits == 64, visits
stream.close()
store = WeightStore("run/weights", mode="r")
assert len(store) == 64
assert Path(weighted_stream.__file__).is_relative_to(Path(sys.prefix)), weighted_stream.__file__
print("trained with", weighted_stream.__version__)
"""

WRONG = """
from weighted_stream import LinUpper, WeightedStream

stream = WeightedStream([1.0], LinUpper(r="small"))
"""

DATA = "".join(f'{{"id": {n}, "text": "the text of number {n}"}}\n' for n in range(40))

COMMANDS = (
    "weighted-stream --version",
    "weighted-stream convert data.jsonl shards --format parquet",
    "weighted-stream inspect shards --id id --top 1",
    "weighted-stream inspect run/weights --top 1",
)


def call(command: Sequence[str | Path], place: Path, *, fails: bool = False) -> str:
    """Run a command without a way to the source; its output.

    Raises:
        SystemExit: if it fails, or ends well where it should not.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(list(map(str, command)), cwd=place, env=clean, text=True, capture_output=True, check=False)
    if (done.returncode != 0) != fails:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> Path:
    """Sdist, and wheel from it, into a folder; the wheel."""
    shutil.rmtree(folder, ignore_errors=True)
    call([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], ROOT)
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    look_at(wheel, sdist)
    return wheel


def look_at(wheel: Path, sdist: Path) -> None:
    """What has to be in them, and what must not.

    Raises:
        SystemExit: saying what is wrong.
    """
    with zipfile.ZipFile(wheel) as file:
        packed = set(file.namelist())
    with tarfile.open(sdist) as tar:
        source = {name.partition("/")[2] for name in tar.getnames()}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "weighted_stream").rglob("*.py")}
    wanted = package | {"weighted_stream/py.typed"}
    for what, names in (("the wheel", packed), ("the sdist", source)):
        if lacking := sorted(wanted - names):
            raise SystemExit(f"{what} lacks {', '.join(lacking)}")
    strange = {name for name in packed if not name.startswith(("weighted_stream/", "weighted_stream-"))}
    if strange:
        raise SystemExit(f"the wheel has more than the package in it: {', '.join(sorted(strange))}")
    if lacking := {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml"} - source:
        raise SystemExit(f"the sdist lacks {', '.join(sorted(lacking))}")


def environment(place: Path, wheel: Path, *, alone: bool) -> Path:
    """A fresh environment with the wheel in it; its folder of programs."""
    call([sys.executable, "-m", "venv", *([] if alone else ["--without-pip"]), place / "env"], place)
    programs = place / "env" / "bin"
    if alone:
        call([programs / "python", "-m", "pip", "install", "--quiet", wheel], place)
        return programs
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "--disable-pip-version-check"]
    call([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], place)
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs = Path(call([programs / "python", "-c", asked], place).strip())
    (theirs / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # its own .pth files are not followed
    return programs


def use(place: Path, programs: Path, wheel: Path | None) -> None:
    """Train, run the command (with its extra, of this wheel), ask for types."""
    (place / "program.py").write_text(PROGRAM)
    (place / "wrong.py").write_text(WRONG)
    (place / "data.jsonl").write_text(DATA)
    print(call([programs / "python", "program.py"], place), end="")
    if wheel is not None:
        call([programs / "python", "-m", "pip", "install", "--quiet", f"{wheel}[cli]"], place)
    for command in COMMANDS:
        name, *arguments = command.split()
        call([programs / name, *arguments], place)
        print(command, flush=True)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", programs / "python", "--cache-dir", "mypy"]
    print(call([*mypy, "program.py"], place), end="")
    found = call([*mypy, "wrong.py"], place, fails=True)
    if "arg-type" not in found:
        raise SystemExit(f"mypy does not see the types of the wheel:\n{found}")


def resolve_extras(place: Path, programs: Path, wheel: Path) -> None:
    """Ask pip what every extra would install."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in extras:
        pip = [programs / "python", "-m", "pip", "install", "--dry-run", "--quiet", f"{wheel}[{extra}]"]
        begin = time.monotonic()
        call(pip, place)
        print(f"[{extra}] resolves ({time.monotonic() - begin:.0f} s)", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Build, install, use."""
    parser = argparse.ArgumentParser(prog="python -m tools.check_package")
    parser.add_argument("--slow", action="store_true", help="an environment that has nothing else; every extra")
    slow = parser.parse_args(argv).slow
    wheel = build(ROOT / "dist")
    print(wheel.name, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        programs = environment(place, wheel, alone=slow)
        use(place, programs, wheel if slow else None)
        if slow:
            resolve_extras(place, programs, wheel)


if __name__ == "__main__":
    main()
