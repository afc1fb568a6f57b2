"""A sweep over a local Dask cluster, one worker of which is killed meanwhile."""

import os
import signal
import time

import pytest

import pimattn

distributed = pytest.importorskip("distributed")


def test_a_killed_worker_changes_nothing(tmp_path):
    kv = pimattn.KvCache.load("smollm2-135m-rustbook-cut")
    points = dict(policies=["quest", "starc", "h2o"], budgets=[64, 128, 192, 256], workload={"steps": 32, "dense_layers": 0})
    pimattn.sweep(kv, **points).to_csv(tmp_path / "here.csv")
    settings = {"distributed.scheduler.allowed-failures": 10}
    import dask

    with dask.config.set(settings), distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster, distributed.Client(cluster) as client:
        workers = client.run(os.getpid)
        victim = next(iter(workers.values()))
        seen = []

        def kill_after_two(done, total):
            seen.append(done)
            if done == 2:
                os.kill(victim, signal.SIGKILL)

        table = pimattn.sweep(kv, **points, threads=1, client=client, progress=kill_after_two)
        deadline = time.time() + 30
        while victim in client.run(os.getpid).values() and time.time() < deadline:
            time.sleep(0.1)
        assert victim not in client.run(os.getpid).values(), "the worker was killed"
    assert seen[-1] == 12
    table.to_csv(tmp_path / "there.csv")
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()
