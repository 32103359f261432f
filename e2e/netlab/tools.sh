#!/bin/sh
# Installs what the network lab and the benchmark call, for root on Debian; everyone else is told by them what is missing.
# The machine itself is to get no SSH server: Debian would start it, now and at every boot.
set -eu
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
PATH=$PATH:/usr/sbin:/sbin
packages=
for tool in sshd:openssh-server ssh:openssh-client ip:iproute2 nsenter:util-linux mkfs.ext4:e2fsprogs rsync:rsync; do
    command -v "${tool%%:*}" >/dev/null || packages="$packages ${tool#*:}"
done
[ -n "$packages" ] || exit 0
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
apt-get update -qq
# shellcheck disable=SC2086 # one word for each
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
case $packages in
*openssh-server*) [ ! -d /run/systemd/system ] || systemctl -q disable ssh.service ssh.socket ;;
esac
