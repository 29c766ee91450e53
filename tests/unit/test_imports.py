"""What a process of a group loads, which each of them pays for at every start, and in memory for good."""

from __future__ import annotations

import subprocess
import sys

STARTS = """
import sys
import cluster.processes, cluster.publishing, cluster.retrying
from replication.engines import ENGINES, load_engine
from replication.schema import NodeConfig
engines = {kind: load_engine(NodeConfig(kind, kind, ""), "g") for kind in ENGINES}
"""
PARTS = """
import numpy as np, pyarrow as pa
import replication.engines.memory.applier, replication.engines.mongodb.applier
import replication.engines.mysql.applier, replication.engines.postgres.applier
import replication.engines.mysql.source, replication.engines.postgres.source
pa.table({"a": pa.array([{"b": 1}]), "c": pa.array(np.zeros(1)), "d": [pa.scalar(1)]}).to_pylist()
assert "pandas" not in sys.modules
"""
DEMO = """
import pandas as pd
frame = pd.DataFrame({"a": [1, 2]})
assert pa.Table.from_pandas(frame, preserve_index=False).to_pylist() == [{"a": 1}, {"a": 2}]
"""


def run(code: str) -> None:
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", STARTS + code], check=True, timeout=120)


def test_no_process_of_a_group_loads_pandas_and_a_data_frame_is_read_all_the_same() -> None:
    run(PARTS + DEMO)


def test_a_driver_is_loaded_by_the_processes_that_speak_to_its_node() -> None:
    drivers = ("psycopg", "pymongo", "pymysql", "pymysqlreplication", "bson")
    run(f"assert not sys.modules.keys() & {set(drivers)}, sys.modules.keys() & {set(drivers)}")
