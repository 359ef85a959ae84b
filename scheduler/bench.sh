#!/usr/bin/env bash
# The scheduler's figures: the cost of a decision, and its quality beside four rivals and the shared-cache
# bound on the traces in ../shared/data/traces (or $RBEE_TRACES). Prints docs/bench/scheduler.md and writes it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
traces=${RBEE_TRACES:-$root/../shared/data/traces}
out=$root/docs/bench/scheduler.md
trace=$traces/mooncake-synthetic.jsonl
azure=$traces/azure-conv-2023.csv
if [[ ! -f $trace ]]; then
  echo "bench-scheduler: $trace is missing; set RBEE_TRACES to a folder with mooncake-synthetic.jsonl and azure-conv-2023.csv" >&2
  exit 1
fi
export GOWORK=off
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
(cd "$here/schedsim" && go build -o "$tmp/schedsim" ./cmd/schedsim)

sim() { "$tmp/schedsim" -trace "$trace" -o markdown "$@"; echo; }

report() {
  echo "# Scheduler: figures"
  echo
  echo "Written by \`make bench-scheduler\` ($(go version | cut -d' ' -f3,4), $(nproc) cores shared with other work). The simulator is deterministic:"
  echo "the tables below are the same on every machine, the cost of a decision is not. Its cost model is in scheduler/schedsim's package comment."
  echo "\`native\` is told cache sizes, rates and output lengths; \`native-blind\` is told none of them and learns; \`native-plain\` is driven by a"
  echo "caller that neither keeps \`Decision.Wait\` nor reports first tokens."
  echo
  echo "## Quality: 4 workers, 32 slots, 8,000 tokens/s of prefill, mooncake-synthetic"
  echo
  for blocks in 1000 4000; do
    echo "### $blocks cache blocks a worker"
    echo
    sim -cache-blocks $blocks -policy native,native-blind,native-plain,least-loaded,power-of-two,sglang,gateway-api,shared-cache
  done
  echo "### The same, arrivals stretched 1.5 and 2.5 times"
  echo
  sim -cache-blocks 4000 -scale 1.5
  sim -cache-blocks 1000 -scale 2.5
  echo "## The fleets people own (decode 100 tokens/s a slot, 1,000 blocks)"
  echo
  for slots in 1 2 4; do
    echo "### $slots slot(s), arrivals stretched 3 times"
    echo
    sim -cache-blocks 1000 -slots $slots -scale 3 -decode 100
  done
  for slots in 2 4; do
    echo "### Speeds 1, 0.5 and 0.1 mixed, $slots slots, stretched 6 times"
    echo
    sim -cache-blocks 1000 -slots $slots -scale 6 -decode 100 -speeds 1,0.5,0.1
  done
  for w in "1 4" "1 10" "2 4" "2 10" "4 4"; do
    read -r devices scale <<<"$w"
    echo "### Five models on $devices device(s) that hold two each, 8 s a load, stretched $scale times"
    echo
    echo "Each model has one worker at most under the rivals, so their routing does not matter: one of them stands for all."
    echo
    sim -cache-blocks 1000 -slots 4 -decode 100 -models 5 -hold 2 -workers "$devices" -scale "$scale" -load 8s -policy native,native-blind,native-plain,least-loaded
  done
  echo "## Traffic of our own making (schedsim -trace gen:FAMILY), 4 workers, 4 slots, busy"
  echo
  echo "Not what the policy was measured on first: six kinds of traffic, so that it isn't tuned to one trace."
  echo
  for f in "agents 0.09" "bursty 0.13" "chat 0.19" "diurnal 0.26" "documents 0.11" "tails 0.13"; do
    read -r family scale <<<"$f"
    echo "### $family"
    echo
    "$tmp/schedsim" -trace "gen:$family" -o markdown -spread 0s -slots 4 -decode 100 -scale "$scale"
    echo
    "$tmp/schedsim" -trace "gen:$family" -o markdown -spread 0s -slots 4 -decode 100 -models 5 -hold 2 -workers 3 -scale 0.3 -skew 0.5 -policy native,native-blind,native-plain,least-loaded
    echo
  done
  echo "## The grid (schedsim -grid): where native is behind the best of the rivals"
  echo
  echo "432 cells: six families on 72 fleets and loads, two seeds; each metric beside the rival that is best at it. A ratio below 1 is ahead."
  echo
  for policy in native native-blind-plain; do
    echo "### $policy"
    echo
    "$tmp/schedsim" -grid -worst 0 -policy $policy
    echo
  done
  if [[ -f $azure ]]; then
    echo "## azure-conv-2023 (no prefixes), 4 workers, 4 slots"
    echo
    "$tmp/schedsim" -trace "$azure" -o markdown -slots 4 -decode 50 -scale 1.5
    echo
  fi
  echo "## Cost of a decision"
  echo
  echo "Prompt hashing excluded; Flat looks at every worker. cpu-ns/op is processor time, ns/op wall time on cores that others use too."
  echo
  echo '```'
  (cd "$here" && go test -run '^$' -bench . -benchtime 0.5s . | grep -E '^(Benchmark|cpu)')
  (cd "$here/scriptsched" && go test -run '^$' -bench . -benchtime 0.5s . | grep -E '^Benchmark' | sed 's/BenchmarkDefault/BenchmarkStarlarkDefault, 100 workers/')
  echo '```'
}

mkdir -p "$(dirname "$out")"
report | tee "$out"
