package e2e

import (
	"os"
	"testing"

	"mqlift/e2e/refcase"
)

// The reference case keeps all its promises: 200 messages a second go on while the group is moved, no
// old key and no acknowledged message is lost, be it by RocketMQ's own client, no look-up fails, and a failover
// is survived.
func TestReferenceCase(t *testing.T) {
	dir, err := os.MkdirTemp("", "r")
	must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	o := refcase.Options{Binary: os.Getenv(binaryVariable), Dir: dir, Release: "4.5.2", Java: true, Out: t.Output()}
	on, err := refcase.Loopback(t.Context(), o)
	must(t, err)
	c, err := refcase.Up(t.Context(), on, o)
	must(t, err)
	t.Cleanup(func() {
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	})
	r, err := c.Upgrade(t.Context())
	must(t, err)
	r.Print(t.Output())
	must(t, r.Err())
}
