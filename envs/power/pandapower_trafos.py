"""Two-winding transformers of pandapower as branches: the T model, off-nominal ratios and every tap changer.

Data flow: a row of `net.trafo` -> `trafo_branch` -> `from_pandapower.py`.
"""

from cmath import exp, phase
from math import asin, copysign, degrees, inf, isnan, radians
from typing import Any

from envs.power.builder import Branch
from envs.power.network import BASE_MVA
from envs.power.pandapower_tables import is_named, label


def trafo_branch(trafo: Any, hv_kv: float, lv_kv: float, regulator: tuple[float, float] | None = None) -> Branch:
    """The T model of pandapower turned into an equivalent pi behind an ideal ratio at the hv bus.

    Args:
        trafo: a row of `net.trafo.itertuples()`.
        hv_kv: nominal voltage of the hv bus.
        lv_kv: nominal voltage of the lv bus.
        regulator: target and full deadband in pu of an automatic tap changer, or None: the tap stays as it stands.

    Raises:
        ValueError: a tap changer whose data contradict each other, or that cannot regulate.
    """
    settings = None
    if regulator is not None:
        settings = _regulator_fields(trafo, *regulator)
        trafo = trafo._replace(tap_pos=trafo.tap_neutral)  # the regulator's own taps count from neutral
    vn_hv, vn_lv, shift = _tapped_voltages(trafo)
    lv_turns = vn_lv / lv_kv
    ratio = (vn_hv / hv_kv) / lv_turns * exp(1j * radians(shift))
    per_unit = BASE_MVA / trafo.sn_mva * lv_turns**2 / trafo.parallel
    r = trafo.vkr_percent / 100
    x = copysign(((trafo.vk_percent / 100) ** 2 - r**2) ** 0.5, trafo.vk_percent)
    # the star's arms: how much of r and x lies on the hv side
    z_hv = complex(r * _share_hv(trafo, "resistance"), x * _share_hv(trafo, "reactance")) * per_unit
    z_lv = complex(r, x) * per_unit - z_hv
    # iron losses refer to the rated voltage, and the magnetising current is what remains of the no-load current
    g = trafo.pfe_kw * 1e-3 / trafo.sn_mva
    b = max((trafo.i0_percent / 100) ** 2 - g**2, 0.0) ** 0.5
    y = complex(g, -b) / per_unit
    z = z_hv + z_lv + z_hv * z_lv * y  # star to delta
    y_hv, y_lv = (z_lv * y / z, z_hv * y / z) if y else (0j, 0j)
    rating = trafo.sn_mva * trafo.parallel * _number(trafo, "df") / BASE_MVA
    return Branch(
        name=trafo.name if is_named(trafo) else f"trafo {trafo.Index}",
        a=int(trafo.hv_bus),
        b=int(trafo.lv_bus),
        z_pu=z,
        ratio=ratio,
        y_a_pu=y_hv / abs(ratio) ** 2,
        y_b_pu=y_lv,
        rating_pu=inf if isnan(rating) else rating,  # NaN: unknown
        is_trafo=True,
        regulator=settings,
    )


def _share_hv(trafo: Any, kind: str) -> float:
    """Share of the leakage resistance or reactance on the hv side; pandapower's default is one half."""
    share = _number(trafo, f"leakage_{kind}_ratio_hv")
    return 0.5 if isnan(share) else share


def _regulator_fields(trafo: Any, target_pu: float, deadband_pu: float) -> dict[str, Any]:
    """Fields of `Regulator`: taps count from neutral, a positive one raises the lv voltage."""
    name = label("trafo", trafo)
    if not (target_pu > 0 and deadband_pu > 0):
        raise ValueError(
            f"regulators: {name} needs a positive target_pu and deadband_pu, got {target_pu} and {deadband_pu}"
        )
    kind, side = getattr(trafo, "tap_changer_type", None), trafo.tap_side
    # on the hv side a tap is no factor of the lv voltage: it is its inverse, and moves the impedance too
    if kind not in ("Ratio", "Symmetrical") or side != "lv" or abs(_number(trafo, "tap_step_degree")) > 0:
        raise ValueError(
            f"regulators: {name} must have a Ratio tap changer on its lv side without tap_step_degree, got "
            f"tap_changer_type {kind!r}, tap_side {side!r}; set tap_side to 'lv' and turn the signs of its positions"
        )
    columns = ("tap_neutral", "tap_min", "tap_max", "tap_step_percent")
    neutral, low, high, step = (_number(trafo, column) for column in columns)
    whole = all(value == round(value) for value in (neutral, low, high) if not isnan(value))
    if not (low <= neutral <= high and step > 0 and whole):
        raise ValueError(
            f"regulators: {name} needs whole tap_min <= tap_neutral <= tap_max and a positive tap_step_percent, got "
            f"{low:g}, {neutral:g}, {high:g} and {step:g}"
        )
    taps = {"tap_min": int(low - neutral), "tap_max": int(high - neutral)}
    return {"target_pu": target_pu, "half_band_pu": deadband_pu / 2, "step_pu": step / 100, **taps}


def _tapped_voltages(trafo: Any) -> tuple[float, float, float]:
    """Rated voltages in kV with the taps applied, and the phase shift in degrees; a second tap changer adds up."""
    voltages = {"hv": float(trafo.vn_hv_kv), "lv": float(trafo.vn_lv_kv)}
    shift = float(trafo.shift_degree)
    for tap in ("tap", "tap2"):
        kind, side = getattr(trafo, f"{tap}_changer_type", None), getattr(trafo, f"{tap}_side", None)
        if side not in voltages or isnan(_number(trafo, f"{tap}_pos")) or not isinstance(kind, str):
            continue  # no tap changer: pandapower >= 3 needs its type
        factor, angle = _tap(trafo, tap, kind)
        voltages[side] *= factor
        shift += angle if side == "hv" else -angle
    return voltages["hv"], voltages["lv"], shift


def _tap(trafo: Any, tap: str, kind: str) -> tuple[float, float]:
    """Factor of the rated voltage on the tap's side, and its angle in degrees."""
    name = label("trafo", trafo)
    if kind not in ("Ratio", "Symmetrical", "Ideal"):
        raise ValueError(f"{name}: {tap}_changer_type {kind!r} is not supported; use Ratio, Symmetrical or Ideal")
    steps = _number(trafo, f"{tap}_pos") - _number(trafo, f"{tap}_neutral")
    if isnan(steps):
        raise ValueError(f"{name}: {tap}_neutral must be a number where {tap}_changer_type is set, got NaN")
    if not steps:
        return 1.0, 0.0
    if kind == "Ideal":
        return 1.0, _ideal_angle_degree(trafo, tap, steps)
    step = _number(trafo, f"{tap}_step_percent") / 100 * steps
    if isnan(step):
        raise ValueError(f"{name}: {tap}_step_percent must be a number for a {kind} tap changer, got NaN")
    angle = _number(trafo, f"{tap}_step_degree")
    turned = 1 + step * exp(1j * radians(0.0 if isnan(angle) else angle))
    return abs(turned), degrees(phase(turned))


def _ideal_angle_degree(trafo: Any, tap: str, steps: float) -> float:
    """Angle of an ideal phase shifter: steps of an angle, or of a voltage of tap_step_percent across the arc."""
    name = label("trafo", trafo)
    percent, degree = _number(trafo, f"{tap}_step_percent"), _number(trafo, f"{tap}_step_degree")
    by_degree = not isnan(degree) and degree != 0
    if by_degree and not isnan(percent) and percent != 0:
        raise ValueError(
            f"{name}: an Ideal tap changer has {tap}_step_percent {percent} and {tap}_step_degree {degree}; "
            "set one of them to 0"
        )
    if by_degree:
        return steps * degree
    if isnan(percent):
        raise ValueError(f"{name}: an Ideal tap changer needs {tap}_step_percent or {tap}_step_degree")
    half_chord = steps * percent / 200
    if abs(half_chord) > 1:
        raise ValueError(f"{name}: {steps:g} taps of {tap}_step_percent {percent} exceed 200 %")
    return 2 * degrees(asin(half_chord))


def _number(row: Any, column: str) -> float:
    """A cell as float; NaN where the column or its value is missing."""
    try:
        return float(getattr(row, column, float("nan")))
    except TypeError:  # None or pandas.NA
        return float("nan")
