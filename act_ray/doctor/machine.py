"""What the machine has: the software's versions, processors, memory."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from act_ray.doctor.rows import Row, State
from act_ray.files import in_units

SHOWN = ("torch", "ray", "diffusers")
DISTRIBUTION = "act-ray"


def software(extra: str = "") -> Row:
    """The versions that matter, and whether all that act_ray needs is there; `extra`: projected, onnx."""
    from packaging.requirements import Requirement

    found, wanted = dict[str, str](), list[str]()
    try:
        needs = importlib.metadata.requires(DISTRIBUTION) or ()
    except importlib.metadata.PackageNotFoundError:  # run from its folder
        line = f"Python {platform.python_version()}; {DISTRIBUTION} is not installed: what it needs is not known"
        return Row("software", line, State.WARNING, "pip install .")
    for text in needs:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            wanted.append(f"'{need.name}{need.specifier}'")
            continue
        found[need.name] = version
        if version not in need.specifier and not need.specifier.contains(version, prereleases=True):
            wanted.append(f"'{need.name}{need.specifier}'")
    shown = ", ".join(f"{name} {found.get(name, 'missing')}" for name in SHOWN)
    line = f"Python {platform.python_version()}, {shown}"
    if wanted:
        return Row("software", f"{line}; not {', '.join(wanted)}", State.MISSING, f"pip install {' '.join(wanted)}")
    return Row("software", line)


def machine(gpus: list[str], workers: int, gpu: bool | None) -> Row:
    """Processors, memory, GPUs as torch sees them, and the driver.

    gpus: a line for each GPU of torch's. gpu: whether GPUs were asked for; None: where there are any.
    """
    cores, free, total = os.cpu_count() or 1, available_memory(), _meminfo("MemTotal")
    line = f"{cores} CPU core(s), {in_units(free)} of {in_units(total)} memory free; {', '.join(gpus) or 'no GPU'}"
    drivers = _drivers()
    if drivers:
        line += f" (driver {', '.join(drivers)})"
    if gpu and len(gpus) < max(1, workers):
        todo = "--cpu" + (", or fewer --workers" if gpus else ", or a PyTorch for this driver" if drivers else "")
        return Row("machine", line, State.MISSING, todo)
    if drivers and not gpus and gpu is not False:
        return Row("machine", f"{line}: torch sees no GPU, nvidia-smi does", State.WARNING, "a PyTorch for this driver")
    if not gpus and workers > cores:
        return Row("machine", line, State.MISSING, f"--workers {cores} at most: one CPU for each")
    return Row("machine", line)


def _drivers() -> list[str]:
    """The versions of NVIDIA's driver, as its own tool says; none where it is not there, or cannot talk to it."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return sorted({line.strip() for line in ran.stdout.splitlines() if line.strip()}) if ran.returncode == 0 else []


def available_memory() -> int:
    """Bytes that a new process can use before the machine, or this container, runs out."""
    free = _meminfo("MemAvailable")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        stat = Path("/sys/fs/cgroup/memory.stat").read_text().split()
    except (OSError, ValueError):  # no limit ("max"), or an older kind of cgroup
        return free
    cached = int(stat[stat.index("inactive_file") + 1]) if "inactive_file" in stat else 0  # given back when needed
    return min(free, limit - used + cached)


def _meminfo(name: str) -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def peak_memory(process: int | str = "self") -> int | None:
    """The most memory that a process has had, in bytes; None where it is gone.

    Not ru_maxrss, which a new process inherits from the one that started it.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
