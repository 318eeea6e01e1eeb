#!/bin/sh
# What a GPU has to show, in one command that ends in time; what is done comes back whatever fails.
#
#   scripts/gpu.sh [STAGE...]     these, in the order given; the first four if none is named:
#     tests     pytest on the card: $TESTS
#     parity    captured against eager, bit for bit, for every trainer and six attacks
#     speed     steps and images per second, share of the card's measured peak, memory; torchattacks; several processes
#     tramer    all of Tramèr et al. on MNIST at paper scale, a seed at a time, then all $SEEDS under one report
#     madry     Madry et al. at paper scale, a seed at a time, by value: mnist (Table 1, Figures 1, 2, 4, section 3.1),
#               capacity (Figure 3, MNIST), cifar10 (the same of width 1), capacity_cifar10, wide (Table 2 and section 4,
#               width 10; of Figure 3 the wide networks are left out)
#     kariyappa Kariyappa and Qureshi at paper scale, likewise: conv3 (MNIST), conv3_more (surrogates, activations),
#               conv3_noise (what of T_div is its noisy images), conv4 (with Figure 5), resnet20, mix
#     kurakin   Kurakin et al. at paper scale on CIFAR-10, likewise: adversarial (Tables 1 to 3, Figure 3), transfer
#               (Tables 4 and 6, Figures 2 and 5), k (Table 8), methods (Table 5), activations (Table 7), text, capacity
#               (Figures 1 and 4)
#
# Settings, all out of the environment; paths are relative to the repository:
#   LIMIT     seconds for everything (540). A stage but the last gets half of what is left
#   OUT       folder of what comes back (outputs/gpu), at most 8 files of 15 MiB: log.txt, stages.csv (exit codes),
#             parity.csv, speed.csv, results.tar.gz (run directories), state.tar.gz.00 to .02 (models, rows)
#   STATE     folder of an earlier call's files: what is finished is taken from it, what was in training goes on ($OUT, where
#             it has some)
#   WORK      folder to work in, kept; a second call on the same machine goes on from it without STATE (a temporary one)
#   PACKAGES  folder of wheels that the machine lacks: `pip wheel --no-deps -w wheels hydra-core omegaconf
#             antlr4-python3-runtime==4.9.3 torchattacks`
#   DATA      folder of MNIST/raw, gzipped will do, and for the others of cifar10 or cifar-10-batches-py (data)
#   PYTHON    interpreter (python3); DEVICE (cuda); SCALE paper, quick, smoke (paper); DATASET (mnist); SEEDS (tramer 3, others 1)
#   MPS       1 (default): with several WORKERS on a GPU, NVIDIA's Multi-Process Service runs their kernels side by side (1.8
#             times the steps a second of one process, docs/results/speed); 0: it does not
#   WORKERS   models trained side by side (3); GRAPHS: CUDA graphs in tramer, null (where there is CUDA) unless the tests failed
#   ONLY      cases of parity and speed, and runs of madry, kariyappa and kurakin, whose name holds this text
#   TESTS     files; OVERRIDES: words for run.py
#
# Exit codes: 0 all done, 1 a stage failed or STATE is damaged, 2 no such stage, 3 time ran out, 130 SIGINT, 143 SIGTERM.
set -u
began=$(date +%s)
cd "$(dirname "$0")/.." || exit 1
[ $# -gt 0 ] || set -- tests parity speed tramer
for stage in "$@"; do
    case $stage in
    tests | parity | speed | tramer | madry | kariyappa | kurakin) ;;
    *)
        echo "no such stage: $stage; choose tests, parity, speed, tramer, madry, kariyappa, kurakin" >&2
        exit 2
        ;;
    esac
done

python=${PYTHON:-python3} device=${DEVICE:-cuda} scale=${SCALE:-paper} dataset=${DATASET:-mnist} graphs=${GRAPHS:-null}
workers=${WORKERS:-3} mps=${MPS:-1}
limit=${LIMIT:-540} out=${OUT:-outputs/gpu} work=${WORK:-$(mktemp -d)}
reserve=$((limit / 15 > 4 ? limit / 15 : 4)) # seconds for a stage to save its state, and for packing
part=$((15 * 1024 * 1024)) parts=3            # bytes of a file that comes back, files of the state
log=$out/log.txt prepared='' running='' time_ran_out='' stage_failed=''

# Whatever happens, what was done is packed: on the way out, once.
finish() {
    code=$?
    trap '' INT TERM
    if [ -n "$running" ]; then
        kill -TERM "$running" 2>/dev/null
        wait "$running"
        record "$code"
    fi
    if [ -n "$prepared" ]; then
        pack_results
        pack_state
        [ "$mps" -ne 1 ] || stop_mps
    fi
    [ -n "${WORK:-}" ] || rm -rf "$work"
    exit "$code"
}

# Unpack the wheels and an earlier call's state.
prepare() {
    mkdir -p "$out" "$work/outputs/models" "$work/runs" || exit 1
    : >"$log"
    if [ -n "${PACKAGES:-}" ] && [ ! -d "$work/packages" ]; then
        "$python" -m pip install --quiet --no-index --no-deps --target "$work/packages" "$PACKAGES"/*.whl \
            >>"$log" 2>&1 || say "not all wheels of $PACKAGES were installed"
    fi
    state=${STATE:-$out}
    if [ -n "${STATE:-}" ] || ls "$state"/state.tar.gz.[0-9]* >/dev/null 2>&1; then
        cat "$state"/state.tar.gz.[0-9]* 2>>"$log" | unpack || refuse_state state.tar.gz
    fi
    if [ -f "$state/results.tar.gz" ]; then
        unpack <"$state/results.tar.gz" || refuse_state results.tar.gz
    fi
    prepared=1
    echo stage,exit_code,seconds >"$out/stages.csv"
    export PYTHONPATH="src:$work/packages${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
    start_mps || mps=0
    # the same bits each time; no plugins that the machine happens to have
    export CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
}

# Unpack the archive on standard input; what $WORK has newer stays. (GNU tar 1.35 fails with --keep-newer-files where a
# folder is there already.)
unpack() {
    mkdir -p "$work/unpacked"
    tar -xzf - -C "$work/unpacked" >>"$log" 2>&1 && cp -a -u "$work/unpacked/." "$work/" >>"$log" 2>&1
    unpacked=$?
    rm -rf "$work/unpacked"
    return $unpacked
}

# refuse_state ARCHIVE: go no further, and pack nothing over it.
refuse_state() {
    tail -n 5 "$log" >&2
    say "no whole $1 in $state: name another STATE, or move these files away" >&2
    exit 1
}

# record EXIT_CODE: of the stage.
record() {
    echo "$stage,$1,$(($(date +%s) - stage_began))" >>"$out/stages.csv"
    tail -n 25 "$log"
    say "$stage ended with $1"
}

start_mps() {
    [ "$mps" -eq 1 ] && [ "$workers" -gt 1 ] && [ "$device" != cpu ] || return 1
    command -v nvidia-cuda-mps-control >>"$log" || return 1
    export CUDA_MPS_PIPE_DIRECTORY="$work/mps" CUDA_MPS_LOG_DIRECTORY="$work/mps"
    mkdir -p "$work/mps"
    if nvidia-cuda-mps-control -d >>"$log" 2>&1; then
        # the daemon starts its server with the first client; where it cannot, no process reaches the GPU
        timeout 60 "$python" -c 'import torch; torch.zeros(1, device="cuda")' >>"$log" 2>&1 && return 0
        stop_mps
    fi
    say "MPS did not start: models wait for one another on the GPU"
    unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    return 1
}

stop_mps() {
    echo quit | timeout 10 nvidia-cuda-mps-control >>"$log" 2>&1
}

say() {
    echo "gpu.sh, $(($(date +%s) - began)) s: $*" | tee -a "$log"
}

# Run a command, until the stage's time is over: SIGTERM lets it save its state. Returns its exit code, or 124.
within_time() {
    seconds=$((stage_ends - $(date +%s)))
    [ "$seconds" -gt 0 ] || return 124
    timeout --foreground -s TERM -k $((reserve / 2)) "$seconds" "$@" >>"$log" 2>&1 &
    running=$!
    wait "$running"
    code=$?
    running=
    # killed because SIGTERM did not end it; before its time is over it was something else, such as want of memory
    [ "$code" -ne 137 ] || [ "$(date +%s)" -lt "$stage_ends" ] || code=124
    return "$code"
}

tests() {
    # shellcheck disable=SC2086 # several files
    within_time "$python" -m pytest -v -ra --tb=short --color=no -p no:cacheprovider \
        ${TESTS:-tests/runtime/test_cuda.py tests/runtime/test_device.py tests/runtime/test_graphs.py}
    code=$?
    [ "$code" -ne 1 ] || graphs=${GRAPHS:-false} # a test failed; where the time was over, that says nothing of graphs
    return "$code"
}

bench() {
    smoke=
    [ "$scale" != smoke ] || smoke=--smoke
    within_time "$python" scripts/bench_gpu.py "$1" --device "$device" --out "$out/$1.csv" --only "${ONLY:-}" \
        ${smoke:+"$smoke"}
}

tramer() {
    seed=0 seeds=${SEEDS:-3} worst=0
    while [ "$seed" -lt "$seeds" ]; do
        run_paper "seed_$seed" paper=tramer/all "seed=$seed"
        code=$?
        pack_results
        [ "$code" -ne 124 ] || return 124
        [ "$code" -eq 0 ] || worst=$code
        seed=$((seed + 1))
    done
    [ "$worst" -eq 0 ] || return "$worst"
    [ "$seeds" -eq 1 ] || run_paper all paper=tramer/all "seeds=$seeds"
}

madry() {
    run_groups madry <<EOF
mnist paper=madry/all parts=[madry/table1,madry/text_mnist,madry/figure1_mnist,madry/figure2_mnist,madry/figure4_mnist,madry/maxima_mnist]
capacity paper=madry/figure3_mnist
cifar10 paper=madry/all parts=[madry/table2,madry/figure1_cifar10,madry/figure2_cifar10,madry/figure4_cifar10,madry/maxima_cifar10] models.A.arch.width=1 models.A_copy.arch.width=1 models.A_nat.arch.width=1
capacity_cifar10 paper=madry/figure3_cifar10 grid.natural.values.width=[1]
wide paper=madry/all parts=[madry/table2,madry/text_cifar10]
EOF
}

kariyappa() {
    run_groups kariyappa <<EOF
conv3 paper=kariyappa/all parts=[kariyappa/table2_conv3,kariyappa/figure4_conv3]
conv3_more paper=kariyappa/all parts=[kariyappa/surrogates,kariyappa/activations]
conv3_noise hydra.searchpath=[file://docs/results/kariyappa/log_odds] paper=noise_alone/noise_alone
conv4 paper=kariyappa/all parts=[kariyappa/table2_conv4,kariyappa/figure4_conv4,kariyappa/figure5]
resnet20 paper=kariyappa/all parts=[kariyappa/table2_resnet20,kariyappa/figure4_resnet20]
mix paper=kariyappa/table2_mix
EOF
}

kurakin() {
    run_groups kurakin <<EOF
adversarial paper=kurakin/all parts=[kurakin/table1,kurakin/table2,kurakin/table3,kurakin/figure3]
transfer paper=kurakin/all parts=[kurakin/table4,kurakin/table6,kurakin/figure2,kurakin/figure5]
k paper=kurakin/table8
methods paper=kurakin/table5
activations paper=kurakin/table7
text paper=kurakin/text
capacity paper=kurakin/all parts=[kurakin/figure1,kurakin/figure4]
EOF
}

# run_groups PAPER: the runs on standard input, a name and words for run.py in each line, all of one seed at a time.
run_groups() {
    groups=$(cat) seed=0 seeds=${SEEDS:-1} worst=0
    while [ "$seed" -lt "$seeds" ]; do
        while read -r name words; do
            case $name in
            *"${ONLY:-}"*) ;;
            *) continue ;;
            esac
            # shellcheck disable=SC2086 # several words
            run_paper "$1_${name}_seed_$seed" $words "seed=$seed"
            code=$?
            pack_results
            [ "$code" -ne 124 ] || return 124
            [ "$code" -eq 0 ] || worst=$code
        done <<EOF
$groups
EOF
        seed=$((seed + 1))
    done
    return "$worst"
}

# run_paper NAME WORDS: one run of the paper, unless it is done; without graphs if it fails with them. Its words lie beside
# its directory: with others the run has another directory, NAME-2, NAME-3, ...
run_paper() {
    name=$1 run=$1 number=1
    shift
    words="scale=$scale dataset=$dataset $* ${OVERRIDES:-}"
    while [ -d "$work/runs/$run" ] && [ "$(cat "$work/runs/$run.txt" 2>>"$log")" != "$words" ]; do
        number=$((number + 1))
        run=$name-$number
    done
    directory=$work/runs/$run
    echo "$words" >"$directory.txt"
    if grep -qs '"status": "done"' "$directory/run.json"; then
        say "$run: done by an earlier call"
        return 0
    fi
    say "$run, cuda_graphs=$graphs"
    paper_command "$directory" "$@" "cuda_graphs=$graphs"
    code=$?
    if [ "$code" -eq 1 ] && [ "$graphs" = null ] && [ "$device" != cpu ]; then
        say "$run failed: again without graphs"
        paper_command "$directory" "$@" cuda_graphs=false
        code=$?
        [ "$code" -ne 0 ] || graphs=false # it was the graphs: the others do without
    fi
    return "$code"
}

paper_command() {
    directory=$1
    shift
    if [ "$dataset" = mnist ]; then # the papers' files choose their own data sets
        set -- "$@" "dataset.root=${DATA:-data}"
    else
        set -- "$@" "dataset=$dataset"
    fi
    # shellcheck disable=SC2086 # several words
    within_time "$python" run.py "scale=$scale" "device=$device" precision=tf32 \
        "workers=$workers" checkpoint_seconds=20 "outputs=$work/outputs" "hydra.run.dir=$directory" "$@" \
        ${OVERRIDES:-}
}

# results.tar.gz: the run directories; the figures stay behind if it grows too large.
pack_results() {
    [ -n "$(ls "$work/runs")" ] || return 0
    packed=$work/results.tar.gz
    if pack_runs && { [ "$(wc -c <"$packed")" -le "$part" ] || pack_runs --exclude='*.png'; }; then
        mv "$packed" "$out"
    else
        say "results.tar.gz was not packed: the earlier one stays"
    fi
}

pack_runs() {
    tar -czf "$packed" -C "$work" --exclude='*.html' "$@" runs 2>>"$log"
}

# state.tar.gz.NN: finished rows, then as many models as fit.
pack_state() {
    [ -n "$(ls "$work/outputs/models")" ] || return 0
    room=$((part * parts - 1024 * 1024)) # a megabyte for the rows and tar's own
    : >"$work/kept"
    [ ! -d "$work/outputs/rows" ] || echo outputs/rows >"$work/kept"
    models_by_worth >"$work/models"
    while read -r _ bytes model; do
        if [ "$bytes" -le "$room" ]; then
            room=$((room - bytes))
            echo "outputs/models/$model" >>"$work/kept"
        else
            say "no room for $model, $((bytes / 1024 / 1024)) MiB: it stays behind"
        fi
    done <"$work/models"
    packed=$work/state.tar.gz
    rm -f "$packed".*
    if tar -czf "$packed" -C "$work" -T "$work/kept" 2>>"$log" && split -b "$part" -d "$packed" "$packed."; then
        rm -f "$out"/state.tar.gz.[0-9]* "$packed"
        mv "$packed".* "$out"
    else
        say "state.tar.gz was not packed: the earlier one stays"
    fi
}

# Lines "class bytes folder", best first: 1 trained, 2 in training, 3 of a run that is done; the small before the large.
models_by_worth() {
    for model in "$work"/outputs/models/*/; do
        name=$(basename "$model")
        if [ -f "$model/manifest.json" ]; then
            class=1
        elif [ -f "$model/last.pt" ]; then
            class=2
        else
            continue
        fi
        for run in "$work"/runs/*/run.json; do
            if grep -qs '"status": "done"' "$run" && grep -q "$name\"" "$run"; then
                class=3
            fi
        done
        echo "$class $(du -sb "$model" | cut -f 1) $name"
    done | sort -n -k 1,1 -k 2,2
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
prepare
while [ $# -gt 0 ]; do
    stage=$1 stage_began=$(date +%s)
    shift
    stage_ends=$((stage_began + (began + limit - reserve - stage_began) / ($# > 0 ? 2 : 1)))
    say "$stage, until $((stage_ends - began)) s"
    case $stage in
    tests | tramer | madry | kariyappa | kurakin) "$stage" ;;
    parity | speed) bench "$stage" ;;
    esac
    code=$?
    record "$code"
    case $code in
    0) ;;
    124) time_ran_out=1 ;;
    *) stage_failed=1 ;;
    esac
done
[ -z "$stage_failed" ] || exit 1
[ -z "$time_ran_out" ] || exit 3
