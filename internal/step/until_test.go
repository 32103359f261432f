package step

import (
	"context"
	"errors"
	"testing"
	"time"

	"mqlift/internal/event"
	"mqlift/internal/lab/sshhost/sshhosttest"
	"mqlift/internal/remote"
)

// What is waited for through a connection that is lost never comes; sends may be refused meanwhile.
func TestAWaitEndsWithItsConnection(t *testing.T) {
	server, host, _ := sshhosttest.Dial(t, "host-a")
	e := &Env{Nodes: []*Node{{Remote: host}}, Emit: func(event.Event) {}}
	asked := 0
	err := e.until(t.Context(), time.Hour, "the host to say no", func(ctx context.Context) error {
		if asked++; asked == 3 {
			server.Cut()
		}
		if _, err := host.Run(ctx, remote.Cmd{Argv: []string{"true"}}); err != nil {
			return err
		}
		return errors.New("not yet")
	})
	var lost *remote.TransientError
	if !errors.As(err, &lost) {
		t.Errorf("got %v", err)
	}
}
