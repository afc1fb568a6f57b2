#!/usr/bin/env python3
"""K-means of starc-v1 against faiss and scikit-learn: same keys, same first centroids, 15 iterations, one thread.

    cargo bench --bench kmeans -- DIR      # writes DIR/keys.npy and DIR/ours.json
    python3 tools/compare_kmeans.py DIR    # needs numpy, faiss-cpu, scikit-learn, threadpoolctl

Prints processor seconds of the layer (8 heads), the least of --runs, and the ratio to ours. Libraries choose their
kernels by the processor; --blas CORE (such as SkylakeX) makes OpenBLAS take one where it does not know the processor.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--blas", help="OPENBLAS_CORETYPE; unset unless given")
    args = parser.parse_args()
    # Read when the libraries are loaded.
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        os.environ.pop(name, None)
    if args.blas:
        os.environ["OPENBLAS_CORETYPE"] = args.blas
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    import faiss
    import numpy as np
    import sklearn
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_info

    ours = json.loads((args.dir / "ours.json").read_text())
    keys = np.load(args.dir / "keys.npy")
    heads, count, dim = keys.shape
    clusters, iterations = count // 32, ours["iterations"]
    faiss.omp_set_num_threads(1)

    def with_faiss(x):
        # The number of points of a cluster is limited unless said otherwise.
        kmeans = faiss.Kmeans(dim, clusters, niter=iterations, max_points_per_centroid=count, min_points_per_centroid=1)
        kmeans.train(x, init_centroids=x[:clusters].copy())
        return float(kmeans.obj[-1])

    def with_sklearn(algorithm):
        def run(x):
            kmeans = KMeans(clusters, init=x[:clusters], n_init=1, max_iter=iterations, tol=0, algorithm=algorithm)
            kmeans.fit(x)
            if kmeans.n_iter_ != iterations:
                sys.exit(f"scikit-learn stopped after {kmeans.n_iter_} iterations: not comparable")
            return float(kmeans.inertia_)

        return run

    blas = sorted({f"{i['internal_api']} {i.get('architecture', '')}".strip() for i in threadpool_info()})
    print(f"{heads} heads, {count} keys of {dim} elements, {clusters} clusters, {iterations} iterations; {', '.join(blas)}")
    print(f"{'ours (' + ours['level'] + ')':32} {ours['seconds']:8.3f} s             objective {ours['objective']:.1f}")
    contenders = {
        f"faiss {faiss.__version__}": with_faiss,
        f"scikit-learn {sklearn.__version__} lloyd": with_sklearn("lloyd"),
        f"scikit-learn {sklearn.__version__} elkan": with_sklearn("elkan"),
    }
    for name, run in contenders.items():
        least, objective = float("inf"), 0.0
        for _ in range(args.runs):
            start = time.process_time()
            objective = sum(run(x) for x in keys)
            least = min(least, time.process_time() - start)
        print(f"{name:32} {least:8.3f} s  ours {ours['seconds'] / least:5.2f}  objective {objective:.1f}")
    print(f"{'ours, with K-means++ seeding':32} {ours['seconds_with_plus_plus']:8.3f} s")


if __name__ == "__main__":
    main()
