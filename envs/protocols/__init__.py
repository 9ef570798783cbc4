"""How the DSO and the microgrids coordinate: pure batched functions on powers and money (docs/protocols.md).

Vertical (the DSO and each microgrid): `price_signal`, `setpoint`. Horizontal (among microgrids): `auction`,
`consensus`. Each file has a part that runs once when a scenario is loaded and raises `ValueError`, and a part that
runs every step, raises nothing and never waits for the device. Dims: B copies, A microgrids. Powers in MW, import
positive.
"""
