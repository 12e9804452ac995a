"""Settings as YAML that says why."""

from collections.abc import Sequence
from typing import Any

import yaml

from act_ray.init.choose import Choice, time_text
from act_ray.yamlfile import write_yaml


def config_text(preset: str, chosen: Sequence[Choice], found: Sequence[str]) -> str:
    """A config.yaml with the reason of each choice."""
    lines = [
        "# What `act-ray init` chose, and why; docs/choosing-settings.md has more, docs/settings.md all settings.",
        *(f"# {line}" for line in found),
        f"preset: {preset}  # all that is not set below",
    ]
    for section in dict.fromkeys(choice.name.partition(".")[0] for choice in chosen):
        lines.append(f"{section}:")
        for choice in chosen:
            own, _, name = choice.name.partition(".")
            if own == section:
                lines.append(f"  {name}: {_value(choice.value)}" + (f"  # {choice.why}" if choice.why else ""))
    return "\n".join(lines) + "\n"


def space_text(preset: str, space: dict[str, Any], hours: float) -> str:
    """A search space's file."""
    head = f"# A search around config.yaml, of about {time_text(hours)} here: `act-ray tune --space` this file.\n"
    return head + write_yaml({"preset": preset, **space})


def _value(value: Any) -> str:
    """A value on one line."""
    return yaml.safe_dump([value], default_flow_style=True, width=10**6).strip()[1:-1]
