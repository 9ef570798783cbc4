"""Flags of train.py that only one kind of environment has; a file without imports of the environments."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MicrogridFlags:
    """Only with --env microgrid."""

    scenario: str = "ieee34_ieee13"
    """Name of a packaged scenario, or path of a YAML file."""
    group_size: int | None = None
    """So many neighbouring copies play the same drawn day, and advantages are taken against their mean; default 8, or
    less where --num-envs is small or has no such divisor."""
    critic_state: Literal["privileged", "full"] = "privileged"
    """What the central critic sees: `full`, all that is measured, or `privileged`, the rest of the drawn day too."""
    penalty: float = 1.0
    """Multiplies the safety penalty in the training reward; the reported J keeps the scenario's."""
