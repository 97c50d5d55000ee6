"""The folder of a run: what makes one, how its files are read and checked, and how they are sealed when written.

`read_run` is the way in for whoever reads a run: nothing of a folder is used before all of it was checked.
"""

from normbench.run_folder.check import Damage, RunFolder, check_run, read_run
from normbench.run_folder.info import STATES, read_info
from normbench.run_folder.seal import seal_run, write_info
from normbench.run_folder.tables import arrow_schema

__all__ = [
    "STATES", "Damage", "RunFolder", "arrow_schema", "check_run", "read_info", "read_run", "seal_run", "write_info",
]  # fmt: skip
