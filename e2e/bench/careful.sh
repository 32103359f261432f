# The procedure of a careful operator, without other tools than rsync: the slave and the third host get
# the master's commit log while the master serves; then the master is stopped, and only what has
# changed since is copied. As DLedger's guide says, all three get the same commit log, and config.
#
# From the environment: as in by-hand.sh. hosts.sh comes before it.

bring() { # FOLDER, from the master to both others
    on host-a "RSYNC_RSH='ssh -F $SSH_CONFIG' rsync -a --sparse --delete $DIR_A/store/$1/ host-b:$DIR_B/store/$1/" &
    on host-a "RSYNC_RSH='ssh -F $SSH_CONFIG' rsync -a --sparse --delete $DIR_A/store/$1/ host-c:$DIR_C/store/$1/"
    wait $!
}

settings() { # HOST DIR ID
    on "$1" "cd $2 && cp conf/broker.conf conf/broker.conf.dledger && cat >>conf/broker.conf.dledger" <<END
brokerRole=SLAVE
brokerId=$((${3#n} + 1))
enableDLegerCommitLog=true
dLegerGroup=broker-a
dLegerPeers=$PEERS
dLegerSelfId=$3
storePathRootDir=$2/store/dledger_store
END
}

start() { # HOST DIR
    on "$1" "set -e; cd $2; mkdir -p store/dledger_store; cp -r store/config store/dledger_store/; cp conf/broker.conf.dledger conf/broker.conf
        nohup bin/mqbroker -c conf/broker.conf >logs/broker_default.log 2>&1 </dev/null &"
}

# While the master serves.
on host-a "RSYNC_RSH='ssh -F $SSH_CONFIG' rsync -a --exclude=/store --exclude=/logs $DIR_A/ host-c:$DIR_C/"
on host-c "mkdir -p $DIR_C/store $DIR_C/logs && sed -i 's|$DIR_A|$DIR_C|; s/^listenPort=.*/listenPort=$PORT_C/' $DIR_C/conf/broker.conf"
settings host-a "$DIR_A" n0
settings host-b "$DIR_B" n1
settings host-c "$DIR_C" n2
stop host-b "$DIR_B"
bring commitlog

# From here on nothing is served.
stop host-a "$DIR_A"
bring commitlog
bring config

start host-a "$DIR_A"
start host-b "$DIR_B"
start host-c "$DIR_C"
