"""The wheel with numpy alone: caches, runs, sweeps, tables, errors, programs."""

import concurrent.futures
import csv
import importlib.util
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import pimattn

SAMPLE = "smollm2-135m-rustbook-cut"
WORKLOAD = {"dense_layers": 0, "steps": 8}


def program(name, *args, code=0):
    path = Path(sys.executable).with_name(name)
    done = subprocess.run([path, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def kv():
    return pimattn.KvCache.load(SAMPLE)


def made(layers=2, kv_heads=2, query_heads=4, prefill=300, steps=6, dim=64, seed=1):
    rng = np.random.default_rng(seed)
    k, v = (rng.standard_normal((layers, kv_heads, prefill + steps, dim), dtype="f4") for _ in range(2))
    q = rng.standard_normal((layers, query_heads, steps, dim), dtype="f4")
    return k, v, q


def test_numpy_is_all_that_is_imported():
    loaded = "import sys, pimattn; print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'pandas', 'tqdm'}))"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "[]\n"


def test_a_run_equals_the_programs(kv, tmp_path):
    r = pimattn.run(kv, policy="starc", budget=256, system="hbm3-pim", workload=WORKLOAD)
    sets = [a for k, v in WORKLOAD.items() for a in ("--set", f"{k}={v}")]
    trace, metrics = tmp_path / "starc", tmp_path / "metrics.csv"
    program("tracegen", "run", "--config", "demo", "--policy", "starc", "--budget", 256, *sets, "-o", trace, "--metrics", metrics)
    program("pimsim", "run", trace, "--config", "hbm3-pim", "-o", tmp_path)
    for name in ("run", "steps", "phases", "layers", "heads", "channels"):
        table = getattr(r, name)
        with open(tmp_path / f"{name}.csv", newline="") as f:
            expected = list(csv.DictReader(f))
        table.to_csv(tmp_path / "ours.csv")
        with open(tmp_path / "ours.csv", newline="") as f:
            ours = list(csv.DictReader(f))
        # The name of the trace, and what the header says of where the cache came from, differ.
        for row in ours + expected:
            row.pop("trace"), row.pop("config_hash", None)
        assert ours == expected, name
    r.metrics.to_csv(tmp_path / "ours.csv")
    assert (tmp_path / "ours.csv").read_bytes() == metrics.read_bytes()
    errors = r.metrics["output_rel_err"]
    assert r.summary["output_rel_err"] == pytest.approx(np.nanmean(errors), abs=1e-6)
    assert r.summary["cycles"] == r.run["cycles"][0] == r.steps["cycles"].sum()


def test_arrays_are_read_without_a_copy():
    k, v, q = made()
    kv = pimattn.KvCache(k=k, v=v, q=q, prefill=300)
    assert np.shares_memory(kv.k, k) and np.shares_memory(kv.q, q) and not kv.k.flags.writeable
    assert (kv.layers, kv.query_start, kv.steps, kv.element_bytes) == ([0, 1], 300, 6, 2)
    turned = np.asfortranarray(k)
    assert pimattn.KvCache(k=turned, v=v, q=q, prefill=300).hash == kv.hash
    bytes_ = np.zeros(k.nbytes + 2, "u1")
    odd = bytes_[2:].view("f4").reshape(k.shape)
    odd[:] = k
    assert not odd.flags.aligned and pimattn.KvCache(k=odd, v=v, q=q, prefill=300).hash == kv.hash
    half = pimattn.KvCache(k=k.astype("f2"), v=v.astype("f2"), q=q.astype("f2"), prefill=300)
    assert np.array_equal(half.k, k.astype("f2").astype("f4"))
    again = pickle.loads(pickle.dumps(kv))
    assert (again.hash, again.layers, again.prefill) == (kv.hash, kv.layers, kv.prefill)


def test_a_saved_cache_is_the_same(tmp_path):
    k, v, q = made()
    kv = pimattn.KvCache(k=k.astype("f2"), v=v.astype("f2"), q=q.astype("f2"), prefill=300, layers=[3, 7])
    kv.save(tmp_path / "a.safetensors")
    assert pimattn.KvCache.load(tmp_path / "a.safetensors").hash == kv.hash
    assert kv.only_layers([7]).layers == [7]
    with pytest.raises(ValueError, match="did you mean"):
        kv.save(tmp_path / "b.safetensors", dtype="fp16")


def test_output_errors_are_those_of_numpy():
    k, v, q = made()
    kv = pimattn.KvCache(k=k, v=v, q=q, prefill=300)
    r = pimattn.run(kv, policy="streaming", budget=64, workload={"dense_layers": 0})
    rows = zip(*(r.metrics[name] for name in ("layer", "query_head", "position", "output_rel_err", "mass_recall")))
    for layer, head, position, error, recall in rows:
        scores = k[layer, head // 2, : position + 1] @ q[layer, head, position - 300] / 8.0
        weights = np.exp(scores - scores.max())
        kept = np.r_[0:4, position + 1 - 60 : position + 1]
        full = weights @ v[layer, head // 2, : position + 1] / weights.sum()
        ours = weights[kept] @ v[layer, head // 2, kept] / weights[kept].sum()
        assert recall == pytest.approx(weights[kept].sum() / weights.sum(), abs=2e-6)
        assert error == pytest.approx(np.linalg.norm(ours - full) / np.linalg.norm(full), abs=2e-5)


def test_a_sweep_has_the_columns_of_the_program(kv, tmp_path):
    points = dict(policies=["full", "quest", "starc"], budgets=[128, 256], workload=WORKLOAD)
    seen = []
    table = pimattn.sweep(kv, **points, progress=lambda done, total: seen.append((done, total)))
    assert len(table) == 6 and list(table["policy"]) == ["full"] * 2 + ["quest"] * 2 + ["starc"] * 2
    assert seen[-1] == (6, 6)
    r = pimattn.run(kv, policy="quest", budget=256, workload=WORKLOAD)
    assert {name: table.row(3)[name] for name in r.summary} == r.summary
    documented = program("pimsim", "schema").stdout
    assert all(f"| {name} |" in documented for name in r.summary)
    # Nothing beats a point of the frontier.
    frontier = table.frontier()
    costs = lambda t: np.c_[t["time_ns"], t["energy_pj"], t["output_rel_err"]]
    for cost in costs(frontier):
        assert not any((other <= cost).all() and (other < cost).any() for other in costs(table))
    assert 1 <= len(frontier) <= 6
    one, two = (pimattn.sweep(kv, **points, threads=n) for n in (1, 2))
    one.to_csv(tmp_path / "1.csv"), two.to_csv(tmp_path / "2.csv")
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_a_sweep_over_processes_is_the_same(kv, tmp_path):
    points = dict(policies=["quest", "starc"], budgets=[128, 256], workload=WORKLOAD)
    pimattn.sweep(kv, **points).to_csv(tmp_path / "here.csv")
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as client:
        pimattn.sweep(kv, **points, client=client).to_csv(tmp_path / "there.csv")
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()
    with pytest.raises(TypeError, match="client"):
        pimattn.sweep(kv, **points, client="dask")


def test_tables_go_everywhere(kv):
    r = pimattn.run(kv, policy="quest", budget=128, workload=WORKLOAD)
    t = r.steps
    assert t.shape == (8, len(t.columns)) and "cycles" in t and list(t) == t.columns
    assert t["cycles"].dtype == np.int64 and t.units["time_ns"] == "ns" and t.meanings["time_ns"]
    assert t.row(-1)["step"] == 7 and t.row(0)["cycles"] == t["cycles"][0]
    assert "<th title=" in t._repr_html_() and "quest" in r._repr_html_() and "Table steps" in repr(t)
    copy = pickle.loads(pickle.dumps(t))
    assert copy.to_dict().keys() == t.to_dict().keys() and np.array_equal(copy["time_ns"], t["time_ns"])
    if importlib.util.find_spec("pandas"):
        frame = t.to_pandas()
        assert list(frame.columns) == t.columns and (frame["cycles"] == t["cycles"]).all()
    if importlib.util.find_spec("polars"):
        frame = t.to_polars()
        assert frame.columns == t.columns and (frame["cycles"].to_numpy() == t["cycles"]).all()
    if importlib.util.find_spec("pyarrow"):
        import pyarrow

        table = pyarrow.table(t)
        assert table.column_names == t.columns and table["time_ns"].to_pylist() == list(t["time_ns"])
        assert table.schema.field("time_ns").metadata[b"unit"] == b"ns"


@pytest.mark.parametrize(
    "kind, text, work",
    [
        (pimattn.ConfigError, 'did you mean "quest"', lambda kv: pimattn.run(kv, policy="quets")),
        (pimattn.ConfigError, "48 tokens that quest needs", lambda kv: pimattn.run(kv, policy="quest", budget=8)),
        (pimattn.ConfigError, 'did you mean "dense_layers"', lambda kv: pimattn.run(kv, workload={"dense_layer": 1})),
        (pimattn.ConfigError, 'did you mean "page"', lambda kv: pimattn.run(kv, workload={"policies": {"quest": {"pages": 8}}})),
        (ValueError, 'did you mean "hbm3-pim"', lambda kv: pimattn.run(kv, system="hbm3-pin")),
        (ValueError, "a cache is given", lambda kv: pimattn.run(kv, workload={"kv": "x"})),
        (FileNotFoundError, "no such file", lambda kv: pimattn.KvCache.load("missing.npz")),
        (TypeError, "a dict", lambda kv: pimattn.run(kv, system=3)),
        (ValueError, "a policy and a budget", lambda kv: pimattn.sweep(kv, [], [1])),
        (KeyError, 'did you mean "policy"', lambda kv: pimattn.run(kv, workload=WORKLOAD).run["polcy"]),
        (pimattn.DataError, 'expected that of "k"', lambda kv: pimattn.KvCache(k=kv.k, v=kv.v[:1], q=kv.q, prefill=2048)),
        (TypeError, "float64", lambda kv: pimattn.KvCache(k=kv.k.astype("f8"), v=kv.v, q=kv.q, prefill=2048)),
        (pimattn.DataError, "4, \\[layer", lambda kv: pimattn.KvCache(k=kv.k[0], v=kv.v, q=kv.q, prefill=2048)),
        (OSError, "does not exist", lambda kv: kv.save("/nowhere/a.safetensors")),
    ],
)
def test_errors_are_by_cause_and_say_what_to_do(kv, kind, text, work):
    with pytest.raises(kind, match=text):
        work(kv)


def test_ctrl_c_stops_the_work(kv):
    timer = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    began = time.time()
    with pytest.raises(KeyboardInterrupt):
        while time.time() < began + 60:
            pimattn.sweep(kv, policies=["oracle", "starc", "clusterkv"], budgets=[128, 256, 384, 512])
    assert time.time() < began + 10


def test_other_threads_go_on_meanwhile(kv):
    ticks = []
    stop = threading.Event()
    ticker = threading.Thread(target=lambda: [ticks.append(time.time()) or time.sleep(0.002) for _ in iter(stop.is_set, True)])
    ticker.start()
    began = time.time()
    pimattn.run(kv, policy="clusterkv", budget=256)
    spent = time.time() - began
    stop.set(), ticker.join()
    assert len(ticks) > spent / 0.05, "the interpreter was held"


def test_programs_have_their_exit_codes(tmp_path):
    assert pimattn.__version__ in program("pimsim", "--version").stdout
    program("pimsim", "run", "missing", "--config", "hbm3-pim", code=66)
    assert "similar subcommand" in program("pimsim", "rum", code=2).stderr
    assert "starc" in program("tracegen", "list").stdout
    assert set(pimattn.policies()) >= {"full", "starc", "quest"} and "hbm3-pim" in pimattn.presets()["system"]


def test_decoding_live_selects_as_a_run(kv):
    k, v, q = made(layers=2, steps=70)
    kv = pimattn.KvCache(k=k, v=v, q=q, prefill=300, element_bytes=2)
    session = pimattn.DecodeSession("starc", 128, layers=[0, 1], query_heads=4, kv_heads=2, dim=64, dense_layers=1)
    for layer in (0, 1):
        session.prefill(layer, k[layer, :, :300], v[layer, :, :300], q[layer, :, :0])
    for step in range(70):
        for layer in (0, 1):
            at = 300 + step
            out = session.step(layer, *(np.ascontiguousarray(x) for x in (k[layer, :, at], v[layer, :, at], q[layer, :, step])))
            if layer == 0:
                scores = np.einsum("hld,hd->hl", np.repeat(k[0, :, : at + 1], 2, 0), q[0, :, step]) / 8.0
                weights = np.exp(scores - scores.max(1, keepdims=True))
                full = np.einsum("hl,hld->hd", weights / weights.sum(1, keepdims=True), np.repeat(v[0, :, : at + 1], 2, 0))
                assert np.abs(out - full).max() < 1e-4
    assert session.steps == 70 and session.cache().hash == kv.hash
    r = pimattn.run(kv, policy="starc", budget=128, workload={"dense_layers": 1})
    assert session.stats().to_dict().keys() == r.metrics.to_dict().keys()
    for name in r.metrics:
        assert np.array_equal(session.stats()[name], r.metrics[name]), name
    with pytest.raises(ValueError, match="no layer 5"):
        session.step(5, k[0, :, 0], v[0, :, 0], q[0, :, 0])


def pages_by_mean_key(kv, page, budget):
    """The best pages by their mean key, and the last one: indices and pointer."""
    group, chosen = kv.query_heads // kv.kv_heads, []
    for layer in range(len(kv.layers)):
        for head in range(kv.query_heads):
            for step in range(kv.steps):
                full = (kv.prefill + step) // page
                mean = kv.k[layer, head // group, : full * page].reshape(full, page, kv.dim).mean(1)
                scores = mean @ kv.q[layer, head, kv.prefill + step - kv.query_start]
                chosen.append(np.r_[np.argsort(-scores, kind="stable")[: budget // page - 1], full])
    return np.concatenate(chosen), np.cumsum([0] + [len(pages) for pages in chosen])


def test_a_selection_made_elsewhere_is_priced_and_judged():
    k, v, q = made(steps=12)
    kv = pimattn.KvCache(k=k, v=v, q=q, prefill=300)
    indices, pointer = pages_by_mean_key(kv, 16, 96)
    sel = pimattn.Selection(indices, pointer, prefill=300, policy="mean", granularity="page:16", scan="1x18x64")
    r = pimattn.run(kv, policy=sel, system="hbm3-pim", workload={"dense_layers": 0})
    assert (r.policy, r.budget <= 96, len(sel)) == ("mean", True, 2 * 4 * 12)
    for row in (r.metrics.row(i) for i in range(0, len(r.metrics), 7)):
        layer, head, at = row["layer"], row["query_head"], row["position"]
        pages = sel[(layer * 4 + head) * 12 + row["step"]]
        tokens = np.sort((pages[:, None] * 16 + np.arange(16)).ravel())
        tokens = tokens[tokens <= at]
        scores = k[layer, head // 2, : at + 1] @ q[layer, head, at - 300] / 8.0
        weights = np.exp(scores - scores.max())
        full = weights @ v[layer, head // 2, : at + 1] / weights.sum()
        ours = weights[tokens] @ v[layer, head // 2, tokens] / weights[tokens].sum()
        assert row["selected"] == len(tokens)
        assert row["mass_recall"] == pytest.approx(weights[tokens].sum() / weights.sum(), abs=2e-6)
        assert row["output_rel_err"] == pytest.approx(np.linalg.norm(ours - full) / np.linalg.norm(full), abs=2e-5)
    assert pickle.loads(pickle.dumps(sel)) == sel
    with pytest.raises(pimattn.DataError, match="tokens are selected; the budget is 80"):
        pimattn.run(kv, policy=sel, budget=80, workload={"dense_layers": 0})
    with pytest.raises(pimattn.DataError, match="layer 0, query head 0, step 1 .*999"):
        bad = indices.copy()
        bad[pointer[1]] = 999
        bad = pimattn.Selection(bad, pointer, prefill=300, granularity="page:16")
        pimattn.run(kv, policy=bad, workload={"dense_layers": 0})
    with pytest.raises(ValueError, match="whole numbers"):
        pimattn.Selection(indices.astype("f4"), pointer, prefill=300)


@pytest.mark.parametrize("policy", sorted(pimattn.policies()))
def test_a_runs_own_selection_gives_the_run_again(kv, policy, tmp_path):
    workload = {"dense_layers": 10, "steps": 70}
    r = pimattn.run(kv, policy=policy, budget=256, workload=workload)
    sel = r.selection
    sel.save(tmp_path / "s")
    again = pimattn.run(kv, policy=pimattn.Selection.load(tmp_path / "s"), workload=workload)
    same = [name for name in r.summary if name not in ("selection_hash", "cautions")]
    assert {name: again.summary[name] for name in same} == {name: r.summary[name] for name in same}
    assert np.array_equal(again.metrics["output_rel_err"], r.metrics["output_rel_err"])


def test_the_program_takes_and_keeps_selections(kv, tmp_path):
    sets = ["--set", "dense_layers=0", "--set", "steps=8"]
    kept, trace = tmp_path / "s.safetensors", tmp_path / "t"
    program("tracegen", "run", "--config", "demo", "--policy", "quest", *sets, "--save-selection", kept, "-o", trace)
    again = tmp_path / "again"
    program("tracegen", "run", "--config", "demo", "--selection", kept, "--set", "dense_layers=0", "-o", again)
    program("pimsim", "run", trace, again, "--config", "hbm3-pim", "-o", tmp_path)
    with open(tmp_path / "run.csv", newline="") as f:
        first, second = csv.DictReader(f)
    assert first["cycles"] == second["cycles"] and first["energy_pj"] == second["energy_pj"]
    r = pimattn.run(kv, policy="quest", budget=256, workload=WORKLOAD)
    assert int(first["cycles"]) == r.summary["cycles"] and r.selection == pimattn.Selection.load(kept)
    refused = program("tracegen", "run", "--config", "demo", "--selection", kept, "--budget", 200, "-o", again, code=65)
    assert "budget" in refused.stderr and "layer 9" in refused.stderr
