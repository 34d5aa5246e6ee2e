#!/usr/bin/env bash
# Run the app under Flower's deployment engine on this machine: a SuperLink, a SuperNode
# for each site, one run. Then everything is stopped.
#
#   deploy.sh [--tls] [--sites FOLDER] [KEY=VALUE ...]
#
#   --tls      TLS, and only registered nodes may join; a node that is not registered is
#              started too, and must be refused
#   --sites    each folder in FOLDER is a site: FOLDER/SITE/train/CLASS/*.png; without it
#              each of NODES (3) nodes has a partition of the data set
#   KEY=VALUE  any key of [tool.flwr.app.config] in pyproject.toml
#
# common.sh lists more variables. Exits with 0 if the run is completed and the bytes that
# Flower measured are within 5 % of those we report; SKIP_TRAFFIC=1 skips that check.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_certificates() { # one authority, one certificate of the SuperLink
  openssl req -x509 -newkey rsa:3072 -nodes -days 2 -subj "/CN=gencondense test CA" \
    -keyout "$keys/ca.key" -out "$keys/ca.crt" 2>/dev/null
  openssl req -newkey rsa:3072 -nodes -subj "/CN=localhost" \
    -keyout "$keys/server.key" -out "$keys/server.csr" 2>/dev/null
  openssl x509 -req -in "$keys/server.csr" -CA "$keys/ca.crt" -CAkey "$keys/ca.key" \
    -CAcreateserial -days 2 -out "$keys/server.crt" 2>/dev/null \
    -extfile <(echo "subjectAltName = IP:127.0.0.1, DNS:localhost")
}

make_node_key() { # NAME
  ssh-keygen -q -t ecdsa -b 384 -N "" -f "$keys/$1"
}

start_node() { # NAME CONFIG
  local options=(--insecure)
  if $tls; then
    options=(--root-certificates "$keys/ca.crt" --auth-supernode-private-key "$keys/$1")
  fi
  start "$1" flower-supernode "${options[@]}" --superlink "127.0.0.1:$PORT" \
    --host 127.0.0.1 --port "$(free_port)" --node-config "$2"
}

expect_refusal() { # NAME: a node whose key is not registered must stop by itself
  make_node_key "$1"
  start_node "$1" "partition-id=0 num-partitions=1"
  local status=0 node=${processes[-1]} _
  for _ in {1..120}; do
    kill -0 "$node" 2>/dev/null || break
    sleep 1
  done
  if kill -0 "$node" 2>/dev/null; then
    die "a node that is not registered was not refused: see $OUT/logs/$1.log"
  fi
  wait "$node" || status=$?
  if ((status == 0)) || ! grep -q "code: 2004" "$OUT/logs/$1.log"; then
    die "a node that is not registered was not refused: see $OUT/logs/$1.log"
  fi
  echo "a node that is not registered was refused"
}

compare_traffic() { # fails if Flower measured more than 5 % more or less than we report
  "$PYTHON" - "$OUT/run.json" "$OUT/result.json" <<'PY'
import json, sys

with open(sys.argv[1]) as file:
    measured = json.load(file)["runs"][0]["network-traffic"]
with open(sys.argv[2]) as file:
    rounds = json.load(file)["rounds"]
total = 0
for direction, name in (("up", "inbound-bytes"), ("down", "outbound-bytes")):
    ours = sum(r[f"wire_{direction}"] for r in rounds)
    theirs = measured[name]
    total += ours
    print(
        f"{direction}: {sum(r[f'bytes_{direction}'] for r in rounds)} bytes of content,",
        f"{ours} with envelopes, {theirs} measured by Flower ({ours / theirs - 1:+.1%})",
    )
# The sum: in one shot little more than acknowledgements of uploads comes down, and these
# are shorter if another node has just sent an equal array.
sys.exit(abs(total - measured["total-bytes"]) > 0.05 * measured["total-bytes"])
PY
}

tls=false sites=
while [[ ${1:-} == --* ]]; do
  case $1 in
    --tls) tls=true ;;
    --sites) sites=${2:?--sites needs a folder} && shift ;;
    *) die "unknown option $1" ;;
  esac
  shift
done
names=() configs=()
if [[ -n $sites ]]; then
  for folder in "$sites"/*/; do
    folder=$(cd "$folder" && pwd)
    names+=("$(basename "$folder")")
    configs+=("client-name=\"${names[-1]}\" data-path=\"$folder\"")
  done
else
  for ((i = 0; i < ${NODES:-3}; i++)); do
    names+=("node-$i")
    configs+=("partition-id=$i num-partitions=${NODES:-3}")
  done
fi
settings=(--run-config "min-available-clients=${#names[@]}") # wait for all
for pair in "$@"; do
  settings+=(--run-config "$pair")
done

prepare "$@"
if $tls; then
  keys=$OUT/keys
  rm -rf "$keys" && mkdir -m 700 "$keys"
  make_certificates
  start_superlink https "$keys/ca.crt" --ssl-ca-certfile "$keys/ca.crt" \
    --ssl-certfile "$keys/server.crt" --ssl-keyfile "$keys/server.key" \
    --enable-supernode-auth
  expect_refusal stranger
else
  start_superlink http "" --insecure
fi
for i in "${!names[@]}"; do
  if $tls; then
    make_node_key "${names[i]}"
    flwr supernode register "$keys/${names[i]}.pub" "$superlink" >/dev/null
  fi
  start_node "${names[i]}" "${configs[i]}"
done
run "${settings[@]}"
report
if [[ -z ${SKIP_TRAFFIC:-} ]]; then
  compare_traffic || die "the bytes that Flower measured differ from those we report"
fi
