"""The time of day that jumps in the middle of what other processes do (helpers/jumping_clock.c)."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

HOUR = 3600


class Clock:
    """For processes started with `environment`: `jump` sets their time of day, and leaves other clocks alone."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None or not sys.platform.startswith("linux"):
            pytest.skip("needs Linux and a C compiler")
        self.file, library = folder / "offset", folder / "jumping_clock.so"
        source = Path(__file__).with_name("jumping_clock.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
        self.file.write_bytes(struct.pack("q", 0))
        self.environment = {**os.environ, "LD_PRELOAD": str(library), "CLOCK_OFFSET": str(self.file),
                            "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip

    def jump(self, seconds: int) -> None:
        """So far from the true time, for all of them at once."""
        with self.file.open("r+b") as file:
            file.write(struct.pack("q", seconds))
