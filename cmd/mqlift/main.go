// Command mqlift moves a running RocketMQ master/slave broker group to DLedger, and proves it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"mqlift/internal/agent"
	"mqlift/internal/diag"
	"mqlift/internal/grouplock"
	"mqlift/internal/plan"
	"mqlift/internal/run"
	"mqlift/internal/step"
)

// Exit codes. They are documented in the README and do not change.
const (
	exitOK       = 0   // done, and checked
	exitFailed   = 1   // failed in another way than below
	exitUsage    = 2   // the command line, a file or the topology is wrong; nothing was touched
	exitRefused  = 3   // preflight, a host that cannot be reached, or a plan not confirmed; nothing was changed
	exitUndone   = 4   // apply failed, all was undone: the old group serves
	exitPast     = 5   // apply failed after writes were opened, or not all could be undone: look at it now
	exitUnproven = 6   // verify or failover: a promise did not hold; store: copies differ, or one is damaged
	exitStale    = 7   // the cluster has moved away from the saved plan
	exitLocked   = 8   // another run holds the group
	exitStopped  = 130 // Ctrl-C; what was done is undone, or, on the second one, named
)

func main() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// Main runs mqlift and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var stopping interrupts
	if len(args) == 0 || args[0] != "agent" { // what runs on a host cleans up first, whoever calls how often
		defer stopping.watch(stop, stderr)()
	}
	cmd := newRootCommand(&stopping)
	cmd.SetArgs(args)
	cmd.SetIn(stdin)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	begun := false
	cmd.PersistentPreRun = func(*cobra.Command, []string) { begun = true }
	err := cmd.ExecuteContext(ctx)
	if err != nil && !begun { // an unknown command or flag, or too many or few arguments
		err = &usageError{err}
	}
	if err == nil {
		return exitOK
	}
	var shown *shownError
	if !errors.As(err, &shown) {
		fmt.Fprintf(stderr, "mqlift: %v\n", err)
	}
	return exitCode(err, ctx.Err() != nil)
}

// shownError is an error whose text has been printed already; code is the exit code.
type shownError struct {
	code int
	err  error
}

func (e *shownError) Error() string { return e.err.Error() }
func (e *shownError) Unwrap() error { return e.err }

// usageError is a wrong command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() + "\nsee `mqlift --help`" }
func (e *usageError) Unwrap() error { return e.err }

func exitCode(err error, stopped bool) int {
	var (
		shown    *shownError
		usage    *usageError
		failed   *run.Failure
		stale    *plan.StaleError
		locked   *grouplock.Error
		busy     *run.BusyError
		lost     *step.LostLockError
		declined *declinedError
		found    *diag.Error
		refused  *refusedError
	)
	switch {
	case errors.As(err, &shown):
		return shown.code
	case errors.As(err, &lost):
		return exitLocked
	case errors.As(err, &failed) && (failed.Past || failed.UndoErr != nil):
		return exitPast
	case stopped || errors.Is(err, context.Canceled):
		return exitStopped
	case errors.As(err, &locked), errors.As(err, &busy):
		return exitLocked
	case errors.As(err, &stale):
		return exitStale
	case errors.As(err, &failed):
		return exitUndone
	case errors.As(err, &declined):
		return exitRefused
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &refused):
		return exitRefused
	case errors.As(err, &found):
		for _, f := range found.Findings {
			if isInput(f.Check) {
				return exitUsage
			}
		}
		return exitRefused
	}
	return exitFailed
}

// isInput tells findings about what the operator wrote from findings about the hosts.
func isInput(check string) bool {
	for _, prefix := range []string{"topology", "playbook"} {
		if len(check) >= len(prefix) && check[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

func newRootCommand(stopping *interrupts) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mqlift",
		Short: "Move a RocketMQ master/slave broker group to DLedger, and prove that nothing was lost",
		Long: `mqlift moves a running RocketMQ master/slave broker group to DLedger (Raft, automatic
failover) over SSH, from a bastion, and proves that nothing was lost.

The usual order: check, plan, apply, verify, failover. Nothing but apply, rollback and failover changes
anything on the hosts; check, plan, verify, status and store put a helper program into the host's
temporary folder and take it away again.

Exit codes: 0 done and checked · 1 failed · 2 wrong command line or file · 3 refused, nothing changed ·
4 failed and undone · 5 failed after writes were opened, or not all undone · 6 not proven, or stores differ ·
7 plan is stale · 8 group is locked · 130 stopped by Ctrl-C`,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(
		newInitCommand(), newCheckCommand(), newPlanCommand(), newDiffCommand(), newApplyCommand(stopping), newRollbackCommand(stopping), newVerifyCommand(), newFailoverCommand(stopping),
		newStatusCommand(), newStoreCommand(), newPlaybookCommand(), newLabCommand(), agent.Command(),
	)
	return cmd
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}
