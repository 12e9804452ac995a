"""How a command is typed in this environment, for the lines that say what to do next."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def typed(verb: str) -> str:
    """`python -m act_ray.VERB`, with the path of this Python where `python` on the PATH is another one, or none."""
    here, found = Path(sys.executable), shutil.which("python")
    program = "python"
    if found is None or Path(found).parent != here.parent:
        inside = here.is_relative_to(Path.cwd())
        program = shlex.quote(os.path.relpath(here) if inside else str(here))
    return f"{program} -m act_ray.{verb}"
