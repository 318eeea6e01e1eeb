#!/bin/sh
# All of Tramèr et al. on MNIST at paper scale on one GPU, SEEDS seeds (3), in one command; reports and CSVs under $OUT.
#   $PACKAGES, $DATA: as in gpu_bench.sh; $GRAPHS: true to record CUDA graphs (false)
set -eu
cd "$(dirname "$0")/.."
OUT=${OUT:-outputs/gpu_tramer}
mkdir -p "$OUT"
if [ -n "${PACKAGES:-}" ]; then
    python3 -m pip install --quiet --no-index --no-deps --target /tmp/packages "$PACKAGES"/*.whl
fi
export PYTHONPATH="src:/tmp/packages:${PYTHONPATH:-}"
python3 run.py paper=tramer/all scale=paper seeds="${SEEDS:-3}" workers=4 precision=tf32 cuda_graphs="${GRAPHS:-false}" \
    dataset.root="${DATA:-data}" outputs=/tmp/runs hydra.run.dir=/tmp/all 2>&1 | tail -60 || true
# at most 8 files come back: what a part leaves is in its own folder, which travels as one archive
for file in report.html report.md claims.csv comparison.csv run.json; do
    [ -f "/tmp/all/$file" ] && cp "/tmp/all/$file" "$OUT/tramer_$file"
done
tar -C /tmp/all -czf "$OUT/tramer_all.tar.gz" --exclude=report.html . && ls -la "$OUT"
