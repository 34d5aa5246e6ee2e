#!/usr/bin/env bash
# Run the app under Flower's simulation engine on this machine, without a network.
#
#   simulate.sh [KEY=VALUE ...]        any key of [tool.flwr.app.config] in pyproject.toml
#   CLIENTS=5 simulate.sh num-server-rounds=2 'partition="iid"' evaluate-clients=true
#
# CLIENTS (10) are simulated, each on CLIENT_CPUS (1) cores and CLIENT_GPUS (0) GPUs;
# common.sh lists more variables. Exits with 0 if the run is completed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

settings=(--run-config "min-available-clients=${CLIENTS:-10}") # wait for all
for pair in "$@"; do
  settings+=(--run-config "$pair")
done
prepare "$@"
start_superlink http "" --insecure --simulation
run "${settings[@]}" --federation-config "num-supernodes=${CLIENTS:-10} \
  client-resources-num-cpus=${CLIENT_CPUS:-1} client-resources-num-gpus=${CLIENT_GPUS:-0}"
report
