#!/bin/sh
# Speed on one GPU, in one command under 8 minutes; CSVs and the run's report under $OUT.
#   $PACKAGES: a folder of wheels for what the machine lacks (hydra-core, omegaconf, antlr4-python3-runtime, torchattacks,
#   made with `pip wheel --no-deps`); $DATA: MNIST in torchvision's layout.
set -eu
cd "$(dirname "$0")/.."
OUT=${OUT:-outputs/gpu}
mkdir -p "$OUT"
if [ -n "${PACKAGES:-}" ]; then
    python3 -m pip install --quiet --no-index --no-deps --target "$OUT/../packages" "$PACKAGES"/*.whl
fi
export PYTHONPATH="src:scripts:$OUT/../packages:${PYTHONPATH:-}"
python3 -m pytest -q tests/test_device.py tests/test_attacks.py 2>&1 | tail -3 || true
python3 scripts/bench_gpu.py --out "$OUT" --seconds 2
if [ -d "${DATA:-data}/MNIST/raw" ]; then
    # all of Tramèr's MNIST models at paper scale, trained side by side; then PGD-100 x 20 restarts on 10,000 images
    python3 run.py paper=tramer/all scale=paper precision=tf32 cuda_graphs=true workers=4 dataset.root="${DATA:-data}" \
        outputs="$OUT/runs" hydra.run.dir="$OUT/tramer"
    python3 run.py task=worst_case models=alone suite=none attack=pgd_100 attack.restarts=20 precision=tf32 cuda_graphs=true \
        dataset=mnist scale=paper trainer=madry trainer.epochs=3 arch=madry_mnist dataset.root="${DATA:-data}" \
        outputs="$OUT/runs" hydra.run.dir="$OUT/worst_case"
    cp "$OUT/tramer/report.md" "$OUT/tramer.md"
    cp "$OUT/tramer/comparison.csv" "$OUT/tramer_comparison.csv"
    cp "$OUT/tramer/claims.csv" "$OUT/tramer_claims.csv"
    cp "$OUT/worst_case/results.csv" "$OUT/worst_case.csv"
    cat "$OUT/tramer/run.json" "$OUT/worst_case/run.json" > "$OUT/runs.json"
    rm -rf "$OUT/runs" "$OUT/tramer" "$OUT/worst_case"
fi
