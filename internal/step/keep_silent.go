package step

import (
	"context"
	"sync"
	"time"

	"mqlift/internal/brokerconf"
)

// keepSilent keeps peers from writing by themselves until what it returns is called. A peer that is
// elected makes itself a SYNC_MASTER, and 1 s later it delivers the delayed messages that are due
// (ScheduleMessageService.FIRST_DELAY_TIME, 4.5.2 to 5.3.3). Before writes open that must not be: when
// everything is undone such messages are gone again, and a consumer that has read them goes on behind
// them, past as many messages of the old master. So its role is set back within that second. A peer
// that was faster is found by its ledger, which is not empty then (provePeers).
func (e *Env) keepSilent(ctx context.Context, peers []*Node) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, n := range peers {
		running.Go(func() {
			for look := time.NewTicker(50 * time.Millisecond); ; {
				select {
				case <-ctx.Done():
					look.Stop()
					return
				case <-look.C:
				}
				live, err := n.broker(e).Config(ctx)
				if err != nil || live[brokerconf.RoleKey] == "SLAVE" {
					continue // not there yet, or silent
				}
				if err := e.silence(ctx, n); err == nil {
					e.action(n.Host, "was elected; set to brokerRole=SLAVE, so that it writes nothing by itself until writes open")
				}
			}
		})
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// silence sees the change through also at the end of the step: the broker rewrites its broker.conf.
func (e *Env) silence(ctx context.Context, n *Node) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	// The permission is what the group had, because the routes tell it, and a client that read there that it may
	// not send would not do so for 30 s. As a SLAVE it takes nothing all the same.
	return e.updateConfig(ctx, n, map[string]string{brokerconf.RoleKey: "SLAVE", propPermission: e.State.Fence[propPermission]}, n.ClosedConf)
}
