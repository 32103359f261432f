package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"mqlift/internal/bridge"
)

// errAlone is the end of a bridge that nobody attends to.
var errAlone = errors.New("the bridge ended by itself")

// Bridge forwards connections from this host's addresses until ctx ends: bridge.Run, on the host. That it ended
// then is no error, and says that its ports are free; the state returned is the last one.
//
// What is sent to retarget, which may be nil, are other targets, one for each of Listen. They go to the bridge as
// further lines of its input, as the signs of life do: so they need no name by which another request would find the
// bridge, nothing that lies on the host for it, and reach no bridge but this one. A target has changed when the
// state says so. Nobody receives from retarget any more once Bridge has returned.
//
// tell, which may be nil, is told the state every second, when a port is taken, and when the targets change.
//
// The bridge does not outlive whoever asked for it: it ends with its input, which the connection takes with it;
// with the agent's folder; and when nothing has come in for 20 s. Where it is not known that it has ended, an error
// is returned, also when ctx has: a broker that is started then may find its ports taken.
func (a *Agent) Bridge(ctx context.Context, r bridge.Request, retarget <-chan []string, tell func(bridge.State)) (bridge.State, error) {
	const verb = "bridge"
	if ctx.Err() != nil {
		return bridge.State{}, nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return bridge.State{}, fmt.Errorf("%s: %s: %w", a.Host(), verb, err)
	}
	g := newGuest(append(line, '\n'))
	g.answer.onBridge = tell
	// It is not ended by force together with the context: its input ends, and it gets time to say that its ports
	// are free.
	held, drop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer drop(nil)
	defer context.AfterFunc(ctx, func() {
		g.dismiss()
		time.AfterFunc(tidyWait, func() { drop(errBridgeStuck) })
	})()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case targets, more := <-retarget:
				if !more {
					return
				}
				line, _ := json.Marshal(targets)
				g.w.Write(append(line, '\n')) // that it cannot be told means that it ends
			case <-ended:
				return
			}
		}
	}()
	return visit[bridge.State](held, a, verb, g)
}

var errBridgeStuck = fmt.Errorf("the bridge did not say that it has ended; it ends by itself within %s", unheard)

func runBridge(ctx context.Context, r bridge.Request, s *session) (bridge.State, error) {
	retarget := make(chan []string)
	ctx = attend(ctx, s, errAlone, func(ctx context.Context, targets []string) error {
		select {
		case retarget <- targets:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	last, err := bridge.Run(ctx, r, retarget, func(state bridge.State) { s.write(document{Bridge: &state}) })
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, errDismissed) {
		err = cause
	}
	return last, err
}
