#!/usr/bin/env bash
# Starts and stops the servers that `corelane bench --against` compares with. Installs nothing: it uses what is on PATH, or
# what REDIS_SERVER, VALKEY_SERVER and ETCD name. Everything listens on loopback only and lives in one directory.
#
#   bench/peers.sh start redis|valkey|etcd [PORT]   prints the URL for --target or --against
#   bench/peers.sh stop  redis|valkey|etcd
#   bench/peers.sh list
#
# Redis and Valkey run with an append-only file and `appendfsync always`: an answered write is durable, as corelane's is.
# PEERS_DIR (default: ${TMPDIR:-/tmp}/corelane-peers) must be on the device that corelane's data is on, or the comparison
# measures devices.
set -euo pipefail

peers_dir=${PEERS_DIR:-${TMPDIR:-/tmp}/corelane-peers}

fail() { echo "peers.sh: $*" >&2; exit 1; }

program_of() {
  case $1 in
    redis) echo "${REDIS_SERVER:-redis-server}" ;;
    valkey) echo "${VALKEY_SERVER:-valkey-server}" ;;
    etcd) echo "${ETCD:-etcd}" ;;
    *) fail "no peer is called $1 (redis, valkey, etcd)" ;;
  esac
}

port_of() {
  case $1 in redis) echo 7410 ;; valkey) echo 7411 ;; etcd) echo 7412 ;; esac
}

is_running() { [[ -f $1/pid ]] && kill -0 "$(cat "$1/pid")" 2>/dev/null; }

wait_for_port() {
  for _ in $(seq 100); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return 0; fi
    sleep 0.1
  done
  return 1
}

start() {
  local peer=$1 program port dir
  program=$(program_of "$peer")
  command -v "$program" >/dev/null || fail "$program is not installed; name it by ${peer^^}_SERVER (etcd: ETCD)"
  port=${2:-$(port_of "$peer")}
  dir=$peers_dir/$peer
  is_running "$dir" && fail "$peer runs already (process $(cat "$dir/pid")): stop it first"
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then fail "port $port is taken"; fi
  rm -rf "$dir"
  mkdir -p "$dir/data"
  case $peer in
    redis | valkey)
      "$program" --bind 127.0.0.1 --port "$port" --dir "$dir/data" --save '' --appendonly yes --appendfsync always \
        --auto-aof-rewrite-percentage 0 --daemonize no >"$dir/log" 2>&1 &
      ;;
    etcd)
      "$program" --data-dir "$dir/data" --listen-client-urls "http://127.0.0.1:$port" \
        --advertise-client-urls "http://127.0.0.1:$port" --listen-peer-urls "http://127.0.0.1:$((port + 1000))" \
        --initial-advertise-peer-urls "http://127.0.0.1:$((port + 1000))" \
        --initial-cluster "default=http://127.0.0.1:$((port + 1000))" --quota-backend-bytes 8589934592 \
        --log-level warn >"$dir/log" 2>&1 &
      ;;
  esac
  echo $! >"$dir/pid"
  wait_for_port "$port" || { tail -n 20 "$dir/log" >&2; fail "$peer did not come up on port $port"; }
  is_running "$dir" || { tail -n 20 "$dir/log" >&2; fail "$peer ended"; }
  case $peer in etcd) echo "etcd://127.0.0.1:$port" ;; *) echo "redis://127.0.0.1:$port" ;; esac
}

stop() {
  program_of "$1" >/dev/null
  local dir=$peers_dir/$1 pid
  is_running "$dir" || fail "$1 does not run"
  pid=$(cat "$dir/pid")
  kill "$pid"
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -0 "$pid" 2>/dev/null && fail "$1 (process $pid) does not end"
  rm -rf "$dir"
}

case ${1:-} in
  start) [[ $# -ge 2 ]] || fail "start what? (redis, valkey, etcd)"; start "$2" "${3:-}" ;;
  stop) [[ $# -eq 2 ]] || fail "stop what? (redis, valkey, etcd)"; stop "$2" ;;
  list)
    for peer in redis valkey etcd; do
      if is_running "$peers_dir/$peer"; then echo "$peer: process $(cat "$peers_dir/$peer/pid")"; else echo "$peer: not running"; fi
    done
    ;;
  *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac
