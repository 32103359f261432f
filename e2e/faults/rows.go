package main

import (
	"fmt"
	"slices"
	"time"

	"mqlift/e2e/netlab"
	"mqlift/internal/lab"
	"mqlift/internal/playbook"
	"mqlift/internal/run"
	"mqlift/internal/step"
)

// rows are all faults.
func rows() ([]row, error) {
	book, err := playbook.Load("dledger", step.Requirements())
	if err != nil {
		return nil, err
	}
	all := []row{
		{name: "nothing", end: verified},
		{name: "nothing, consume queues and index built anew", with: []string{"--rebuild-index"}, end: verified},
	}
	for _, stage := range book.Stages {
		for _, s := range stage.Steps {
			all = append(all, killed(s)...)
		}
	}
	goneBack, err := replays()
	if err != nil {
		return nil, err
	}
	for _, l := range [][]row{killedElsewhere(), goneBack, stopped(), connections(), links(), hosts(), disks(), bytesFlipped(), nameServersLost(), elections(), brokers()} {
		all = append(all, l...)
	}
	return all, nil
}

// killed are the rows in which the tool is killed in and after a step; after a step is before the next.
func killed(step string) []row {
	return []row{
		{name: "mqlift gets SIGKILL in", step: step, on: run.StepBegin, within: true, do: sigkill, end: verified},
		{name: "mqlift gets SIGKILL after", step: step, on: run.StepDone, do: sigkill, end: verified},
	}
}

// killedElsewhere are the other places that a kill, or a lost disk of the bastion, is worst in.
func killedElsewhere() []row {
	return []row{
		{name: "mqlift gets SIGKILL inside the copy of the log,", step: "copy-log-live", on: run.StepBegin, when: copying, do: sigkill, end: verified, test: true},
		{name: "mqlift gets SIGKILL while Ctrl-C is undone,", step: "start-peers", on: run.StepDone, do: then(interrupt, await(run.UndoBegin, "start-peers"), sigkill), end: verified},
		{name: "mqlift gets SIGKILL while Ctrl-C is undone,", step: "fence-master", on: run.StepDone, do: then(interrupt, await(run.UndoBegin, "fence-master"), sigkill), end: verified},
		{name: "mqlift gets SIGKILL and its journal's last record is torn", step: "start-peers", on: run.StepBegin, within: true, do: sigkill, mend: tearJournal, end: verified, test: true},
		{name: "the disk with the journal is full", step: "align-logs", root: true, before: smallStateDir, on: run.StepBegin, do: fillStateDir, mend: freeStateDir, says: "no space left on device", end: verified},
		{name: "the disk with the journal is full", step: "prove-peers", root: true, before: smallStateDir, on: run.StepBegin, do: fillStateDir, mend: freeStateDir, says: "no space left on device", end: verified},
	}
}

// replays are upgrades that are killed after writes were opened and gone back from, with the way back
// killed in each of its steps.
func replays() ([]row, error) {
	book, err := playbook.Load("rollback", step.WayBackRequirements())
	if err != nil {
		return nil, err
	}
	l := []row{
		{name: "mqlift gets SIGKILL, then rollback --replay, in", step: "join-old-master", on: run.StepBegin, within: true, do: sigkill, replay: true, end: back},
		{name: "mqlift gets SIGKILL, then rollback --replay, in", step: "prove-group", on: run.StepBegin, within: true, do: sigkill, replay: true, end: back},
	}
	for _, stage := range book.Stages {
		for _, s := range stage.Steps {
			l = append(l, row{name: fmt.Sprintf("mqlift gets SIGKILL, and rollback --replay in %s, after", s), step: "open-writes", on: run.StepDone,
				do: then(sigkill, again(run.StepBegin, s), sigkill), replay: true, end: back})
		}
	}
	return l, nil
}

// stopped are Ctrl-C's: everything is undone.
func stopped() []row {
	var l []row
	for _, step := range []string{"copy-log-live", "fence-master", "start-peers"} {
		l = append(l, row{name: "Ctrl-C in", step: step, on: run.StepBegin, within: true, do: interrupt, end: back})
	}
	for _, step := range []string{"stop-master", "join-old-master"} {
		l = append(l, row{name: "Ctrl-C in", step: step, on: run.StepBegin, within: true, do: interrupt, end: verified})
	}
	return l
}

// connections are SSH connections that are lost or go silent.
func connections() []row {
	return []row{
		{name: "SSH to the new host cut for good, inside the copy,", only: loopback, step: "copy-log-live", on: run.StepBegin, when: copying, do: ssh(lab.Cut, empty), mend: ssh(lab.Restore, empty), end: verified},
		{name: "SSH to the new host cut for a moment, inside the copy,", only: loopback, step: "copy-log-live", on: run.StepBegin, when: copying, do: then(ssh(lab.Cut, empty), ssh(lab.Restore, empty)), end: back},
		{name: "SSH to the new host stalled, inside the copy,", step: "copy-log-live", on: run.StepBegin, when: copying, do: ssh(lab.Stall, empty), mend: ssh(lab.Restore, empty), says: "no sign of life", end: verified},
		{name: "SSH to the master cut for a moment", only: loopback, step: "fence-master", on: run.StepBegin, within: true, do: then(ssh(lab.Cut, master), ssh(lab.Restore, master)), test: true},
		{name: "SSH to the master cut for good", only: loopback, step: "fence-master", on: run.StepBegin, do: ssh(lab.Cut, master), mend: ssh(lab.Restore, master), end: verified},
		{name: "SSH to the master stalled", step: "fence-master", on: run.StepBegin, do: ssh(lab.Stall, master), mend: ssh(lab.Restore, master), says: "no sign of life", end: verified},
		{name: "SSH to the master stalled for 30 s", step: "fence-master", on: run.StepDone, do: then(ssh(lab.Stall, master), later(30, ssh(lab.Restore, master)))},
		{name: "SSH to all hosts cut for a moment", only: loopback, step: "start-peers", on: run.StepBegin, within: true, do: then(ssh(lab.Cut, master, slave, empty), ssh(lab.Restore, master, slave, empty))},
		{name: "SSH to all hosts cut for good", only: loopback, step: "start-peers", on: run.StepDone, do: ssh(lab.Cut, master, slave, empty), mend: ssh(lab.Restore, master, slave, empty), end: verified},
		{name: "SSH to the master cut for a moment", only: loopback, step: "stop-master", on: run.StepBegin, within: true, do: then(ssh(lab.Cut, master), ssh(lab.Restore, master)), end: verified},
		{name: "SSH to the master stalled", step: "stop-master", on: run.StepBegin, within: true, do: ssh(lab.Stall, master), mend: ssh(lab.Restore, master), end: verified},
		{name: "SSH to the slave cut for good", only: loopback, step: "retire-master", on: run.StepBegin, do: ssh(lab.Cut, slave), mend: ssh(lab.Restore, slave), end: verified},
		{name: "SSH to the slave cut for a moment", only: loopback, step: "open-writes", on: run.StepBegin, within: true, do: then(ssh(lab.Cut, slave), ssh(lab.Restore, slave))},
		{name: "SSH to the master cut for good", only: loopback, step: "join-old-master", on: run.StepBegin, within: true, do: ssh(lab.Cut, master), mend: ssh(lab.Restore, master), end: verified},
		{name: "SSH to the master stalled", step: "join-old-master", on: run.StepBegin, do: ssh(lab.Stall, master), mend: ssh(lab.Restore, master), end: verified},
	}
}

// links are the cables of hosts, with brokers and Raft on them.
func links() []row {
	return []row{
		{name: "the new host's cable pulled, inside the copy,", step: "copy-log-live", only: network, on: run.StepBegin, when: copying, do: link(netlab.Link{Cut: true}, empty), mend: link(netlab.Link{}, empty), end: verified},
		{name: "the new host's cable pulled and mqlift killed, inside the copy,", step: "copy-log-live", only: network, on: run.StepBegin, when: copying, do: then(link(netlab.Link{Cut: true}, empty), sigkill), mend: link(netlab.Link{}, empty), end: verified},
		{name: "the master's cable pulled", step: "fence-master", only: network, on: run.StepDone, do: link(netlab.Link{Cut: true}, master), mend: link(netlab.Link{}, master), end: verified},
		{name: "the slave's cable pulled for 20 s", step: "join-old-master", only: network, on: run.StepBegin, do: then(link(netlab.Link{Cut: true}, slave), later(20, link(netlab.Link{}, slave))), end: verified},
		{name: "all links limited to 4 MB/s", only: network, before: link(netlab.Link{Rate: 4 << 20}, master, slave, empty), end: verified},
		// 4.5.2 handles sends one after another, and each to a leader waits for a round trip to a follower.
		{name: "all links late by 20 ms each way", only: network, rate: 4, before: link(netlab.Link{Delay: 20 * time.Millisecond}, master, slave, empty), end: verified},
		{name: "mqlift gets SIGKILL inside a copy over 4 MB/s,", step: "copy-log-live", only: network, before: link(netlab.Link{Rate: 4 << 20}, empty), on: run.StepBegin, when: copying, do: sigkill, end: verified},
	}
}

// hosts are hosts that die, with everything on them, and come back with SSH and name server only.
func hosts() []row {
	var l []row
	for _, at := range []struct {
		host  role
		what  string
		steps []string
	}{
		{master, "the master's host", []string{"copy-log-live", "align-logs", "certify-logs", "start-peers", "stop-master", "join-old-master"}},
		{slave, "the slave's host", []string{"copy-log-live", "certify-logs", "start-peers", "carry-offsets", "join-old-master"}},
		{empty, "the new host", []string{"align-logs", "start-peers", "decide", "open-writes", "join-old-master"}},
	} {
		for _, step := range at.steps {
			on := run.StepBegin
			if step == "decide" {
				on = run.StepDone
			}
			mend := hostReturns(at.host)
			if step == "copy-log-live" {
				mend = hostServes(at.host)
			}
			l = append(l, row{name: at.what + " killed and back", step: step, on: on, within: on == run.StepBegin, do: hostDies(at.host), mend: mend,
				end: verified, test: at.host == empty && step == "open-writes"})
		}
	}
	return l
}

// disks fill up, or are where a folder is thought to be.
func disks() []row {
	return []row{
		{name: "commit logs on disks of their own, mounted there", only: loopback, root: true, before: ownDisks(slave, empty), end: verified},
		{name: "the new host's disk fills up, inside the copy,", step: "copy-log-live", root: true, before: smallDisk(empty), on: run.StepBegin, when: copying, do: fillDisk(empty), mend: freeDisk(empty), says: `(host-c|192\.168\.0\.222).*no space left on device`, end: back, test: true},
		{name: "the new host's disk fills up", step: "carry-stores", root: true, before: smallDisk(empty), on: run.StepBegin, do: fillDisk(empty), mend: freeDisk(empty), says: `(host-c|192\.168\.0\.222).*no space left on device`, end: back},
	}
}

// bytesFlipped are bytes that change on a disk.
func bytesFlipped() []row {
	return []row{
		{name: "a byte flipped in the file that is being received,", step: "copy-log-live", on: run.StepBegin, when: copying, do: flip(incomingFile(empty), 1<<20)},
		{name: "a byte flipped in the new host's log after it was copied,", step: "copy-log-live", on: run.StepDone, do: flip(logFile(empty), 1<<20), test: true},
		{name: "a byte flipped in the slave's log", step: "stop-slaves", on: run.StepDone, do: flip(logFile(slave), 2<<20)},
		{name: "a byte flipped in the new host's log after it was compared,", step: "carry-stores", on: run.StepDone, do: flip(logFile(empty), 3<<20), says: "was changed at", end: back},
		{name: "a byte flipped in the tail after it was copied,", step: "copy-tail", on: run.StepDone, do: flipTail(empty), end: back},
		{name: "a byte flipped in a carried consume queue", step: "carry-stores", on: run.StepDone, do: flip(queueFile(empty), 20*3+6), says: "was changed at", end: back},
		{name: "the slave's log differs from the master's", step: "", before: diverge, end: verified},
	}
}

// nameServersLost are name servers that are gone or hang.
func nameServersLost() []row {
	return []row{
		{name: "a name server killed", step: "start-peers", on: run.StepBegin, do: nameServer(sigKILL, master), end: verified},
		{name: "a name server frozen", step: "fence-master", on: run.StepBegin, do: nameServer(sigSTOP, master), mend: nameServer(sigCONT, master), end: verified},
		{name: "a name server frozen", step: "decide", on: run.StepDone, do: nameServer(sigSTOP, slave), mend: nameServer(sigCONT, slave), end: verified},
		{name: "both name servers killed, back after the undoing,", step: "start-peers", on: run.StepDone, do: then(nameServer(sigKILL, master), nameServer(sigKILL, slave)), mend: nameServersReturn},
		{name: "both name servers killed, back after 20 s,", step: "open-writes", on: run.StepBegin, do: then(nameServer(sigKILL, master), nameServer(sigKILL, slave), later(20, nameServersReturn)), end: verified},
	}
}

// elections are leaders that are killed.
func elections() []row {
	return []row{
		{name: "the new leader killed after", step: "prove-peers", on: run.StepDone, do: leaderDies},
		{name: "the new leader killed in", step: "stop-master", on: run.StepBegin, within: true, do: leaderDies, end: verified},
		{name: "the new leader killed after", step: "carry-offsets", on: run.StepDone, do: leaderDies},
		{name: "the new leader killed after", step: "open-writes", on: run.StepDone, do: leaderDies, end: verified},
		{name: "the new leader killed in", step: "join-old-master", on: run.StepBegin, within: true, do: leaderDies, end: verified},
	}
}

// brokers are those that do not stop or do not start.
func brokers() []row {
	return []row{
		{name: "the slave hangs and does not stop", step: "stop-slaves", on: run.StepBegin, do: broker(sigSTOP, slave), mend: broker(sigCONT, slave), says: "still runs after"},
		{name: "the master hangs and does not stop", step: "stop-master", on: run.StepBegin, do: broker(sigSTOP, master), mend: broker(sigCONT, master), says: "still runs after", end: verified},
		{name: "the old master dies", step: "prove-peers", on: run.StepDone, do: broker(sigKILL, master), end: verified},
		{name: "the old master dies", step: "open-writes", on: run.StepDone, do: broker(sigKILL, master), end: verified},
		{name: "the new host's Raft port is taken", only: loopback, step: "certify-logs", on: run.StepDone, do: takePort(empty, raft), says: "Address already in use|BindException", end: back, test: true},
		{name: "the new host's broker port is taken", only: loopback, step: "certify-logs", on: run.StepDone, do: takePort(empty, listen), says: "Address already in use|BindException", end: back},
		{name: "a JVM option that Java does not know", step: "certify-logs", on: run.StepDone, do: javaOption(empty, "-XX:+NoSuchOption"), says: "Unrecognized VM option", end: back},
		{name: "more memory asked for than there is", step: "certify-logs", on: run.StepDone, do: javaOption(empty, "-Xms64t -Xmx64t"), says: "(?i)memory|heap", end: back},
		{name: "the master's Raft port is taken", only: loopback, step: "open-writes", on: run.StepDone, do: takePort(master, raft), mend: freePort(master), says: "Address already in use|BindException", end: verified},
	}
}

// inTest are the rows that are part of `make test`.
func inTest(all []row) []row {
	return slices.DeleteFunc(slices.Clone(all), func(r row) bool { return !r.test })
}
