"""Which parts of a pandapower net a `Network` can hold: everything else is refused by name, with a remedy.

Data flow: pandapower net -> checked here -> `pandapower_topology.py`, `pandapower_trafos.py` -> `from_pandapower.py`.
"""

from typing import Any

SUPPORTED = ("bus", "line", "trafo", "load", "sgen", "shunt", "ext_grid", "switch")

WITHOUT_EFFECT = {
    "measurement": "input of the state estimation",
    "pwl_cost": "cost of the optimal power flow",
    "poly_cost": "cost of the optimal power flow",
    "controller": "acts in runpp(run_control=True) alone; the tap positions are taken as they stand",
    "group": "names for sets of elements",
}
"""Tables without electrical effect, and why; they are ignored."""

_DIRECT_CURRENT = "direct current is outside this model; give what it draws as loads"
_FACTS = "a controlled reactance or source needs a meshed solver; give what it injects as an sgen"

REMEDIES = {
    "gen": "a sweep holds no voltage; pandapower.toolbox.replace_gen_by_sgen(net) makes it a constant power",
    "storage": "model it as a battery of the scenario, or make it a load: pandapower.toolbox.replace_pq_elmtype",
    "motor": "replace it by a load of its electrical power",
    "asymmetric_load": "the model is balanced; replace it by a load of the three phases' sum",
    "asymmetric_sgen": "the model is balanced; replace it by an sgen of the three phases' sum",
    "ward": "pandapower.toolbox.replace_ward_by_internal_elements(net) makes a load and a shunt of it",
    "xward": "replace it by a load, a shunt, and an sgen of what its voltage source feeds in",
    "trafo3w": "model it as three transformers (trafo) around an auxiliary bus",
    "impedance": "replace it by a line, or pandapower.toolbox.replace_impedance_by_line(net)",
    "dcline": "replace it by a load at one end and an sgen at the other",
    "svc": _FACTS,
    "ssc": _FACTS,
    "tcsc": _FACTS,
    "vsc": _FACTS,
    "vsc_stacked": _FACTS,
    "vsc_bipolar": _FACTS,
    "bus_dc": _DIRECT_CURRENT,
    "line_dc": _DIRECT_CURRENT,
    "source_dc": _DIRECT_CURRENT,
    "load_dc": _DIRECT_CURRENT,
}
"""Tables that are refused as soon as a row is in service, and what to do instead."""

_FINITE = {
    "bus": ("vn_kv",),
    "line": ("length_km", "r_ohm_per_km", "x_ohm_per_km", "c_nf_per_km", "g_us_per_km", "parallel"),
    "trafo": (
        *("sn_mva", "vn_hv_kv", "vn_lv_kv", "vk_percent", "vkr_percent", "pfe_kw", "i0_percent"),
        *("shift_degree", "parallel"),
    ),
    "load": ("p_mw", "q_mvar", "scaling"),
    "sgen": ("p_mw", "q_mvar", "scaling"),
    "shunt": ("p_mw", "q_mvar", "step"),
    "ext_grid": ("vm_pu", "va_degree"),
}
_POSITIVE = ("vn_kv", "parallel", "sn_mva", "vn_hv_kv", "vn_lv_kv", "vm_pu")

_OPTIONS = {"trafo_model": "t", "run_control": False, "consider_line_temperature": False, "tdpf": False}
_OPTIONS |= {"neglect_open_switch_branches": False}
"""Values of pandapower's power flow options that this model follows; the other options change no result here."""


def label(kind: str, row: Any) -> str:
    """`line 3 ('Cable to the mill')`: how messages name a row of `itertuples`."""
    return f"{kind} {row.Index} ({row.name!r})" if is_named(row) else f"{kind} {row.Index}"


def is_named(row: Any) -> bool:
    """Whether a row has a name of its own."""
    return isinstance(getattr(row, "name", None), str) and bool(row.name)


def in_service(frame: Any) -> Any:
    """The rows of a table that are in service."""
    return frame[frame.in_service.astype(bool)] if "in_service" in frame else frame


def check_tables(net: Any) -> None:
    """Refuse what a `Network` cannot hold.

    Raises:
        ValueError: no pandapower net, an unsupported element in service, a voltage-dependent load, a table-driven tap
            changer or shunt, a cell that is no number, a power flow option that changes the model.
    """
    import pandas as pd  # noqa: PLC0415 - comes with pandapower, which is imported only where it is used

    tables = {} if isinstance(net, str | bytes) or not hasattr(net, "items") else dict(net.items())
    if not all(isinstance(tables.get(name), pd.DataFrame) for name in SUPPORTED):
        raise ValueError(
            f"Network.from_pandapower takes a pandapower net, got {type(net).__name__}; pandapower.from_json(path) "
            "reads a file, pandapower.convert_format(net) renews a net of an old version"
        )
    for name, frame in tables.items():
        known = name in (*SUPPORTED, *WITHOUT_EFFECT) or name.startswith(("_", "res_"))
        if isinstance(frame, pd.DataFrame) and not known and not frame.empty:
            _refuse(name, frame)
    _check_options(tables.get("user_pf_options") or {})
    for name, columns in _FINITE.items():
        _check_numbers(name, in_service(tables[name]), columns)
    _check_special_columns(net)


def _refuse(name: str, frame: Any) -> None:
    # a table of the user's own has neither, and runpp does not read it
    is_element = name in REMEDIES or "in_service" in frame or any(str(c) == "bus" or "_bus" in str(c) for c in frame)
    rows = list(in_service(frame).itertuples()) if is_element else []
    if not rows:
        return
    shown = ", ".join(label(name, row) for row in rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
    remedy = REMEDIES.get(name, f"supported are {', '.join(SUPPORTED)}")
    raise ValueError(
        f"pandapower table {name!r} is not supported, in service are {shown}: {remedy}; or set in_service to False"
    )


def _check_options(options: Any) -> None:
    for name, value in _OPTIONS.items():
        if options.get(name, value) != value:
            raise ValueError(
                f"net.user_pf_options has {name}={options[name]!r}; this model is that of {name}={value!r}; "
                "pandapower.set_user_pf_options(net, overwrite=True) clears the options"
            )


def _check_numbers(name: str, frame: Any, columns: tuple[str, ...]) -> None:
    for column in columns:
        if column not in frame:
            raise ValueError(
                f"{name}.{column} is missing; pandapower.convert_format(net) renews a net of an old version"
            )
        values = frame[column].astype(float)
        wrong = ~(values.abs() < float("inf"))  # NaN included
        if column in _POSITIVE:
            wrong |= ~(values > 0)
        if wrong.any():
            rule = "positive" if column in _POSITIVE else "a finite number"
            raise ValueError(f"{name} {wrong.idxmax()}: {column} must be {rule}, got {values[wrong.idxmax()]:g}")


def _check_special_columns(net: Any) -> None:
    load, trafo, shunt, switch = in_service(net.load), in_service(net.trafo), in_service(net.shunt), net.switch
    for column in [name for name in load if str(name).startswith(("const_z", "const_i"))]:
        _refuse_where(
            load[column].astype(float).abs() > 0,
            f"load {{}}: {column} makes the load depend on the voltage; set it to 0 (constant power), or give the part "
            "of constant impedance as a shunt",
        )
    for name, frame in (("tap_dependency_table", trafo), ("tap2_dependency_table", trafo)):
        if name in frame:
            message = f"trafo {{}}: {name} is not supported; set it to False and give the values of the present tap"
            _refuse_where(frame[name].isin([True]), message)
    if "step_dependency_table" in shunt:
        _refuse_where(
            shunt.step_dependency_table.isin([True]),
            "shunt {}: step_dependency_table is not supported; set it to False and give p_mw and q_mvar of a step",
        )
    _refuse_where(
        ~(trafo.vk_percent.abs() >= trafo.vkr_percent.abs()),
        "trafo {}: vk_percent must be at least vkr_percent, its real part",
    )
    if "tap_changer_type" not in trafo and "tap_phase_shifter" in trafo:
        message = "trafo {}: tap_phase_shifter is of pandapower 2; give tap_changer_type (Ratio or Ideal) instead"
        _refuse_where(trafo.tap_pos.notna(), message)
    if "z_ohm" in switch:
        _refuse_where(
            (switch.et == "b") & switch.closed & (switch.z_ohm > 0),
            "switch {}: z_ohm must be 0 for a closed switch between buses; replace it by a line of that impedance",
        )


def _refuse_where(wrong: Any, message: str) -> None:
    if wrong.any():
        raise ValueError(message.format(wrong.idxmax()))
