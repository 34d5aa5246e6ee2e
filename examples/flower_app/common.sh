# Sourced by simulate.sh and deploy.sh: environment, processes, runs.
#
# Variables, all optional:
#   PYTHON       interpreter of an environment with gencondense[flower,demo]; by default
#                that of the repository's .venv, else the python3 on PATH
#   OUT          folder of results and logs; by default a new one. Results of an earlier
#                run are removed from it; rounds stay if an argument sets resume-from
#   FLWR_HOME    Flower's folder; by default one that is removed at the end
#   PORT         of the SuperLink; by default a free one
#   RUN_SECONDS  longest time a run may take, 7200
#   APP          another Flower app to run, instead of the one in this folder

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
processes=() # started by `start` and not stopped yet

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

prepare() { # KEY=VALUE...: find the environment, make the folders, tidy up at exit
  if [[ -z ${PYTHON:-} ]]; then
    PYTHON=$here/../../.venv/bin/python
    [[ -x $PYTHON ]] || PYTHON=python3
  fi
  local python
  python=$(command -v "$PYTHON") || die "there is no $PYTHON: set PYTHON"
  PATH=$(cd "$(dirname "$python")" && pwd):$PATH
  local tool
  for tool in flwr flower-superlink flower-supernode; do
    command -v "$tool" >/dev/null || die "$tool is not on PATH: set PYTHON (see README.md)"
  done
  "$PYTHON" -c 'import flower_strategy, sklearn' 2>/dev/null ||
    die "$PYTHON cannot import flower_strategy and sklearn: set PYTHON (see README.md)"

  APP=$(cd "${APP:-$here}" && pwd)
  OUT=${OUT:-$(mktemp -d "${TMPDIR:-/tmp}/gencondense-XXXXXX")}
  mkdir -p "$OUT/logs"
  OUT=$(cd "$OUT" && pwd)
  rm -f "$OUT/result.json" "$OUT/merged.safetensors" # of an earlier run
  [[ " $*" == *" resume-from="* ]] || rm -rf "$OUT"/round-[0-9][0-9][0-9]*
  if [[ -n ${FLWR_HOME:-} ]]; then
    mkdir -p "$FLWR_HOME"
  else
    FLWR_HOME=$(mktemp -d "${TMPDIR:-/tmp}/flwr-XXXXXX")
    temporary_home=$FLWR_HOME
  fi
  # Without the third, Flower makes an empty environment for every run.
  export PATH FLWR_HOME FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 RAY_USAGE_STATS_ENABLED=0
  PORT=${PORT:-$(free_port)}
  trap tidy_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

tidy_up() {
  local status=$?
  local i
  for ((i = ${#processes[@]} - 1; i >= 0; i--)); do # nodes before their SuperLink
    stop "${processes[i]}"
  done
  rm -rf "${temporary_home:-}"
  exit "$status"
}

free_port() {
  "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])'
}

start() { # NAME COMMAND...: in the background, logging to logs/NAME.log
  local name=$1
  shift
  "$@" >"$OUT/logs/$name.log" 2>&1 &
  processes+=($!)
}

stop() { # PID: that process and the ones it started
  local family
  family=$(descendants "$1")
  kill "$1" 2>/dev/null || return 0
  local _
  for _ in {1..150}; do
    kill -0 "$1" 2>/dev/null || break
    sleep 0.2
  done
  local pid
  for pid in "$1" $family; do
    kill -9 "$pid" 2>/dev/null || true
  done
  wait "$1" 2>/dev/null || true
}

descendants() { # PID
  local child
  for child in $(pgrep -P "$1"); do
    echo "$child"
    descendants "$child"
  done
}

start_superlink() { # SCHEME [CA] OPTION...: on loopback, known to flwr as $superlink
  local scheme=$1 ca=$2
  shift 2
  superlink=gencondense-$PORT-$$
  if [[ $scheme == https ]]; then
    local trust="root-certificates = \"$ca\""
  else
    local trust="insecure = true"
  fi
  printf '\n[superlink.%s]\naddress = "127.0.0.1:%s"\n%s\n' "$superlink" "$PORT" "$trust" \
    >>"$FLWR_HOME/config.toml"
  start superlink flower-superlink --host 127.0.0.1 --port "$PORT" "$@"
  "$PYTHON" - "$scheme://127.0.0.1:$PORT/health" "$ca" "${processes[-1]}" <<'PY' ||
import os, ssl, sys, time, urllib.request

url, ca, process = sys.argv[1:]
trust = ssl.create_default_context(cafile=ca) if ca else None
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
)
for _ in range(600):
    os.kill(int(process), 0)
    try:
        sys.exit(opener.open(url, timeout=5).status != 200)
    except OSError:
        time.sleep(0.2)
sys.exit(1)
PY
    die "the SuperLink does not answer: see $OUT/logs/superlink.log"
}

field() { # KEY...: a value of the JSON on standard input
  "$PYTHON" -c '
import json, sys

value = json.load(sys.stdin)
for key in sys.argv[1:]:
    value = value[int(key) if isinstance(value, list) else key]
print(value)' "$@"
}

run() { # OPTION OF flwr run...: run the app; fail unless it completes
  local answer number status deadline=$((SECONDS + ${RUN_SECONDS:-7200}))
  # Our folder comes last and wins. flwr may exit with 0 even if it refuses the run.
  answer=$(flwr run "$APP" "$superlink" --format json "$@" \
    --run-config "save-to=\"$OUT\"") || die "flwr run refuses: $answer"
  number=$(field run-id <<<"$answer" 2>/dev/null) || die "flwr run refuses: $answer"
  echo "run $number, results and logs in $OUT"
  # The exit status of flwr run says nothing about the run.
  while true; do
    flwr list "$superlink" --run-id "$number" --format json >"$OUT/run.json"
    status=$(field runs 0 status <"$OUT/run.json")
    [[ $status == finished:* ]] && break
    ((SECONDS < deadline)) || die "run $number is $status after ${RUN_SECONDS:-7200} s"
    sleep 3
  done
  flwr log "$number" "$superlink" --show >"$OUT/logs/run.log" 2>&1 || true
  if [[ $status != finished:completed ]]; then
    tail -n 30 "$OUT/logs/run.log" >&2
    die "run $number is $status: $(field runs 0 status-details <"$OUT/run.json")"
  fi
}

report() { # print what the server wrote
  "$PYTHON" - "$OUT/result.json" <<'PY'
import json, sys

with open(sys.argv[1]) as file:
    rounds = json.load(file)["rounds"]
last = rounds[-1]
for who, reason in last["rejected"].items():
    print(f"left out {who}: {reason}")
if last["missing"]:
    print(f"{last['missing']} clients did not answer")
for who, reason in last["untested"].items():
    print(f"not tested by {who}: {reason}")
accuracy, by_clients = (
    "not measured" if last[key] is None else f"{last[key]:.2f} %"
    for key in ("accuracy", "client_accuracy")
)
print(
    f"global accuracy {accuracy}, by clients {by_clients},",
    f"{len(last['accepted'])} clients accepted,",
    f"{sum(r['bytes_up'] for r in rounds)} bytes up,",
    f"{sum(r['bytes_down'] for r in rounds)} bytes down",
)
PY
}
