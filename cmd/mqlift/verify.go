package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"mqlift/internal/event"
	"mqlift/internal/grouplock"
	"mqlift/internal/plan"
	"mqlift/internal/probe"
	"mqlift/internal/step"
	"mqlift/internal/view"
)

func newVerifyCommand() *cobra.Command {
	var t target
	var keys []string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove a DLedger group: one leader, a quorum, old keys on every node, new sends",
		Long: `verify asks every peer for its leader on its Raft port, compares with every name server, looks old
keys up on every node by its own address, and sends new messages (to the tracer topic only), which must
be found on every node as well. It works on any DLedger group, at any later time.

Old keys are those given with --keys; without any, messages are picked from the leader's commit log of
before the upgrade.

Exit code 6 when something is not proven.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runVerify(cmd.Context(), t, keys, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	t.addFlags(cmd)
	cmd.Flags().StringArrayVar(&keys, "keys", nil, "old messages that must be found on every node, as `TOPIC:KEY` or TOPIC:FIRST..LAST; repeatable")
	return cmd
}

// onGroup runs f with an environment for the group as it is.
func (t *target) onGroup(ctx context.Context, keySpecs []string, emit event.Sink, errOut io.Writer, f func(context.Context, *step.Env) error) (err error) {
	keys, err := keysOf(keySpecs)
	if err != nil {
		return err
	}
	s, err := t.open(ctx)
	if err != nil {
		return shownFindings(errOut, *t, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	facts, err := s.observe(ctx)
	if err != nil {
		return err
	}
	p, err := s.running(facts)
	if err != nil {
		return err
	}
	for _, m := range p.Members {
		if m.Kind != plan.DLedger {
			err := fmt.Errorf("%s: no DLedger peer answers at %s: it is not running, or the group is still master and slave; see `mqlift status`", m.Host, m.Addr())
			return &shownError{exitUnproven, errors.Join(err, printErr(errOut, "mqlift: %v\n", err))}
		}
	}
	operator, from := whoAmI()
	env, err := s.env(p, &step.State{Run: newRun(), Started: time.Now()}, emit, step.Options{Keys: keys, Credentials: s.credentials, Operator: operator, From: from})
	if err != nil {
		return err
	}
	if err := f(ctx, env); err != nil {
		var locked *grouplock.Error
		if ctx.Err() != nil || errors.As(err, &locked) {
			return err
		}
		return &shownError{exitUnproven, errors.Join(err, printErr(errOut, "mqlift: not proven: %v\n", err))}
	}
	return nil
}

func printErr(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, format, args...)
	return err
}

// verifyReport is what verify says with --json.
type verifyReport struct {
	Group  string             `json:"group"`
	Leader string             `json:"leader"`
	Keys   int                `json:"oldKeys"`
	Sent   []probe.MessageKey `json:"newKeys"`
	Nodes  int                `json:"nodes"`
}

func runVerify(ctx context.Context, t target, keys []string, out, errOut io.Writer) error {
	emit := t.sink(out, errOut)
	return t.onGroup(ctx, keys, emit, errOut, func(ctx context.Context, e *step.Env) error {
		old, err := e.Verify(ctx)
		if err != nil {
			return err
		}
		if t.JSON {
			return json.NewEncoder(out).Encode(verifyReport{e.Plan.Group, e.State.Leader, old, e.State.Tracers, len(e.Nodes)})
		}
		fmt.Fprintf(out, "%s is proven: %s leads, all %d peers agree; %d old and %d new keys found on every node\n", e.Plan.Group, e.State.Leader, len(e.Nodes), old, len(e.State.Tracers))
		return nil
	})
}

// sink shows events on out, or on errOut when out is for JSON.
func (t *target) sink(out, errOut io.Writer) event.Sink {
	if t.JSON {
		return lines(errOut).Event
	}
	return lines(out).Event
}

func newFailoverCommand(stopping *interrupts) *cobra.Command {
	var t target
	var keys []string
	var yes bool
	var ledger string
	cmd := &cobra.Command{
		Use:   "failover",
		Short: "Kill the leader while messages are sent, and look every acknowledged one up afterwards",
		Long: `failover sends messages to the tracer topic, as an application does (rocketmq-client-go) and, beside,
with a fresh route for each; kills the leader's process with SIGKILL; measures how long the cluster, and
how long the application, was without sends; starts the killed broker again, waits until it follows; and
looks every acknowledged message up on every node. Meanwhile it holds the group's lock. On Ctrl-C a
leader that was killed already is started again first.

Exit codes: 3 not confirmed · 6 a message is missing or the group does not recover · 8 a run holds the group.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				if err := ask(cmd.Context(), bufio.NewReader(cmd.InOrStdin()), cmd.OutOrStdout(), "This kills the leader's process; sends fail until the next one is elected (6 to 10 s). Type yes: "); err != nil {
					return err
				}
			}
			defer stopping.during(func() {
				fmt.Fprintln(cmd.ErrOrStderr(), "stopping: when the leader is killed already it is started again first; Ctrl-C once more ends at once")
			}, func() string {
				return "ended at once: the killed leader may be down, see `mqlift status`, and the lock is left behind"
			})()
			return runFailover(cmd.Context(), t, keys, ledger, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	t.addFlags(cmd)
	cmd.Flags().StringArrayVar(&keys, "keys", nil, "old messages that must be found throughout, as `TOPIC:KEY` or TOPIC:FIRST..LAST; repeatable")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().StringVar(&ledger, "ledger", "", "keep what was sent and acknowledged in this `file`")
	return cmd
}

func runFailover(ctx context.Context, t target, keys []string, ledger string, out, errOut io.Writer) error {
	emit := t.sink(out, errOut)
	var sent *probe.Sent
	if ledger != "" {
		var err error
		if sent, err = probe.OpenSent(ledger); err != nil {
			return &usageError{err}
		}
		defer sent.Close()
	}
	return t.onGroup(ctx, keys, emit, errOut, func(ctx context.Context, e *step.Env) (err error) {
		unlock, err := e.Lock(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		r, err := e.Failover(ctx, sent)
		if r == nil {
			return err
		}
		if t.JSON {
			return errors.Join(err, json.NewEncoder(out).Encode(r))
		}
		view.Table(out, terminal(out), [][]string{
			{"what", "outage"},
			{"writes, fresh route each time (the cluster's own)", view.Duration(r.WriteOutage())},
			{"reads, fresh route each time (the cluster's own)", view.Duration(r.ReadOutage())},
			{"writes, as an application saw it (rocketmq-client-go)", view.Duration(r.ClientOutage())},
		})
		rows := [][]string{{"node", "acknowledged", "found", "missing", "stored twice"}}
		for _, n := range r.Nodes {
			rows = append(rows, []string{n.Addr, fmt.Sprint(r.Acknowledged), fmt.Sprint(n.Found), fmt.Sprint(len(n.Missing) + n.Unanswered), fmt.Sprint(len(n.Duplicates))})
		}
		view.Table(out, terminal(out), rows)
		return err
	})
}
