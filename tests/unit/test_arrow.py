"""Arrow without pandas."""

from __future__ import annotations

import subprocess
import sys

STARTS = """
import sys
import cluster.processes, cluster.publishing, cluster.retrying
import replication.engines.memory, replication.engines.mongodb
import replication.engines.mysql, replication.engines.postgres
import numpy as np, pyarrow as pa
pa.table({"a": pa.array([{"b": 1}]), "c": pa.array(np.zeros(1)), "d": [pa.scalar(1)]}).to_pylist()
assert "pandas" not in sys.modules
"""
DEMO = """
import pandas as pd
frame = pd.DataFrame({"a": [1, 2]})
assert pa.Table.from_pandas(frame, preserve_index=False).to_pylist() == [{"a": 1}, {"a": 2}]
"""


def test_a_process_of_a_group_loads_no_pandas_and_a_data_frame_is_read_all_the_same() -> None:
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", STARTS + DEMO], check=True, timeout=120)
