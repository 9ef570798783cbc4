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
    vertical_protocol: Literal["none", "price_signal", "setpoint"] | None = None
    """How the DSO coordinates with each microgrid; default: the scenario's."""
    horizontal_protocol: Literal["none", "p2p", "consensus"] | None = None
    """How the microgrids coordinate among themselves; default: the scenario's."""
    protocol: Literal["price_signal", "setpoint", "p2p", "consensus"] | None = None
    """Short for the one of the two flags that the name belongs to."""
    profiles: str | None = None
    """CSV file with loads, PV, wind and price (docs/data.md); default: the scenario's data."""

    def protocols(self) -> dict[str, str]:
        """The scenario's `protocols` keys that the flags set.

        Raises:
            ValueError: --protocol contradicts the flag that it is short for.
        """
        chosen = {"vertical": self.vertical_protocol, "horizontal": self.horizontal_protocol}
        if self.protocol is not None:
            kind = "vertical" if self.protocol in ("price_signal", "setpoint") else "horizontal"
            if chosen[kind] not in (None, self.protocol):
                raise ValueError(
                    f"--protocol {self.protocol} contradicts --{kind}-protocol {chosen[kind]}; give one of them"
                )
            chosen[kind] = self.protocol
        return {kind: name for kind, name in chosen.items() if name is not None}
