"""How a command is typed in this environment, for the lines that say what to do next."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def typed(verb: str, *words: object) -> str:
    """`python -m act_ray.VERB WORDS...`, quoted for a shell; with the path of this Python where `python` on the PATH is
    another one, or none.
    """
    here, found = Path(sys.executable), shutil.which("python")
    program = "python"
    if found is None or Path(found).parent != here.parent:
        inside = here.is_relative_to(Path.cwd())
        program = shlex.quote(os.path.relpath(here) if inside else str(here))
    return " ".join([program, "-m", f"act_ray.{verb}", *(shlex.quote(str(word)) for word in words)])
