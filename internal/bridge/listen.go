package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mqlift/internal/hostinfo"
)

// listen takes an address as soon as it is free; nil when ctx has ended before. Nothing is taken away from another
// program: that would need SO_REUSEPORT, on both sides.
func (b *bridge) listen(ctx context.Context, address string) (*net.TCPListener, error) {
	began := time.Now()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		l, err := net.Listen("tcp", address) // with SO_REUSEADDR
		if err == nil {
			return l.(*net.TCPListener), nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
		if waited := time.Since(began); waited >= b.request.Wait {
			return nil, fmt.Errorf("after %s the bridge still cannot listen on %s, which is taken by %s: %w",
				waited.Round(time.Millisecond), address, holders(address), err)
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-tick.C:
		}
	}
}

// holders names who listens on the address's port.
func holders(address string) string {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return "nobody"
	}
	port, err := net.LookupPort("tcp", text)
	if err != nil {
		return "nobody"
	}
	list, err := hostinfo.Listeners(port)
	if err != nil {
		return "somebody unknown (" + err.Error() + ")"
	}
	var names []string
	for _, l := range list {
		name := "a process of user " + strconv.Itoa(l.UID) + " that this one may not see"
		if l.PID != 0 {
			name = "pid " + strconv.Itoa(l.PID)
			if p, err := hostinfo.ReadProcess(l.PID); err == nil && len(p.Argv) > 0 {
				name += " (" + filepath.Base(p.Argv[0]) + " of " + p.User + ")"
			}
		}
		names = append(names, name+" on "+l.Address.String())
	}
	if names == nil { // an outgoing connection may have it as its own end
		return "no listener"
	}
	return strings.Join(names, ", ")
}
