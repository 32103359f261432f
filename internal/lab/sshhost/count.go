package sshhost

import "sync"

// Count counts connections as sshd does, those that are being logged in to (which its MaxStartups is about) apart
// from the others. Its zero value is ready.
type Count struct {
	mu             sync.Mutex
	now, most, all Connections
}

// Connections are numbers of connections.
type Connections struct {
	Starting int // accepted and not logged in yet
	Open     int // logged in
}

// Most is how many there were at most at one time, of each kind for itself.
func (c *Count) Most() Connections {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.most
}

// Now is how many there are.
func (c *Count) Now() Connections {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// LoggedIn is how many have been logged in to, those that have ended as well.
func (c *Count) LoggedIn() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all.Open
}

// counted is one connection in a count.
type counted struct {
	in *Count // nil: nobody counts
	is *int   // what it is counted as; nil when it has ended
}

func (c *Count) accepted() *counted {
	n := &counted{in: c}
	n.become(func(of *Connections) *int { return &of.Starting })
	return n
}

func (n *counted) loggedIn() { n.become(func(of *Connections) *int { return &of.Open }) }

func (n *counted) become(kind func(*Connections) *int) {
	c := n.in
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.is != nil {
		*n.is--
	}
	n.is = kind(&c.now)
	*n.is++
	*kind(&c.all)++
	most := kind(&c.most)
	*most = max(*most, *n.is)
}

func (n *counted) ended() {
	if n.in == nil {
		return
	}
	n.in.mu.Lock()
	defer n.in.mu.Unlock()
	if n.is != nil {
		*n.is--
	}
	n.is = nil
}
