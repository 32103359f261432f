package view

import (
	"fmt"
	"io"
	"strings"

	"mqlift/internal/plan"
)

// Plan prints a plan for its reviewer.
func Plan(w io.Writer, color bool, p *plan.Plan) {
	v := &Lines{W: w, Color: color}
	head := func(s string) { fmt.Fprintf(w, "\n%s\n", v.paint(bold, s)) }

	fmt.Fprintf(w, "%s\n", v.paint(bold, fmt.Sprintf("Plan %s: broker group %s, RocketMQ %s, to DLedger", p.Fingerprint, p.Group, p.Release)))
	rows := [][]string{{"host", "now", "peer", "brokerId as follower", "broker", "raft"}}
	for _, m := range p.Members {
		rows = append(rows, []string{m.Host, string(m.Kind), m.Peer, fmt.Sprint(m.BrokerID), m.Addr(), m.RaftAddr()})
	}
	Table(w, color, rows)

	head("Steps")
	for _, s := range p.Stages {
		if s.PointOfNoReturn {
			fmt.Fprintf(w, "%s\n", v.paint(red, "── point of no return: until here going back is free: the old master takes sends again, at once while it runs;"))
			fmt.Fprintf(w, "%s\n", v.paint(red, "── from here on it costs every message written since"))
		}
		fmt.Fprintf(w, "%s  %s\n", v.paint(bold, s.Name), v.paint(dim, "clients: "+s.Clients))
		for _, st := range s.Steps {
			fmt.Fprintf(w, "  %-20s %s\n", st.Name, st.Title)
			for _, a := range st.Actions {
				host := ""
				if a.Host != "" {
					host = a.Host + ": "
				}
				fmt.Fprintf(w, "    %s %s%s\n", v.paint(dim, "→"), host, a.Text)
			}
			if st.Undo != "" {
				fmt.Fprintf(w, "    %s\n", v.paint(dim, "undone by: "+st.Undo))
			}
		}
	}

	head("Configuration")
	for _, m := range p.Members {
		fmt.Fprintf(w, "%s\n", v.paint(bold, m.Host+" "+m.ConfPath))
		for _, line := range strings.Split(strings.TrimRight(m.Diff, "\n"), "\n") {
			switch {
			case strings.HasPrefix(line, "+"):
				line = v.paint(green, line)
			case strings.HasPrefix(line, "-"):
				line = v.paint(red, line)
			}
			fmt.Fprintf(w, "  %s\n", line)
		}
		for _, why := range m.Reasons {
			fmt.Fprintf(w, "  %s\n", v.paint(dim, "· "+why))
		}
	}

	head("Copies")
	rows = [][]string{{"what", "from", "to", "data"}}
	for _, c := range p.Copies {
		rows = append(rows, []string{c.What, c.From, c.To, Bytes(c.Bytes)})
	}
	Table(w, color, rows)

	for _, r := range p.Routes {
		at, why := "", ""
		if r.Direct {
			at = " (" + p.Member(r.To).RaftAddr() + ")"
		}
		if r.Why != "" {
			why = ": " + r.Why
		}
		fmt.Fprintf(w, "from %s to %s%s: %s%s\n", r.From, r.To, at, p.Way(r.From, r.To), why)
	}

	head("Disk")
	rows = [][]string{{"host", "for", "needs", "free"}}
	for _, d := range p.Disk {
		rows = append(rows, []string{d.Host, d.Path, Bytes(d.Need), Bytes(d.Free)})
	}
	Table(w, color, rows)

	low, high := p.Outage.Sum()
	head(fmt.Sprintf("Expected: writes unavailable for %s to %s, reads not at all", Duration(low), Duration(high)))
	rows = [][]string{{"stage", "share", "from", "to"}}
	for _, part := range p.Outage.Parts {
		rows = append(rows, []string{part.Stage, part.What, Duration(part.Low), Duration(part.High)})
	}
	Table(w, color, rows)
	fmt.Fprintln(w, "Producers with an old route notice until their next poll of it (30 s) as well.")

	if len(p.Risks) > 0 {
		head("Risks")
		for _, r := range p.Risks {
			fmt.Fprintf(w, "  %s %s\n", v.paint(yellow, "!"), r)
		}
	}
}
