"""One Slurm for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import ENVIRONMENT, SlurmCluster, missing_program


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A running controller and two nodes; skips, with the reason, where they cannot be."""
    if reason := missing_program():
        pytest.skip(reason)
    if not Path("/proc").is_dir():
        pytest.skip("no /proc: Slurm's nodes need Linux")
    pytest.importorskip("submitit")
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.configuration))
        patch.setenv("PATH", ENVIRONMENT["PATH"])
        # A node has one processor; more threads would wait for each other in turns.
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_")) and name != "SLURM_CONF"]:
            # Tests may run in a job of a real cluster.
            patch.delenv(name)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
