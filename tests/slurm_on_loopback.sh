#!/usr/bin/env bash
# Runs a grid of four units through papermill_runs/Snakefile and a Slurm of its own: one node with two pretended
# GPUs, on 127.0.0.1, in a temporary folder. One unit's process dies at its first try, and the unit is retried. At
# the end the run must have the bits of `plasticity run`. It takes about three minutes, and needs root, the extra
# `cluster`, and Debian's packages:
#
#     apt-get install slurm-wlm munge
#     tests/slurm_on_loopback.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
REPOSITORY=$PWD
PYTHON=$(realpath -s "${PYTHON:-.venv/bin/python}")
PATH=$PATH:/usr/sbin
for tool in munged slurmctld slurmd; do
  command -v "$tool" >/dev/null || { echo "error: no $tool: apt-get install slurm-wlm munge" >&2; exit 1; }
done
"$PYTHON" -c 'import snakemake_executor_plugin_slurm' || { echo "error: pip install '.[cluster]'" >&2; exit 1; }

DIR=$(mktemp -d)
stop() {
  set +e
  scancel --quiet --user "$(id -un)" 2>/dev/null
  for daemon in slurmd slurmctld munged; do
    [ -f "$DIR/$daemon.pid" ] && kill "$(cat "$DIR/$daemon.pid")" 2>/dev/null
  done
  if [ "${KEEP:-}" ]; then echo "kept: $DIR"; else sleep 1; rm -rf "$DIR"; fi
}
trap stop EXIT
trap 'exit 1' HUP INT TERM

# The package, with the tests' toy among its experiments.
cp -r src "$DIR/package"
mkdir "$DIR/package/plasticity/chapters/toy"
cp tests/toy.py "$DIR/package/plasticity/chapters/toy/__init__.py"
touch "$DIR/package/plasticity/chapters/toy/run.py"  # by which the command line knows an experiment

# Port 0 is answered with one that is free.
PORTS=($("$PYTHON" -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in held))'))

mkdir "$DIR/state" "$DIR/spool"
touch "$DIR/gpu0" "$DIR/gpu1"
export SLURM_CONF=$DIR/slurm.conf
cat >"$SLURM_CONF" <<EOF
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=${PORTS[0]}
SlurmdPort=${PORTS[1]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$DIR/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.log
# A container has neither systemd nor cgroups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MailProg=/bin/true
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 Gres=gpu:2
PartitionName=all Nodes=localhost Default=YES
EOF
echo "NodeName=localhost Name=gpu File=$DIR/gpu[0-1]" >"$DIR/gres.conf"
echo "CgroupAutomount=no" >"$DIR/cgroup.conf"

# Munge's key, socket and files lie here too; it refuses a key that others can read.
(umask 077; head -c 128 /dev/urandom >"$DIR/munge.key")
chmod 755 "$DIR"
munged --socket="$DIR/munge.socket" --key-file="$DIR/munge.key" --pid-file="$DIR/munged.pid" \
  --log-file="$DIR/munged.log" --seed-file="$DIR/munge.seed"
slurmctld
slurmd -N localhost
for _ in {1..60}; do
  [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && break
  sleep 0.5
done
sinfo --format='%N %T %c CPUs %G' || { cat "$DIR"/*.log; exit 1; }

# The plugin starts a job's step without the variable that says where Slurm's configuration lies.
mkdir "$DIR/bin"
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" >"$DIR/bin/srun"
chmod +x "$DIR/bin/srun"
PATH=$DIR/bin:$PATH
export PYTHONPATH=$DIR/package PLASTICITY_RUNS=$DIR/runs XDG_CACHE_HOME=$DIR/cache
RUN="toy --study quick --set seconds_a_chunk=0.1"
cd "$DIR"
TOY_DIES_ONCE=$DIR/died "$PYTHON" -m snakemake --snakefile "$REPOSITORY/papermill_runs/Snakefile" --nolock \
  --executor slurm --jobs 2 --retries 1 --config run="$RUN" \
  --default-resources "gres='gpu:1'" mem_mb=1000 runtime=10 \
  --slurm-no-account --slurm-status-command squeue --slurm-init-seconds-before-status-checks 2 \
  2>&1 | tee snakemake.log

echo; echo "Slurm's own record:"
sed -E 's/.*(JobId=[0-9]+).*(JobState=[A-Z]+).*(StartTime=\S+ EndTime=\S+).*/\1 \2 \3/' jobs.txt
states=$(grep -o 'JobState=[A-Z]*' jobs.txt | sort | uniq -c | xargs)
[ "$states" = "5 JobState=COMPLETED 1 JobState=FAILED" ] || { echo "error: $states" >&2; exit 1; }

PLASTICITY_RUNS=$DIR/unbroken "$PYTHON" -m plasticity.cli run $RUN
"$PYTHON" - <<'EOF'
import json, pathlib
(through,), (unbroken,) = (list(pathlib.Path(name).glob("toy/*/run.json")) for name in ("runs", "unbroken"))
hashes = [json.loads(path.read_text())["sha256"] for path in (through, unbroken)]
assert hashes[0] == hashes[1], hashes
print("ok: four units through Slurm, one retried, the bits of plasticity run")
EOF
