"""A command run in this process as its console script runs it, and what it printed."""

import pytest

from act_ray import cli


class Ended:
    """`act-ray VERB ARGS...` at its end: `code` is its exit code, `out` and `err` what it printed.

    args: turned to strings. It runs through cli.run, so that a mistake ends as it does for a user.
    """

    def __init__(self, capfd: pytest.CaptureFixture[str], verb: str, *args: object) -> None:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.run(cli.group, [verb, *(str(arg) for arg in args)], prog_name="act-ray")
        self.code = ended.value.code
        self.out, self.err = capfd.readouterr()

    def succeeded(self) -> str:
        """What it printed; fails unless it exited with 0 and left stderr empty."""
        assert (self.code, self.err) == (0, ""), self.out + self.err
        return self.out

    def mistake(self) -> str:
        """The one line on stderr of an exit with 2, without `error: ` and the line's end."""
        assert self.code == 2, self.out + self.err
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("error: ").rstrip("\n")
