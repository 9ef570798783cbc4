"""The base of every part of a scenario.

Data flow: `scenario_parts.py`, `device_options.py`, `protocols/settings.py` and `scenario.py` build on it.
"""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Frozen, without unknown keys."""

    # an unquoted `bus: 830` is a number in YAML
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)
