package main

import (
	"context"
	"encoding/json"
	"errors"
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
		Long: `check looks at everything that an upgrade depends on, on every host, and says for each thing whether
it is as it must be: pass, warn or fail, with what to do. It changes nothing.

Exit code 3 when something failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runCheck(cmd.Context(), t, cmd.OutOrStdout()) },
	}
	t.addFlags(cmd)
	return cmd
}

func runCheck(ctx context.Context, t target, out io.Writer) (err error) {
	s, err := t.open(ctx)
	if err != nil {
		return shownFindings(out, t, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	facts, err := s.observeForPlan(ctx)
	if err != nil {
		return err
	}
	found := append(s.topology.Warnings(), plan.Preflight(s.topology, s.group, facts)...)
	if found.Err() == nil { // what only a plan works out, such as the disk that it needs
		var more *diag.Error
		if _, err := s.plan(facts); errors.As(err, &more) {
			found = append(found, more.Findings...)
		} else if err != nil {
			return err
		}
	}
	if err := printFindings(out, t, found); err != nil {
		return err
	}
	if err := found.Err(); err != nil {
		return &shownError{exitRefused, err}
	}
	return nil
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
