package refcase

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"mqlift/internal/probe"
)

// Result is what one run of the whole case came to.
type Result struct {
	WriteOutage       time.Duration // the cluster's own, during the upgrade
	ClientOutage      time.Duration // the application's, during the upgrade
	ReadOutage        time.Duration // during the upgrade
	Reads, ReadsBad   int           // look-ups with a fresh route during the upgrade
	Stages            []Stage       // of the upgrade, as apply reports them
	Consumed          Consumed      // from the beginning to the end
	ConsumeGap        time.Duration // longest time in which the application that consumes was given nothing, during the upgrade
	Java              *Java         // the application in Java; nil where none was wanted
	Failover          Failover
	Acknowledged      int
	Nodes             []Node
	Bugs              map[string][]string
	Rate              float64 // the application's messages per second before the upgrade
	ApplyWriteOutage  time.Duration
	UpgradeTook, Took time.Duration
}

// Java is what became of the application in Java.
type Java struct {
	Outage     time.Duration // of its sends, during the upgrade
	ConsumeGap time.Duration // longest time in which it was given nothing, during the upgrade
	Consumed   Consumed      // from the beginning to the end
}

// Stage is how long a stage of the upgrade took.
type Stage struct {
	Name string        `json:"name"`
	Took time.Duration `json:"tookNs"`
}

// Failover is what the forced failover measured.
type Failover struct {
	WriteMS  float64 `json:"write_outage_ms"`
	ReadMS   float64 `json:"read_outage_ms"`
	ClientMS float64 `json:"client_outage_ms"`
}

// Node is what one node holds in the end.
type Node struct {
	Host                string
	Old, Found, Missing int
	// Unindexed messages are among the found ones: they are stored, and not found by key.
	Unindexed  int
	Duplicates int
}

// Upgrade runs check, plan, apply, verify and failover under traffic and measures.
func (c *Case) Upgrade(ctx context.Context) (*Result, error) {
	began := time.Now()
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	r := &Result{Rate: c.Client.Summary().Rate}
	topology, planFile, report := c.Topology, filepath.Join(c.Dir, "plan.json"), filepath.Join(c.Dir, "apply.json")
	if err := c.Run(ctx, "check", "-t", topology); err != nil {
		return r, err
	}
	if err := c.Run(ctx, "plan", "-t", topology, "-o", planFile); err != nil {
		return r, err
	}
	from := time.Now()
	if err := c.Run(ctx, "apply", "-t", topology, "--state-dir", c.StateDir(), "--no-failover", "--keys", KeySpec, "--report", report, planFile); err != nil {
		return r, err
	}
	if err := c.Steady(ctx); err != nil {
		return r, err
	}
	to := time.Now()
	if err := r.upgrade(c, from, to, report); err != nil {
		return r, err
	}
	if err := c.Run(ctx, "verify", "-t", topology, "--keys", KeySpec); err != nil {
		return r, err
	}
	if err := r.failover(ctx, c); err != nil {
		return r, err
	}
	if err := c.Steady(ctx); err != nil {
		return r, err
	}
	if err := c.Stop(); err != nil {
		return r, err
	}
	err := r.count(ctx, c)
	r.Took = time.Since(began)
	return r, err
}

func (r *Result) upgrade(c *Case, from, to time.Time, report string) error {
	write, client, read := c.Write.Between(from, to), c.Client.Between(from, to), c.Read.Between(from, to)
	r.WriteOutage, r.ClientOutage, r.ReadOutage = write.Longest, client.Longest, read.Longest
	r.Reads, r.ReadsBad = read.OK+read.Failed, read.Failed
	for _, o := range read.Outages {
		c.say("a look-up failed during the upgrade, at %s: %s", o.From.Format(time.TimeOnly), o.FirstError)
	}
	r.ConsumeGap = c.Reader.Gap(from, to)
	if c.Java {
		r.Java = &Java{Outage: c.JavaClient.Between(from, to).Longest, ConsumeGap: c.JavaReader.Gap(from, to)}
	}
	r.UpgradeTook = to.Sub(from)
	data, err := os.ReadFile(report)
	if err != nil {
		return err
	}
	var said struct {
		WriteOutageMS int64 `json:"writeOutageMs"`
		State         struct {
			Stages []Stage `json:"stages"`
		} `json:"state"`
	}
	if err := json.Unmarshal(data, &said); err != nil {
		return fmt.Errorf("%s: %w", report, err)
	}
	r.Stages, r.ApplyWriteOutage = said.State.Stages, time.Duration(said.WriteOutageMS)*time.Millisecond
	return nil
}

func (r *Result) failover(ctx context.Context, c *Case) error {
	c.say("$ mqlift failover --yes -t %s --keys %s --json", c.Topology, KeySpec)
	out, err := c.output(ctx, "failover", "--yes", "-t", c.Topology, "--keys", KeySpec, "--json")
	if err != nil {
		return err
	}
	return json.Unmarshal(out, &r.Failover)
}

// count looks everything up on every node.
func (r *Result) count(ctx context.Context, c *Case) error {
	acked := c.Sent.Acked()
	r.Acknowledged = len(acked)
	c.say("looking %d acknowledged and %d old messages up on every node", len(acked), len(c.Old))
	r.Consumed = c.Reader.Await(ctx, time.Minute, slices.Concat(c.Old, acked))
	if r.Java != nil {
		r.Java.Consumed = c.JavaReader.Await(ctx, time.Minute, slices.Concat(c.Old, acked))
	}
	found, err := c.Find(ctx, acked)
	if err != nil {
		return err
	}
	old, err := c.Find(ctx, c.Old)
	if err != nil {
		return err
	}
	for i, h := range c.Hosts {
		n := Node{Host: h.Name, Old: len(old[i].Found), Found: len(found[i].Found) + len(found[i].Unindexed), Unindexed: len(found[i].Unindexed),
			Missing: len(found[i].Missing) + len(found[i].Unanswered) + len(old[i].Missing) + len(old[i].Unanswered), Duplicates: len(found[i].Copies)}
		if n.Missing > 0 {
			c.say("%s: missing, the first few: %v %v %s", h.Name, head(found[i].Missing), head(old[i].Missing), found[i].FirstError)
		}
		r.Nodes = append(r.Nodes, n)
	}
	r.Bugs, err = c.Bugs()
	return err
}

func head(keys []probe.MessageKey) []probe.MessageKey { return keys[:min(5, len(keys))] }

// Err says which promises did not hold; nil when all did.
func (r *Result) Err() error {
	var errs []error
	miss := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if r.Rate < 200 {
		miss("the application sent %.0f messages per second, not the 200 that the case wants", r.Rate)
	}
	if r.ReadsBad > 0 {
		miss("%d of %d look-ups with a fresh route failed during the upgrade", r.ReadsBad, r.Reads)
	}
	if r.Reads == 0 || r.Acknowledged == 0 || len(r.Nodes) != 3 {
		miss("nothing was measured")
	}
	for _, n := range r.Nodes {
		if n.Missing > 0 || n.Found != r.Acknowledged {
			miss("%s: %d messages missing", n.Host, n.Missing)
		}
		if n.Old != OldCount {
			miss("%s: %d of %d old messages found", n.Host, n.Old, OldCount)
		}
	}
	if unseen := r.Consumed.Unseen; len(unseen) > 0 {
		miss("%d of %d messages were not consumed, the first few: %v", len(unseen), r.Consumed.Wanted, head(unseen))
	}
	if r.Java != nil && len(r.Java.Consumed.Unseen) > 0 {
		unseen := r.Java.Consumed.Unseen
		miss("%d of %d messages were not consumed by the application in Java, the first few: %v", len(unseen), r.Java.Consumed.Wanted, head(unseen))
	}
	for host, lines := range r.Bugs {
		miss("%s: %d lines with [BUG] in the broker's log, the first: %s", host, len(lines), lines[0])
	}
	return errors.Join(errs...)
}

// Print shows the result as a table.
func (r *Result) Print(w io.Writer) {
	round := func(d time.Duration) string { return d.Round(10 * time.Millisecond).String() }
	ms := func(n float64) string { return round(time.Duration(n * float64(time.Millisecond))) }
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\n\twrites (fresh route)\twrites (application)\treads (fresh route)\n")
	fmt.Fprintf(t, "outage in the upgrade\t%s\t%s\t%s\n", round(r.WriteOutage), round(r.ClientOutage), round(r.ReadOutage))
	fmt.Fprintf(t, "outage in the failover\t%s\t%s\t%s\n", ms(r.Failover.WriteMS), ms(r.Failover.ClientMS), ms(r.Failover.ReadMS))
	fmt.Fprintf(t, "\n\told keys found\tacknowledged\tfound\tmissing\tnot by key\tstored twice\n")
	for _, n := range r.Nodes {
		fmt.Fprintf(t, "%s\t%d of %d\t%d\t%d\t%d\t%d\t%d\n", n.Host, n.Old, OldCount, r.Acknowledged, n.Found, n.Missing, n.Unindexed, n.Duplicates)
	}
	t.Flush()
	var stages []string
	for _, s := range r.Stages {
		stages = append(stages, fmt.Sprintf("%s %s", s.Name, round(s.Took)))
	}
	fmt.Fprintf(w, "\nupgrade, stage by stage: %s\n", strings.Join(stages, ", "))
	fmt.Fprintf(w, "look-ups of old keys with a fresh route during the upgrade: %d, failed: %d\n", r.Reads, r.ReadsBad)
	fmt.Fprintf(w, "consumer group: %s\nlongest time in which it was given nothing during the upgrade: %s\n", r.Consumed, round(r.ConsumeGap))
	if j := r.Java; j != nil {
		fmt.Fprintf(w, "application in Java: %s without sends and %s without being given a message during the upgrade; %s\n", round(j.Outage), round(j.ConsumeGap), j.Consumed)
	}
	fmt.Fprintf(w, "application: %.0f messages/s before the upgrade; lines with [BUG] in the brokers' logs: %d\n", r.Rate, len(r.Bugs))
	fmt.Fprintf(w, "upgrade %s, everything after the lab was up %s\n", round(r.UpgradeTook), round(r.Took))
}
