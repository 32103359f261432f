#!/bin/sh
# What both hand procedures begin with: a command on a host, and a broker that is stopped and gone.
#
# From the environment: SSH_CONFIG.
set -eu

on() {
    host=$1 && shift
    ssh -F "$SSH_CONFIG" "$host" "$@"
}

stop() { # HOST DIR
    on "$1" "pid=\$($2/bin/mqshutdown broker | tr -dc 0-9) && [ -n \"\$pid\" ] && while kill -0 \$pid 2>/dev/null; do sleep 0.1; done"
}

