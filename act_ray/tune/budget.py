"""`--budget`: what a search may take in all, as steps, images, hours or whole trials."""

import re
from dataclasses import dataclass

from act_ray.errors import UserError

UNITS = ("trials", "steps", "images", "hours", "%")


@dataclass(frozen=True)
class SearchBudget:
    """An amount in one of UNITS; hours are of training, summed over trials; % is of all trials' steps."""

    amount: float
    unit: str

    def trials(self, trials: int, steps: float, images: float) -> float | None:
        """The same in whole trials of a search of `trials` with `steps` and `images` each; None for hours."""
        each = {"trials": 1.0, "steps": steps, "images": images, "%": 100 / trials}
        return None if self.unit == "hours" else self.amount / each[self.unit]


def parse_budget(text: str, where: str = "--budget") -> SearchBudget:
    """`60%`, `5 trials`, `20000 steps`, `1e6images`, `2.5 hours`. Raises UserError."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z%]+)\s*", text.replace(",", ""))
    unit = "" if found is None else found[2] if found[2].endswith(("s", "%")) else f"{found[2]}s"
    try:
        amount = float(found[1]) if found is not None else 0.0
    except ValueError:
        amount = 0.0
    if unit not in UNITS or amount <= 0:
        raise UserError(f"{where} '{text}': give a number and a unit, such as '60%', '5 trials', '20000 steps', "
                        "'1e6 images' or '8 hours' (of training, summed over trials)")  # fmt: skip
    return SearchBudget(amount, unit)
