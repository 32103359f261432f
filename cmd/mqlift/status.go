package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mqlift/internal/dledger"
	"mqlift/internal/grouplock"
	"mqlift/internal/observe"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/run"
	"mqlift/internal/step"
	"mqlift/internal/view"
	"mqlift/playbooks"
	"mqlift/templates"
)

func newStatusCommand() *cobra.Command {
	var t target
	var stateDir string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what the group is now: roles, leader, logs, routes, an unfinished run, what going back costs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runStatus(cmd.Context(), t, stateDir, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	t.addFlags(cmd)
	cmd.Flags().StringVar(&stateDir, "state-dir", defaultStateDir(), "where journals are kept on this machine")
	return cmd
}

// memberStatus is one host's line.
type memberStatus struct {
	Host   string    `json:"host"`
	Role   plan.Kind `json:"role"`
	PID    int       `json:"pid,omitempty"`
	Addr   string    `json:"addr,omitempty"`
	Peer   string    `json:"peer"`
	Leader string    `json:"leaderItNames,omitempty"`
	LogEnd int64     `json:"logEnd"`
	Error  string    `json:"error,omitempty"`
}

// routeStatus is what one name server gives.
type routeStatus struct {
	NameServer string           `json:"nameServer"`
	Brokers    map[int64]string `json:"brokers,omitempty"`
	Error      string           `json:"error,omitempty"`
}

type groupStatus struct {
	Group      string         `json:"group"`
	Release    string         `json:"release"`
	State      plan.State     `json:"state"`
	Recognised string         `json:"recognised"` // the state in one sentence, with its evidence
	Members    []memberStatus `json:"members"`
	Routes     []routeStatus  `json:"routes"`
	Unfinished string         `json:"unfinishedRun,omitempty"`
	Left       []string       `json:"temporary,omitempty"` // of the unfinished run
	Unread     string         `json:"unread,omitempty"`    // what of the runs kept here or on the hosts cannot be read
	Lock       string         `json:"lock,omitempty"`      // who holds the group
	GoingBack  string         `json:"goingBack"`
}

func runStatus(ctx context.Context, t target, stateDir string, out, errOut io.Writer) (err error) {
	s, err := t.open(ctx)
	if err != nil {
		return wayBackWithout(errOut, stateDir, false, shownFindings(errOut, t, err))
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	facts, err := s.observe(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(stateDir, "runs", s.group.Name)
	alive, herr := run.Alive(dir)
	cut, uerr := run.Unfinished(dir)
	st := s.status(ctx, facts, cut)
	if uerr != nil {
		st.GoingBack = unpriced
	}
	// What cannot be read of a run keeps nobody from seeing how the group is.
	unread := errors.Join(herr, uerr, s.price(ctx, st, cut, facts.Lock()))
	st.run(cut, alive, facts.Lock())
	if unread != nil {
		st.Unread = unread.Error()
	}
	if t.JSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(st)
	} else {
		st.print(out)
	}
	if err != nil || unread == nil {
		return err
	}
	return &shownError{exitFailed, unread}
}

// unpriced is what going back costs when the run cannot be read.
const unpriced = "cannot be priced before the run can be read"

func (s *session) status(ctx context.Context, facts *observe.Facts, cut *run.Cut) *groupStatus {
	is := plan.Recognise(s.group, facts)
	st := &groupStatus{Group: s.group.Name, Release: facts.Release, State: is.State, Recognised: is.Line}
	dled := 0
	for i := range facts.Members {
		m := &facts.Members[i]
		line := memberStatus{Host: m.Declared.Host, Role: is.Kinds[m.Declared.Host], Addr: m.Addr, Peer: m.Declared.Peer, LogEnd: m.LogMax()}
		if m.Process != nil {
			line.PID = m.Process.PID
		}
		switch line.Role {
		case plan.DLedger:
			dled++
			meta, err := dledger.Ask(ctx, s.client, s.group.Name, dledger.Peer{ID: m.Declared.Peer, Addr: m.Declared.RaftAddr(), Name: m.Declared.Host})
			line.Leader = meta.LeaderID
			if err != nil {
				line.Error = err.Error()
			}
		case "":
			line.Role = "not running"
			if m.RuntimeErr != nil {
				line.Error = m.RuntimeErr.Error()
			}
		}
		st.Members = append(st.Members, line)
	}
	for _, ns := range facts.NameServers {
		r := routeStatus{NameServer: ns.Addr, Brokers: ns.Cluster.Brokers[s.group.Name].Addrs}
		if ns.Err != nil {
			r.Error = ns.Err.Error()
		}
		st.Routes = append(st.Routes, r)
	}
	opened := cut != nil && cut.State.Opening()
	switch {
	case opened || dled == len(facts.Members):
		st.GoingBack = "costs every message written since writes were opened on the DLedger group"
	case cut != nil:
		st.GoingBack = "is free: writes have not been opened on new peers; `mqlift apply` undoes the cut run first"
	case st.State == plan.Mixed:
		st.GoingBack = "costs what was written to the new group, if anything: see above and `mqlift check`"
	case st.State != plan.OldMode && st.State != plan.Begun:
		st.GoingBack = "cannot be priced as the group is: `mqlift check` says what to do first"
	default:
		st.GoingBack = "is not needed: the group is master and slave"
	}
	return st
}

// price puts a number on going back once writes have been opened: by the journal's state, or by what the
// run keeps on the hosts.
func (s *session) price(ctx context.Context, st *groupStatus, cut *run.Cut, lock *grouplock.Held) error {
	var p *plan.Plan
	var state *step.State
	if cut != nil {
		var err error
		if p, err = loadPlan(filepath.Join(cut.Dir, "plan.json")); err != nil {
			st.GoingBack = unpriced
			return err
		}
		state = cut.State
	} else if st.State == plan.Upgraded || st.State == plan.Impaired || lock != nil {
		r, err := s.record(ctx)
		if err != nil {
			st.GoingBack = unpriced
		}
		if err != nil || r == nil {
			return err
		}
		p, state = r.Plan, r.State
	}
	switch {
	case cut == nil && state != nil && lock != nil && lock.Run == state.Run && !state.Opening():
		st.GoingBack = "is free: writes have not been opened on new peers"
	case state == nil || !state.Opening():
	case state.Replay != nil:
		st.GoingBack = underWay(state.Replay)
	default:
		st.GoingBack = s.cost(ctx, p, state)
	}
	return nil
}

// underWay says how far a way back has got, and whether it can be given up.
func underWay(r *step.Replay) string {
	s := "is under way: `mqlift rollback --replay` goes on with it"
	if r.StoppingAt.IsZero() {
		return s + "; Ctrl-C in it gives it up for free and lets the new group serve on, until that is stopped"
	}
	sent := 0
	for _, q := range r.Queues {
		sent += q.Sent
	}
	return fmt.Sprintf("%s; %d messages are kept on this machine, %d of them sent again, and the new group is stopped for good", s, r.Taken, sent)
}

// run says what runs there are: one that this machine knows, cut short or alive, and who holds the lock.
func (st *groupStatus) run(cut *run.Cut, alive *run.Holder, lock *grouplock.Held) {
	if lock != nil {
		st.Lock = lock.Holder() + "\n→ " + lock.Do()
	}
	switch {
	case alive != nil && cut != nil:
		st.Unfinished = fmt.Sprintf("%s goes on, at %s: %s is at work on it", cut.State.Run, cut.At, alive)
		st.GoingBack = strings.Replace(st.GoingBack, "`mqlift apply` undoes the cut run first", "Ctrl-C where it runs undoes it", 1)
	case alive != nil:
		st.Unfinished = fmt.Sprintf("%s is about to begin a run, or has just ended one", alive)
	case cut != nil:
		st.Unfinished = fmt.Sprintf("%s was cut short at %s; `mqlift apply` goes on with it, `mqlift rollback` goes back", cut.State.Run, cut.At)
		if cut.State.Replay != nil {
			st.Unfinished = fmt.Sprintf("%s was cut short on its way back, at %s; `mqlift rollback --replay` goes on with it", cut.State.Run, cut.At)
		}
		if p, err := loadPlan(filepath.Join(cut.Dir, "plan.json")); err == nil {
			st.Left = cut.Left(p)
		}
	}
}

func (st *groupStatus) print(out io.Writer) {
	c := terminal(out)
	fmt.Fprintf(out, "%s, RocketMQ %s: %s\n", st.Group, st.Release, st.Recognised)
	rows := [][]string{{"host", "role", "pid", "broker", "peer", "names as leader", "log end", ""}}
	for _, m := range st.Members {
		end, pid := "", ""
		if m.LogEnd >= 0 {
			end = fmt.Sprint(m.LogEnd)
		}
		if m.PID > 0 {
			pid = fmt.Sprint(m.PID)
		}
		rows = append(rows, []string{m.Host, string(m.Role), pid, m.Addr, m.Peer, m.Leader, end, m.Error})
	}
	view.Table(out, c, rows)
	for _, r := range st.Routes {
		if r.Error != "" {
			fmt.Fprintf(out, "name server %s: %s\n", r.NameServer, r.Error)
			continue
		}
		var ids []string
		for _, id := range slices.Sorted(maps.Keys(r.Brokers)) {
			ids = append(ids, fmt.Sprintf("%d at %s", id, r.Brokers[id]))
		}
		fmt.Fprintf(out, "name server %s gives brokerId %s\n", r.NameServer, strings.Join(ids, ", "))
	}
	for _, text := range []string{st.Lock, st.Unfinished} {
		if text != "" {
			fmt.Fprintln(out, text)
		}
	}
	for _, text := range st.Left {
		fmt.Fprintln(out, "  "+text)
	}
	if st.Unread != "" {
		fmt.Fprintln(out, st.Unread)
	}
	fmt.Fprintf(out, "Going back %s.\n", st.GoingBack)
}

func newPlaybookCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "playbook", Short: "Show or check orders of work", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(&cobra.Command{
		Use: "show [NAME]", Short: "Print a built-in playbook", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "dledger"
			if len(args) == 1 {
				name = args[0]
			}
			data, err := playbooks.FS.ReadFile(name + ".yaml")
			if err != nil {
				return &usageError{fmt.Errorf("no playbook %q is built in; built in are: %s", name, strings.Join(playbook.BuiltIn(), ", "))}
			}
			_, err = cmd.OutOrStdout().Write(data)
			return err
		},
	}, &cobra.Command{
		Use: "check FILE", Short: "Say whether a playbook keeps to what its steps require", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := playbook.Load(args[0], step.Requirements())
			if err != nil {
				return (&target{}).input(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d stages, every step has what it needs before it\n", p.Name, len(p.Stages))
			return nil
		},
	})
	return cmd
}

func newInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Print a commented topology to start from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(templates.Topology())
			return err
		},
	}
}
