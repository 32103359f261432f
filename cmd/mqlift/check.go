package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mqlift/internal/diag"
	"mqlift/internal/plan"
	"mqlift/internal/view"
)

func newCheckCommand() *cobra.Command {
	t := target{Playbook: "dledger"}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look at every host, broker and name server, and say what stands in the way of an upgrade",
		Long: `check looks at everything that an upgrade depends on, on every host of all broker groups in the topology,
or of the one named with --group, and says for each thing whether it is as it must be: pass, warn or fail,
with what to do. It changes nothing.

Exit code 3 when something failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runCheck(cmd.Context(), t, cmd.OutOrStdout()) },
	}
	t.addFlags(cmd)
	t.ofAllGroups(cmd)
	return cmd
}

func runCheck(ctx context.Context, t target, out io.Writer) error {
	d, err := t.read()
	if err != nil {
		return shownFindings(out, t, err)
	}
	groups, err := t.groups(d)
	if err != nil {
		return err
	}
	var failed failures
	all, several := d.topology.Warnings(), len(groups) > 1
	rows := [][]string{{"group", "hosts", "passed", "to read", "failed"}}
	if several && !t.JSON && len(all) > 0 {
		view.Heading(out, terminal(out), "topology")
		view.Findings(out, terminal(out), all)
	}
	for g := range lookAt(ctx, d, groups, (*session).check) {
		found := g.value
		var refused *diag.Error
		if errors.As(g.err, &refused) { // it was not looked at further
			found, g.err = refused.Findings, nil
		}
		all = append(all, found...)
		failed.add(g.group, g.err)
		if !several || t.JSON {
			continue
		}
		row := []string{g.group.Name, fmt.Sprint(len(g.group.Members)), "not known", "", ""}
		if g.err == nil {
			view.Heading(out, terminal(out), "broker group "+g.group.Name)
			view.Findings(out, terminal(out), found)
			row = append(row[:2], fmt.Sprint(found.Count(diag.Pass)), fmt.Sprint(found.Count(diag.Warn)), fmt.Sprint(found.Count(diag.Fail)))
		}
		rows = append(rows, row)
	}
	switch {
	case ctx.Err() != nil: // half of it is not shown
	case !several && len(failed) > 0:
	case several && !t.JSON:
		fmt.Fprintln(out)
		view.Table(out, terminal(out), rows)
		fmt.Fprintf(out, "%s: %d passed, %d to read, %d failed\n", counted(len(groups), "group"), all.Count(diag.Pass), all.Count(diag.Warn), all.Count(diag.Fail))
	default:
		if err := printFindings(out, t, all); err != nil {
			return err
		}
	}
	if err := failed.err(ctx); err != nil {
		return err
	}
	if err := all.Err(); err != nil {
		return &shownError{exitRefused, err}
	}
	return nil
}

// check looks at one group.
func (s *session) check(ctx context.Context) (diag.Findings, error) {
	facts, err := s.observeForPlan(ctx)
	if err != nil {
		return nil, err
	}
	found := plan.Preflight(s.topology, s.group, facts)
	if found.Err() == nil { // what only a plan works out, such as the disk that it needs
		var more *diag.Error
		if _, err := s.plan(facts); errors.As(err, &more) {
			found = append(found, more.Findings...)
		} else if err != nil {
			return nil, err
		}
	}
	of(s.group, found)
	return found, nil
}

func printFindings(out io.Writer, t target, found diag.Findings) error {
	if t.JSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(found)
	}
	view.Findings(out, terminal(out), found)
	return nil
}

// shownFindings prints an error that is a list of findings as such a list.
func shownFindings(out io.Writer, t target, err error) error {
	var found *diag.Error
	if !errors.As(err, &found) {
		return err
	}
	if perr := printFindings(out, t, found.Findings); perr != nil {
		return errors.Join(err, perr)
	}
	return &shownError{exitCode(err, false), err}
}
