"""Arrow without pandas. Whoever makes Arrow values while it is being imported imports this first.

pyarrow looks for pandas, once, when it makes its first value, and imports it where it is installed. Nothing
here passes data frames to Arrow but the demo's data, for which pyarrow imports it later after all. Without
it, each process of a group needs a quarter of a second of CPU less to start, and 35 MiB less for good.
"""

from __future__ import annotations

import sys

import pyarrow as pa


class _NoPandas:
    """A finder that finds everything but pandas elsewhere."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Nothing; that is where the others go on."""
        if name == "pandas":
            raise ModuleNotFoundError(name=name)


def _look_for_pandas_in_vain() -> None:
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.scalar("")
    finally:
        sys.meta_path.remove(_NoPandas)


if "pandas" not in sys.modules:
    _look_for_pandas_in_vain()
