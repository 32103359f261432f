package netlab_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"mqlift/e2e/netlab"
	"mqlift/e2e/refcase"
)

// binary is the mqlift to test: the one that MQLIFT_BINARY names, or one built now.
func binary(t *testing.T) string {
	t.Helper()
	if name := os.Getenv("MQLIFT_BINARY"); name != "" {
		name, err := filepath.Abs(name)
		must(t, err)
		return name
	}
	name := filepath.Join(t.TempDir(), "mqlift")
	build := exec.Command("go", "build", "-o", name, "mqlift/cmd/mqlift")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // it runs on the hosts, too
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building mqlift: %v\n%s", err, out)
	}
	return name
}

// The reference case on its own addresses, paths and ports, over real SSH: every promise holds that holds
// on loopback.
func TestReferenceCase(t *testing.T) {
	inside(t)
	o := refcase.Options{Binary: binary(t), Dir: t.TempDir(), Out: t.Output()}
	l, err := netlab.Up(t.Context(), netlab.Options{}, func(s string) { t.Log(s) })
	must(t, err)
	on := refcase.Ground{Topology: l.Topology(), NameServers: l.NameServers(), Down: func(context.Context) error { return l.Down() }}
	for _, h := range l.Hosts() {
		on.Hosts = append(on.Hosts, refcase.Host{Name: h.Name, Broker: h.BrokerAddr(), Logs: h.Logs()})
	}
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
