package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"mqlift/internal/diag"
	"mqlift/internal/plan"
	"mqlift/internal/view"
)

func newPlanCommand() *cobra.Command {
	var t target
	var output string
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Say exactly what an apply would do: steps, configuration diffs, bytes, disk, outage, risks",
		Long: `plan works out every step of the upgrade and shows it, with the diff of each broker.conf, the bytes
that will be copied, the disk that they need, the write outage to expect, and the risks of this
release. It changes nothing. With -o the plan is saved, to be reviewed and given to apply.

Where the topology has several broker groups and none is named with --group, all are planned, with a line
for each; -o is a folder then, which gets GROUP.json of each, and --json prints one document after the other.
Exit code 3 when one of them is refused.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runPlan(cmd.Context(), t, output, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	t.addFlags(cmd)
	t.ofAllGroups(cmd)
	t.addPlaybookFlag(cmd)
	t.addTransferFlag(cmd)
	t.addRebuildFlag(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "", "save the plan to this `file` as JSON; of several groups, to this folder")
	return cmd
}

func newDiffCommand() *cobra.Command {
	t := target{Playbook: "dledger"}
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Show the diff of each host's broker.conf, and nothing else",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.plans(cmd.Context(), cmd.ErrOrStderr(), func(p *plan.Plan, several bool) error {
				of := ""
				if several {
					of = p.Group + " "
				}
				for _, m := range p.Members {
					fmt.Fprintf(cmd.OutOrStdout(), "# %s%s\n%s\n", of, m.Host, m.Diff)
				}
				return nil
			})
		},
	}
	t.addFlags(cmd)
	t.ofAllGroups(cmd)
	return cmd
}

// plans makes the plan of each group that is asked for and gives it to show; what stands in the way of one is
// printed to errOut.
func (t *target) plans(ctx context.Context, errOut io.Writer, show func(p *plan.Plan, several bool) error) error {
	d, err := t.read()
	if err != nil {
		return shownFindings(errOut, *t, err)
	}
	groups, err := t.groups(d)
	if err != nil {
		return err
	}
	var failed failures
	for g := range lookAt(ctx, d, groups, (*session).planNow) {
		switch {
		case g.err == nil:
			if err := show(g.value, len(groups) > 1); err != nil {
				return err
			}
		case len(groups) == 1:
			return shownFindings(errOut, *t, g.err)
		case ctx.Err() == nil:
			if found := (*diag.Error)(nil); !t.JSON && errors.As(g.err, &found) {
				view.Heading(errOut, terminal(errOut), "broker group "+g.group.Name)
			}
			failed.add(g.group, shownFindings(errOut, *t, g.err))
		}
	}
	return failed.err(ctx)
}

// planNow makes the plan of one group, by what is true now.
func (s *session) planNow(ctx context.Context) (*plan.Plan, error) {
	facts, err := s.observeForPlan(ctx)
	if err != nil {
		return nil, err
	}
	return s.plan(facts)
}

func runPlan(ctx context.Context, t target, output string, out, errOut io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	rows := [][]string{{"group", "plan", "release", "data to copy", "writes unavailable for", "to read"}}
	err := t.plans(ctx, errOut, func(p *plan.Plan, several bool) error {
		file := output
		if several && output != "" {
			if err := os.MkdirAll(output, 0o700); err != nil {
				return &usageError{fmt.Errorf("saving the plans: %w", err)}
			}
			file = filepath.Join(output, p.Group+".json")
		}
		if file != "" {
			if err := savePlan(file, p); err != nil {
				return err
			}
		}
		switch {
		case t.JSON:
			return enc.Encode(p)
		case several:
			var bytes int64
			for _, c := range p.Copies {
				bytes += c.Bytes
			}
			low, high := p.Outage.Sum()
			rows = append(rows, []string{p.Group, p.Fingerprint, p.Release, view.Bytes(bytes), view.Duration(low) + " to " + view.Duration(high), fmt.Sprint(len(p.Risks))})
			return nil
		}
		view.Plan(out, terminal(out), p)
		if file != "" {
			fmt.Fprintf(out, "\nsaved as %s; carry it out with\n  mqlift apply -t %s %[1]s\n", file, t.Topology)
		} else {
			fmt.Fprintf(out, "\nnothing was changed; save a plan for review with -o FILE, or carry this out with `mqlift apply -t %s`\n", t.Topology)
		}
		return nil
	})
	if len(rows) > 1 {
		view.Table(out, terminal(out), rows)
		if output != "" {
			fmt.Fprintf(out, "\nsaved in %s; look at one with `mqlift plan --group GROUP`, and carry it out with\n  mqlift apply -t %s %s\n", output, t.Topology, filepath.Join(output, "GROUP.json"))
		} else {
			fmt.Fprintf(out, "\nnothing was changed; save the plans for review with -o FOLDER, or look at one with --group GROUP\n")
		}
	}
	return err
}

func savePlan(path string, p *plan.Plan) error {
	data, err := plan.Encode(p)
	if err != nil {
		return err
	}
	// Configuration files may hold what is not for everybody.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Sync(), f.Close()) // a journal without its plan could not be taken up again
	}
	if err != nil {
		return &usageError{fmt.Errorf("saving the plan: %w", err)}
	}
	return nil
}

func loadPlan(path string) (*plan.Plan, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, &usageError{fmt.Errorf("reading the plan: %w", err)}
	}
	p, err := plan.Decode(path, data)
	if err != nil {
		return nil, &usageError{err}
	}
	return p, nil
}
