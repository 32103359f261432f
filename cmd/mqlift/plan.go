package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

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
release. It changes nothing. With -o the plan is saved, to be reviewed and given to apply.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runPlan(cmd.Context(), t, output, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	t.addFlags(cmd)
	t.addPlaybookFlag(cmd)
	t.addTransferFlag(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "", "save the plan to this `file` as JSON")
	return cmd
}

func newDiffCommand() *cobra.Command {
	t := target{Playbook: "dledger"}
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Show the diff of each host's broker.conf, and nothing else",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := t.makePlan(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			for _, m := range p.Members {
				fmt.Fprintf(cmd.OutOrStdout(), "# %s\n%s\n", m.Host, m.Diff)
			}
			return nil
		},
	}
	t.addFlags(cmd)
	return cmd
}

// makePlan connects, observes and plans; what stands in the way is printed to errOut.
func (t *target) makePlan(ctx context.Context, errOut io.Writer) (_ *plan.Plan, err error) {
	s, err := t.open(ctx)
	if err != nil {
		return nil, shownFindings(errOut, *t, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	facts, err := s.observeForPlan(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.plan(facts)
	if err != nil {
		return nil, shownFindings(errOut, *t, err)
	}
	return p, nil
}

func runPlan(ctx context.Context, t target, output string, out, errOut io.Writer) error {
	p, err := t.makePlan(ctx, errOut)
	if err != nil {
		return err
	}
	if output != "" {
		if err := savePlan(output, p); err != nil {
			return err
		}
	}
	if t.JSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(p)
	}
	view.Plan(out, terminal(out), p)
	if output != "" {
		fmt.Fprintf(out, "\nsaved as %s; carry it out with\n  mqlift apply -t %s %s\n", output, t.Topology, output)
	} else {
		fmt.Fprintf(out, "\nnothing was changed; save a plan for review with -o FILE, or carry this out with `mqlift apply -t %s`\n", t.Topology)
	}
	return nil
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
