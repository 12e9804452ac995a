#!/usr/bin/env bash
# A search or a training on Slurm: Ray on the nodes of one allocation, and the driver beside its head, on the first.
#   sbatch cluster/slurm.sh tune --space cifar10 --data /shared/cifar10 --storage /shared/act --workers-per-trial 4
#   sbatch cluster/slurm.sh train --preset cifar10 --data /shared/cifar10 --storage /shared/act --workers 16
# Call it from the root of the repository with its environment active, which sbatch hands on. These two, the data and
# --storage are in folders that all nodes mount. CHANGE what is marked <-.
# SIGTERM (two minutes before the time is up, or `scancel --batch --signal=TERM JOB`) saves, with exit code 143;
# after `ACT_RAY_REQUEUE=1 sbatch ...` the job then goes back into the queue, to continue from what was saved.
#SBATCH --job-name=act-ray
#SBATCH --nodes=2 # <-
#SBATCH --gpus-per-node=8 # <-
#SBATCH --cpus-per-task=64 # <- the CPUs of a node
#SBATCH --ntasks-per-node=1
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
set -euo pipefail

verb=${1:-}
if [[ $verb != tune && $verb != train ]]; then
  echo "error: sbatch cluster/slurm.sh tune ARGUMENTS, or train ARGUMENTS" >&2
  exit 2
fi
shift

value() { # of an option among the arguments: value OPTION DEFAULT ARGUMENTS...
  local option=$1 found=$2 before=
  shift 2
  for word; do
    if [[ $before == "$option" ]]; then found=$word; fi
    if [[ $word == "$option="* ]]; then found=${word#*=}; fi
    before=$word
  done
  echo "$found"
}

# ------------------------------------------------------------------------------------------------- what to run
storage=$(value --storage runs "$@")
name=$(value --name "slurm-$SLURM_JOB_ID" "$@") # the same after a requeue
arguments=("$@" --shared-storage)
if [[ -z $(value --resume "" "$@") ]]; then
  # Requeued by us or by Slurm: on with what is there. A run that was killed before it wrote anything starts afresh.
  if ((${SLURM_RESTART_COUNT:-0} > 0)) && [[ $storage == *://* || -d $storage/$name ]]; then
    if [[ $verb == tune ]]; then # a search remembers how it runs
      arguments=(--resume "$name" --storage "$storage" --shared-storage)
    else
      arguments=(--resume "$storage/$name" --workers "$(value --workers 1 "$@")" --shared-storage)
    fi
  else
    arguments+=(--name "$name")
  fi
fi

# ------------------------------------------------------------------------------------------------- Ray
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
cpus=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
gpus=${SLURM_GPUS_ON_NODE:-0}
# Ports that are free here, since others may have a Ray on this node, and a token without which nobody can use them.
read -r ip port dashboard client agent RAY_AUTH_TOKEN < <(python -c '
import secrets, socket, ray
found = [socket.socket() for _ in range(4)]
for one in found:
    one.bind(("", 0))
print(ray.util.get_node_ip_address(), *(one.getsockname()[1] for one in found), secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
export RAY_ADDRESS=$ip:$port RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard # asked by what runs on the head alone

driver=
# shellcheck disable=SC2329 # called by the trap
terminate() {
  if [[ -z $driver ]]; then exit 143; fi
  kill -TERM "$driver" 2>/dev/null || true
}
# shellcheck disable=SC2329 # called by the trap
leave() { # ends the steps, and with them Ray on all nodes
  local code=$? steps
  mapfile -t steps < <(jobs -p)
  kill -TERM "${steps[@]}" 2>/dev/null || true
  wait || true
  if ((code == 143)) && [[ ${ACT_RAY_REQUEUE:-0} == 1 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
}
trap 'terminate' TERM USR1
trap 'leave' EXIT

step() { # on all of the nodes FIRST,SECOND,...: step NODES COMMAND...
  local nodes=$1 many
  many=$(tr , '\n' <<<"$nodes" | wc -l)
  shift
  srun --overlap --no-kill --kill-on-bad-exit=0 --nodelist="$nodes" --nodes="$many" --ntasks="$many" \
    --cpus-per-task="$cpus" "$@" >/dev/null &
}
have=(--num-cpus="$cpus" --num-gpus="$gpus")
# Trials at once, each of which has its driver on the head: as many as fit on all nodes.
units=$((gpus > 0 ? gpus : cpus)) per_trial=$(value --workers-per-trial 1 "$@")
if [[ ! $per_trial =~ ^[1-9][0-9]*$ ]]; then per_trial=1; fi
slots=$((${#hosts[@]} * units / per_trial))
step "${hosts[0]}" ray start --head --block --port="$port" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" \
  --ray-client-server-port="$client" --dashboard-agent-listen-port="$agent" --temp-dir="/tmp/ray-$SLURM_JOB_ID" \
  --resources="{\"trial_slot\": $slots}" "${have[@]}"
head=$!
limit=$((SECONDS + 600)) # Python itself comes from a shared folder, and may take its time
wait_until() { # a command that succeeds once Ray is up: wait_until COMMAND...
  until "$@" &>/dev/null; do
    if ((SECONDS > limit)) || ! kill -0 "$head" 2>/dev/null; then
      echo "error: Ray did not start on all of ${hosts[*]}" >&2
      exit 1
    fi
    sleep 1
  done
}
wait_until ray health-check --address "$RAY_ADDRESS"
if ((${#hosts[@]} > 1)); then
  others=$(IFS=, && echo "${hosts[*]:1}")
  step "$others" ray start --address="$RAY_ADDRESS" --block "${have[@]}"
fi
wait_until python -c '
import sys, ray
ray.init("auto", log_to_driver=False)
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]))' "${#hosts[@]}"

# ------------------------------------------------------------------------------------------------- the driver
python -m "act_ray.$verb" "${arguments[@]}" &
driver=$!
while kill -0 "$driver" 2>/dev/null; do
  wait "$driver" || true # also ended by a signal, while the driver saves
done
code=0
wait "$driver" || code=$?
exit "$code"
