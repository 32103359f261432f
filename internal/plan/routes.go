package plan

import (
	"fmt"

	"mqlift/internal/link"
	"mqlift/internal/observe"
)

// Transfer is how data is asked to go from host to host.
type Transfer string

const (
	// Auto is directly and encrypted where the hosts reach one another, and otherwise through the machine
	// that mqlift runs on.
	Auto Transfer = "auto"
	// Plain is the same with direct data unencrypted, each record authenticated.
	Plain Transfer = "plain"
	// Bastion is always through the machine that mqlift runs on.
	Bastion Transfer = "bastion"
)

// Transfers are all of them.
func Transfers() []Transfer { return []Transfer{Auto, Plain, Bastion} }

// Mode is what becomes of direct data.
func (t Transfer) Mode() link.Mode {
	if t == Plain {
		return link.Plain
	}
	return link.Encrypted
}

// Route is how data goes from one host to another, all the way through a run.
type Route struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Direct bool   `json:"direct"` // to the Raft port; otherwise through the machine that mqlift runs on
	Why    string `json:"why,omitempty"`
}

// Route finds how data goes between two hosts.
func (p *Plan) Route(from, to string) (Route, bool) {
	for _, r := range p.Routes {
		if r.From == from && r.To == to {
			return r, true
		}
	}
	return Route{}, false
}

// Way says it in words.
func (p *Plan) Way(from, to string) string {
	r, _ := p.Route(from, to)
	switch {
	case !r.Direct:
		return "through this machine"
	case p.Transfer == Plain:
		return "directly, authenticated and unencrypted"
	}
	return "directly, encrypted"
}

// routes decides for all pairs that data is to go between: from the master to all others, and from the
// slaves to the new hosts.
func (p *Plan) routes(f *observe.Facts) {
	tried := map[[2]string]error{}
	for _, r := range f.Reached {
		tried[[2]string{r.From, r.To}] = r.Err
	}
	add := func(from, to *Member) {
		r := Route{From: from.Host, To: to.Host}
		switch err, ok := tried[[2]string{from.Host, to.Host}]; {
		case p.Transfer == Bastion:
			r.Why = "as asked for"
		case !ok:
			r.Why = "it was not tried whether the hosts reach one another"
		case err != nil:
			r.Why = fmt.Sprintf("%s does not reach %s: %v", from.Host, to.RaftAddr(), err)
		default:
			r.Direct = true
		}
		p.Routes = append(p.Routes, r)
	}
	for _, to := range p.First() {
		for _, from := range p.Of(Master) {
			add(from, to)
		}
		for _, from := range p.Of(Slave) {
			if to.Kind == Fresh {
				add(from, to)
			}
		}
	}
}
