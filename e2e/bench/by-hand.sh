# The procedure as people do it by hand: stop everything, copy the installation with its store to the
# third host, add the settings, copy store/config, start.
#
# From the environment: SSH_CONFIG; DIR_A, DIR_B and DIR_C, the installations on host-a (master), host-b
# (slave) and host-c (nothing yet); PEERS as dLegerPeers has them; PORT_C, where host-c's broker listens.
# hosts.sh comes before it.

settings() { # HOST DIR ID
    on "$1" "cd $2 && mkdir -p store/dledger_store/config && cp store/config/* store/dledger_store/config/ && cat >>conf/broker.conf" <<END
enableDLegerCommitLog=true
dLegerGroup=broker-a
dLegerPeers=$PEERS
dLegerSelfId=$3
storePathRootDir=$2/store/dledger_store
END
}

start() { # HOST DIR
    on "$1" "cd $2; nohup bin/mqbroker -c conf/broker.conf >logs/broker_default.log 2>&1 </dev/null &"
}

stop host-a "$DIR_A"
stop host-b "$DIR_B"

on host-a "scp -F $SSH_CONFIG -q -r $DIR_A host-c:$DIR_C"
# On hosts of their own paths and ports are the same; here all three are one machine.
on host-c "sed -i 's|$DIR_A|$DIR_C|; s/^listenPort=.*/listenPort=$PORT_C/' $DIR_C/conf/broker.conf"

settings host-a "$DIR_A" n0
settings host-b "$DIR_B" n1
settings host-c "$DIR_C" n2

start host-a "$DIR_A"
start host-b "$DIR_B"
start host-c "$DIR_C"
