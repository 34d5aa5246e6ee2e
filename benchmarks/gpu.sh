#!/bin/bash
# What has to be seen on a GPU, in parts of a few minutes:
#
#   benchmarks/gpu.sh smoke OUT         1.5 min  every path that differs from a CPU's
#   benchmarks/gpu.sh ours  OUT DATA    7.5 min  CIFAR-10 at 10 and at 1 image per class
#   benchmarks/gpu.sh speed OUT DATA    2.5 min  the speed benchmarks, alone on the GPU
#   benchmarks/gpu.sh ipc50 OUT DATA    9.5 min  CIFAR-10 at 50 images per class
#
# OUT gets a log of every step, the JSON of the benchmarks and the condensed sets; DATA
# holds CIFAR-10 as torchvision unpacks it. A line a step says whether it went well, and
# the exit status whether all did. Repeated, a part goes on where its time ended.
#
# From the environment: DEVICE (cuda), PYTHON (that of .venv, else python3), WORK for run
# directories (runs/gpu), and BUDGET, the seconds of `ours` (470) and `ipc50` (560).
set -u

part=${1:-}
case $part in
smoke) needed=2 ;;
ours | speed | ipc50) needed=3 ;;
*) needed=99 ;;
esac
if [ $# -lt "$needed" ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi

absolute() { (cd "$1" && pwd); }
mkdir -p "$2"
out=$(absolute "$2") || exit 2
data=${3:+$(absolute "$3")} || exit 2
cd "$(dirname "$0")/.." || exit 1
mkdir -p "${WORK:=runs/gpu}"
work=$(absolute "$WORK") || exit 2
device=${DEVICE:-cuda}
python=${PYTHON:-$(command -v .venv/bin/python || command -v python3)}
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
rm -f "$out/failed"

# step NAME COMMAND...: its output goes to OUT/NAME.log, here a line about it.
step() {
    local name=$1 began=$SECONDS status
    shift
    "$@" >"$out/$name.log" 2>&1
    status=$?
    if [ $status = 0 ]; then
        echo "$name: well, $((SECONDS - began)) s"
    else
        echo "$name: exit status $status, $((SECONDS - began)) s"
        tail -n 4 "$out/$name.log"
        echo "$name" >>"$out/failed"
    fi
}
condense() { "$python" -m condense_core "$@"; }
run() { # run FOLDER PRESET [OPTION...]
    local folder=$1
    shift
    condense run "$@" --device "$device" --out "$work/$folder"
}
run_briefly() { # every phase of a run, each as short as can be
    run "$@" --set loop.restarts=1 --set loop.network_updates=2 \
        --set teacher.steps=20 --set pretrain.steps=20 \
        --set evaluate.recipe=paper-300 --set evaluate.repeats=2 \
        --set 'evaluate.baselines=[random]'
}
cells() { # cells PATTERN SECONDS: of the paper's tables, with the presets of a GPU
    "$python" benchmarks/paper_tables.py --device "$device" --scale full \
        --data-root "$data" --time-budget "$2" --only "$1" --out "$work/paper"
}
collect() { # collect IPC...: results of `cells`
    local ipc
    for ipc; do
        cp "$work"/paper/full/cifar10_ipc"$ipc"_ours_*.json "$out"/
        cp "$work/paper/full/runs/cifar10_ipc${ipc}_ours/condensed.safetensors" \
            "$out/cifar10-ipc$ipc.safetensors"
    done
}
timed() { # timed NAME SCRIPT [OPTION...]: a benchmark, its JSON in OUT
    local name=$1 script=$2
    shift 2
    step "$name" "$python" "benchmarks/$script" "$@" --device "$device" \
        --json "$out/$name.json"
}

smoke() {
    # PyTorch's own notices, as that of an old name for TF32, are no failures here.
    local pytest=("$python" -m pytest -q -p no:cacheprovider -o filterwarnings=ignore
        --device "$device")
    # All at once: each of them waits for Python most of the time.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
    step tests "${pytest[@]}" tests/core/compute/test_graphs.py \
        tests/core/objectives/test_unrolled.py tests/core/objectives/test_feature.py \
        tests/core/networks tests/core/losses tests/core/data/test_class_sampler.py \
        tests/core/test_ensemble.py tests/core/test_augment.py \
        tests/core/test_variational.py tests/core/test_synthesiser.py \
        tests/core/test_audit.py &
    # Stopped, resumed and read on the CPU, for several objectives.
    step runs "${pytest[@]}" tests/core/runs/test_run.py -k "any_device or shape_the" &
    { # Students on two streams; then a set from end to end.
        local made=$work/students/condensed.safetensors
        step students run_briefly students digits-ipc1 --set unrolled.at_once=2 \
            --set evaluate.probe_every=10
        step evaluate condense evaluate "$made" --dataset digits --device "$device" \
            --repeats 4 --ensemble vmap --width 32 --network convnet,resnet18 \
            --diversity
        step audit condense audit "$made" --dataset digits --device "$device"
    } &
    step bf16 run_briefly bf16 digits-ipc1 --set compute.precision=bf16 &
    step terms run_briefly terms digits --set optimiser.name=adam \
        --set loss.unrolled=1 --set loss.adversarial=1 --set loss.gradient=0.1 \
        --set loss.classifier=auxiliary --set loss.trajectory=1 \
        --set trajectory.experts=2 --set trajectory.snapshot_steps=2 \
        --set trajectory.width=8 --set trajectory.depth=2 &
    step replay run_briefly replay replay-refined &
    step teacher condense teacher digits --device "$device" --set teacher.steps=50 \
        --out "$work/teacher.safetensors" &
    wait
}

ours() { # beside each other: both leave the GPU waiting for Python
    local budget=${BUDGET:-470}
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
    step ipc10 cells 'cifar10_ipc10_ours_convnet_*' "$budget" &
    step ipc1 cells 'cifar10_ipc1_ours_convnet_*' "$budget" &
    wait
    step collect collect 1 10
}

speed() {
    local ipc
    for ipc in 1 10 50; do
        timed "ensemble-ipc$ipc-cuda" ensemble.py --shape 3 32 32 --ipc "$ipc" \
            --width 128 --networks 20 --steps 10 --rounds 2
    done
    timed students-cuda students.py --window 10 --rounds 3
    timed engine-cifar10-ipc10-cuda engine.py cifar10-ipc10 --without-plain \
        --data-root "$data" --rounds 3 --profile
    timed engine-cifar10-ipc10-paper-cuda engine.py cifar10-ipc10-paper \
        --set loop.reuse_association=true --data-root "$data" --rounds 2
}

ipc50() {
    step ipc50 cells 'cifar10_ipc50_ours_convnet_*' "${BUDGET:-560}"
    step collect collect 50
}

"$part"
[ ! -e "$out/failed" ]
