"""Time series: CSV files -> arrays by day, the splits, and prices.

Data flow: CSV -> `Series` -> `DayProfiles` (one row a day, by split) -> `exogenous.py`.
"""

from envs.profiles.days import (
    MARKET_LOAD,
    PV_COLUMNS,
    WIND_COLUMNS,
    DayProfiles,
    labelled_split,
    load_profiles,
    starts_of,
    weekly_split,
)
from envs.profiles.own_file import own_data
from envs.profiles.prices import (
    NOISE_PERSISTENCE,
    NOISE_SD_USD_PER_MWH,
    price_base,
    time_of_use_price,
)
from envs.profiles.series import SPLITS, Series, Split, read_series

__all__ = [
    "MARKET_LOAD",
    "NOISE_PERSISTENCE",
    "NOISE_SD_USD_PER_MWH",
    "PV_COLUMNS",
    "SPLITS",
    "WIND_COLUMNS",
    "DayProfiles",
    "Series",
    "Split",
    "labelled_split",
    "load_profiles",
    "own_data",
    "price_base",
    "read_series",
    "starts_of",
    "time_of_use_price",
    "weekly_split",
]
