package sshhost

import (
	"net"
	"sync"
)

// Cut drops every connection and refuses new ones until Restore, as a host that went down and
// whose address still answers.
func (h *Host) Cut() { h.drop() }

// Stall stops moving bytes in both directions until Restore: connections stay open and nothing
// comes, as behind a firewall that forgot them. New connections are accepted and stay silent.
func (h *Host) Stall() { h.gate.shut() }

// Restore ends Cut and Stall. What was stalled goes on, what was cut stays lost.
func (h *Host) Restore() error {
	h.gate.open()
	return h.listen()
}

// gate holds callers of wait while it is shut. Its zero value is open.
type gate struct {
	mu   sync.Mutex
	held chan struct{} // nil: open
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held == nil {
		g.held = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != nil {
		close(g.held)
		g.held = nil
	}
}

// wait returns when the gate is open, and at once when done is closed.
func (g *gate) wait(done <-chan struct{}) {
	g.mu.Lock()
	held := g.held
	g.mu.Unlock()
	if held == nil {
		return
	}
	select {
	case <-held:
	case <-done:
	}
}

// gatedConn passes bytes only while its gate is open.
type gatedConn struct {
	net.Conn
	gate *gate
	once sync.Once
	done chan struct{} // closed by Close
}

func (c *gatedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.gate.wait(c.done) // after it: a Read that waited for bytes may get them during a stall
	return n, err
}

func (c *gatedConn) Write(p []byte) (int, error) {
	c.gate.wait(c.done)
	return c.Conn.Write(p)
}

func (c *gatedConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Conn.Close()
}
