package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"mqlift/internal/run"
)

// row is one fault: what is injected into an `mqlift apply`, and when.
type row struct {
	name string // what is injected
	step string // in which step

	// before is done before apply is called.
	before func(context.Context, *trial) error
	// on is the journal's record of the step at which the fault is injected; empty: at once.
	on run.RecordKind
	// within waits for a random part of what the step usually takes, or until its end where that comes first.
	within bool
	// when is a further condition that is waited for, as long as apply runs.
	when func(context.Context, *trial) error
	// do injects the fault.
	do func(context.Context, *trial) error
	// mend is what an operator does about it, before apply is called again. It is not called while the
	// first apply still runs.
	mend func(context.Context, *trial) error

	// rate is how many messages per second each producer sends at most; 0: as many as in other rows.
	rate int

	// with are further arguments of apply.
	with []string
	// replay tells that the operator goes back with `rollback --replay` instead of calling apply again.
	replay bool

	// says must be found in what the calls of apply print.
	says string
	// end is how the row must end; empty allows both good ones.
	end  ending
	test bool // part of `make test`
	root bool // needs root: it mounts
	// only names the one lab that has what it takes; empty: both.
	only place
}

// ending is the state that a row ends in.
type ending string

const (
	verified ending = "verified"     // a proven DLedger group
	back     ending = "cleanly back" // the old group, as it was
	red      ending = "RED"          // anything else
)

// result is what came of a row.
type result struct {
	Fault string `json:"fault"`
	Step  string `json:"step"`
	At    string `json:"at"` // the journal's last record when the fault was injected
	Said  string `json:"said"`
	Codes []int  `json:"exitCodes"` // of the calls of apply; -1 after a signal
	End   ending `json:"end"`
	count
	Problem string        `json:"problem,omitempty"` // why it is red
	Output  []string      `json:"output,omitempty"`  // all that apply said, when it is red
	Took    time.Duration `json:"tookNs"`
}

func (r *result) good() bool {
	return (r.End == verified || r.End == back) && r.Missing == 0 && r.Acknowledged > 0
}

// trial is a row on its way.
type trial struct {
	*ground
	row     row
	random  *rand.Rand
	traffic *traffic
	state   string // state directory of mqlift
	apply   *applying
	back    bool // rollback --replay has been called
	journal *journal
	keep    map[string]string // what the old group must be again
	taken   net.Listener      // holds a port
	cleanup []func()
}

// run runs one row. The error is one of the lab; what the product does wrong is in the result.
func (g *ground) run(ctx context.Context, r row, random *rand.Rand) (_ *result, err error) {
	began := time.Now()
	g.rows++
	t := &trial{ground: g, row: r, random: random, state: filepath.Join(g.dir, fmt.Sprintf("state-%d", g.rows))}
	if err := g.begin(ctx); err != nil {
		return nil, fmt.Errorf("preparing the lab: %w", err)
	}
	t.traffic = g.startTraffic(ctx, r.rate)
	defer func() {
		t.traffic.cancel()
		for i := len(t.cleanup) - 1; i >= 0; i-- {
			t.cleanup[i]()
		}
		os.RemoveAll(t.state)
	}()
	if err := t.traffic.steady(ctx); err != nil {
		return nil, fmt.Errorf("before the row: %w", err)
	}
	if err := g.slaveFollows(ctx); err != nil {
		return nil, fmt.Errorf("before the row: %w", err)
	}
	if t.keep, err = g.oldGroup(ctx); err != nil {
		return nil, err
	}
	res := &result{Fault: r.name, Step: r.step, End: red}
	if err := t.inject(ctx, res); err != nil {
		res.Problem = err.Error()
	} else if err := t.judge(ctx, res); err != nil {
		res.End, res.Problem = red, err.Error()
	}
	if t.apply != nil {
		t.apply.kill()
	}
	if res.End == red {
		res.Output = t.outputs()
	}
	res.Took = time.Since(began)
	return res, ctx.Err()
}

// inject starts apply, waits for the moment and injects the fault; it returns when apply has ended.
func (t *trial) inject(ctx context.Context, res *result) error {
	if t.row.before != nil {
		if err := t.row.before(ctx, t); err != nil {
			return fmt.Errorf("before apply: %w", err)
		}
	}
	if err := t.start(); err != nil {
		return err
	}
	if err := t.moment(ctx); err != nil {
		return err
	}
	if t.row.do != nil {
		if err := t.row.do(ctx, t); err != nil {
			return fmt.Errorf("injecting the fault: %w", err)
		}
	}
	res.At = t.journal.at()
	return t.ended(ctx, res)
}

// moment waits until the fault is due.
func (t *trial) moment(ctx context.Context) error {
	if t.row.on != "" {
		if err := t.await(ctx, t.row.on, t.row.step); err != nil {
			return err
		}
	}
	if t.row.within {
		if usual := t.took[t.row.step]; usual > 0 {
			due := time.After(time.Duration(t.random.Int64N(int64(usual))))
			for waiting := true; waiting && !t.journal.has(run.StepDone, t.row.step); {
				select {
				case <-t.apply.done:
					waiting = false
				case <-due:
					waiting = false
				case <-time.After(time.Millisecond):
				}
			}
		}
	}
	if t.row.when == nil {
		return nil
	}
	for {
		err := t.row.when(ctx, t)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.apply.done:
			return fmt.Errorf("apply ended before the fault was due: %w\n%s", err, t.apply.screen.String())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// await waits for a record of the journal.
func (t *trial) await(ctx context.Context, kind run.RecordKind, step string) error {
	for {
		if t.journal.has(kind, step) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.apply.done:
			if t.journal.has(kind, step) {
				return nil
			}
			return fmt.Errorf("apply ended without a record %q of %s:\n%s", kind, step, t.apply.screen.String())
		case <-time.After(time.Millisecond):
		}
	}
}

// judge looks at how the first apply ended, calls it again where an operator would, and holds the end
// against what it must be.
func (t *trial) judge(ctx context.Context, res *result) error {
	if t.row.mend != nil {
		if err := t.row.mend(ctx, t); err != nil {
			return fmt.Errorf("mending: %w", err)
		}
	}
	for again := 0; !t.through(res.Codes[len(res.Codes)-1]); again++ {
		if again == 2 {
			return fmt.Errorf("apply does not get through: exit codes %v", res.Codes)
		}
		if res.Codes[len(res.Codes)-1] == 3 { // refused: a name server that is back knows all brokers only after 30 s
			if err := t.registered(ctx, master, 0); err != nil {
				return err
			}
		}
		if err := t.start(); err != nil {
			return err
		}
		if err := t.ended(ctx, res); err != nil {
			return err
		}
	}
	res.Said = t.decisive(res.Codes)
	// The topology is right, so that no fault is the operator's; and every fault is one of a kind.
	if slices.ContainsFunc(res.Codes, func(code int) bool { return code == 1 || code == 2 }) {
		return fmt.Errorf("apply takes the fault for something else: exit codes %v", res.Codes)
	}
	if t.row.says != "" && t.saysLine() == "" {
		return fmt.Errorf("apply does not say %q", t.row.says)
	}
	end, hosts := verified, []role{master, slave, empty}
	if t.back || undone(res.Codes[len(res.Codes)-1]) {
		end, hosts = back, hosts[:2]
	}
	if t.row.end != "" && t.row.end != end {
		return fmt.Errorf("it ends %s and not %s", end, t.row.end)
	}
	if err := t.traffic.steady(ctx); err != nil {
		return err
	}
	if end == back {
		if err := t.isBack(ctx); err != nil {
			return err
		}
	}
	if err := t.traffic.stop(); err != nil {
		return fmt.Errorf("the traffic: %w", err)
	}
	var err error
	if res.count, err = t.count(ctx, t.traffic, hosts...); err != nil {
		return err
	}
	if end == verified {
		if out, code := t.call(ctx, "verify", "--keys", oldKeys); code != 0 {
			return fmt.Errorf("verify: exit code %d:\n%s", code, out)
		}
	}
	if err := t.unlocked(ctx); err != nil {
		return err
	}
	bugs, err := t.bugs()
	if err != nil {
		return err
	}
	if len(bugs) > 0 {
		return fmt.Errorf("%d lines with [BUG] in the brokers' logs, the first: %s", len(bugs), bugs[0])
	}
	if res.Missing > 0 {
		return fmt.Errorf("%d messages are missing, such as %s", res.Missing, res.First)
	}
	res.End = end
	return nil
}

// plain takes what says nothing out of a line: where the lab is, and repeated spaces.
func (t *trial) plain(line string) string {
	line = strings.TrimPrefix(t.cluster.plain(line), "mqlift: ")
	return strings.Join(strings.Fields(line), " ")
}

// through tells whether nothing is left to be called after a call that ended with a code.
func (t *trial) through(code int) bool {
	if t.row.replay {
		return t.back && code == 0
	}
	return code == 0 || undone(code)
}

// undone tells the exit codes of an apply that left the old group serving as before.
func undone(code int) bool { return code == 4 || code == 130 }

// saysLine is the line in which apply says what the row wants it to say.
func (t *trial) saysLine() string {
	says := regexp.MustCompile(t.row.says)
	for _, out := range t.outputs() {
		for line := range strings.Lines(out) {
			if says.MatchString(line) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}

// decisive is the line in which apply says what came of the fault.
func (t *trial) decisive(codes []int) string {
	if t.row.says != "" {
		if line := t.saysLine(); line != "" {
			return t.plain(line)
		}
	}
	for _, out := range t.outputs() {
		for line := range strings.Lines(out) {
			line = strings.TrimSpace(line)
			if t.back && strings.Contains(line, "were sent again, and all") {
				return t.plain(line)
			}
			if text, ok := strings.CutPrefix(line, "mqlift: "); ok {
				return t.plain(text)
			}
			if _, at, ok := strings.Cut(line, "was cut short at "); ok && !t.back {
				how := "undone, then applied"
				if strings.Contains(out, "going on from there") {
					how = "gone on with"
				}
				return fmt.Sprintf("cut short at %s: %s", at, how)
			}
		}
	}
	if len(codes) > 1 {
		return "nothing was begun: applied anew"
	}
	return "went through"
}
