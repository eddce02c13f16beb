"""An environment for Weights & Biases, which is measured beside and is no dependency of anything here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WANDB = "wandb==0.31.0"
FOLDER = Path(__file__).resolve().parents[1] / ".cache" / "bench-wandb"


def wandb_python() -> str | None:
    """The Python of an environment that has it, made on first use; None, and a word why, where it cannot be made."""
    python = FOLDER / "bin" / "python"
    proven = FOLDER / WANDB
    if proven.exists():
        return str(python)
    uv = Path(sys.executable).with_name("uv")
    try:
        for command in (
            [str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(FOLDER)],
            [str(uv), "pip", "install", "--quiet", "--python", str(python), WANDB],
            [str(python), "-c", "import wandb"],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        print(f"\n  W&B is not measured: {WANDB} cannot be installed here ({told.strip().splitlines()[-1][:200]})")
        return None
    proven.touch()
    return str(python)


POINTS = """
import struct, sys
from wandb.proto.wandb_internal_pb2 import Record

# The file is a log as LevelDB writes it: 7 bytes of header, blocks of 32 KiB, records in fragments.
data, at, record, count = open(sys.argv[1], "rb").read(), 7, b"", 0
while at + 7 <= len(data):
    if 32768 - at % 32768 < 7:
        at += 32768 - at % 32768
        continue
    length, kind = struct.unpack_from("<HB", data, at + 4)
    record = data[at + 7 : at + 7 + length] if kind in (1, 2) else record + data[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4) and at <= len(data):
        parsed = Record()
        parsed.ParseFromString(record)
        count += parsed.WhichOneof("record_type") == "history"
print(count)
"""


def points_in(folder: Path, python: str) -> int:
    """How many points are in the files that a run left in `folder`."""
    files = sorted(folder.rglob("*.wandb"))
    if not files:
        return 0
    command = [python, "-c", POINTS, str(files[-1])]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
