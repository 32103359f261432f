package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mqlift/internal/lab"
)

// newLabCommand is `mqlift lab`: a real broker group on this machine to try everything on.
func newLabCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run a real RocketMQ group on this machine to try an upgrade on",
		Long: `Run real RocketMQ on this machine: two name servers, an ASYNC_MASTER on host-a, a
SLAVE on host-b, and an empty host-c. Each host is an SSH server on 127.0.0.1 with a
home directory of its own, so that every other command does what it does in production.

It needs JDK 17 or newer, and Maven for the first time with each release. RocketMQ
listens on all interfaces of the machine, on ports that ` + "`mqlift lab status`" + ` shows.`,
		Args: cobra.NoArgs,
	}
	cmd.PersistentFlags().StringVar(&dir, "dir", "", "directory of the lab (default: mqlift/lab in the user's state directory)")
	where := func() (string, error) {
		if dir != "" {
			return dir, nil
		}
		return lab.DefaultDir()
	}
	cmd.AddCommand(
		newLabUpCommand(&dir), newLabStatusCommand(where), newLabDownCommand(where),
		newLabFaultCommand(where), newLabInstallCommand(where),
		newLabServeCommand(&dir), newLabKeepCommand(),
	)
	return cmd
}

// labFlags adds the flags that say which lab to start.
func labFlags(cmd *cobra.Command, o *lab.Options) {
	size := bytesFlag(lab.DefaultLogFileSize)
	cmd.Flags().StringVar(&o.Release, "release", lab.DefaultRelease, "RocketMQ release, such as 4.9.7 or 5.3.3")
	cmd.Flags().Var(&size, "log-file-size", "size of a commit log file (mappedFileSizeCommitLog)")
	cmd.Flags().IntVar(&o.BasePort, "base-port", 0, "first of 20 ports in a row (default: some that are free)")
	cmd.Flags().StringVar(&o.Cache, "cache", "", "directory that keeps the releases (default: mqlift in the user's cache directory)")
	cmd.PreRun = func(*cobra.Command, []string) { o.LogFileSize = int64(size) }
}

func newLabUpCommand(dir *string) *cobra.Command {
	var o lab.Options
	var foreground bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a lab and write the topology of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Dir = *dir
			out, say := cmd.OutOrStdout(), sayTo(cmd.ErrOrStderr())
			if foreground {
				return lab.Serve(cmd.Context(), o, say, func(s lab.Status) error {
					printLab(out, s)
					say("Ctrl-C ends the lab")
					return nil
				})
			}
			s, err := lab.Start(cmd.Context(), o, say)
			if err != nil {
				return err
			}
			printLab(out, s)
			printNext(out, s, *dir)
			return nil
		},
	}
	labFlags(cmd, &o)
	cmd.Flags().BoolVar(&foreground, "foreground", false, "stay, and end the lab with Ctrl-C")
	return cmd
}

func newLabStatusCommand(where func() (string, error)) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the hosts of the lab and what runs on them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := where()
			if err != nil {
				return err
			}
			s, err := lab.Query(cmd.Context(), dir)
			if err != nil {
				return noLab(err)
			}
			if asJSON {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(s)
			}
			printLab(cmd.OutOrStdout(), s)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func newLabDownCommand(where func() (string, error)) *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End the lab and remove its files",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := where()
			if err != nil {
				return err
			}
			if err := lab.Down(cmd.Context(), dir, keep, sayTo(cmd.ErrOrStderr())); err != nil {
				return err
			}
			if keep {
				fmt.Fprintf(cmd.OutOrStdout(), "no lab is running; its files are in %s\n", dir)
			} else {
				fmt.Fprintln(cmd.OutOrStdout(), "no lab is running")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&keep, "keep-files", false, "keep the hosts' files")
	return cmd
}

func newLabFaultCommand(where func() (string, error)) *cobra.Command {
	return &cobra.Command{
		Use:       "fault host-a|host-b|host-c cut|stall|restore",
		Short:     "Make a host unreachable by SSH, or reachable again",
		Long:      "Make a host's SSH server drop and refuse connections (cut), or keep them without moving a\nbyte (stall), or be well again (restore). The host's processes are not touched.",
		Args:      cobra.ExactArgs(2),
		ValidArgs: []string{"host-a", "host-b", "host-c", string(lab.Cut), string(lab.Stall), string(lab.Restore)},
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := where()
			if err != nil {
				return err
			}
			return noLab(lab.InjectFault(cmd.Context(), dir, args[0], lab.Fault(args[1])))
		},
	}
}

func newLabInstallCommand(where func() (string, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "install host release",
		Short: "Unpack another RocketMQ release on a host, without starting it",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := where()
			if err != nil {
				return err
			}
			return noLab(lab.InstallRelease(cmd.Context(), dir, args[0], args[1], sayTo(cmd.ErrOrStderr())))
		},
	}
}

// newLabServeCommand is the lab's own process behind `lab up`.
func newLabServeCommand(dir *string) *cobra.Command {
	var o lab.Options
	cmd := &cobra.Command{
		Use:    "serve",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Dir = *dir
			cmd.SilenceErrors = true // told to `lab up` in the way it expects
			return lab.ServeBackground(cmd.Context(), o)
		},
	}
	labFlags(cmd, &o)
	return cmd
}

// newLabKeepCommand is the process that cleans up behind a lab that was killed.
func newLabKeepCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "keep id dir",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE:   func(_ *cobra.Command, args []string) error { return lab.Keep(args[0], args[1]) },
	}
}

func noLab(err error) error {
	if errors.Is(err, lab.ErrNone) {
		return fmt.Errorf("%w; start one with mqlift lab up", err)
	}
	return err
}

// sayTo writes progress lines with the time that has passed.
func sayTo(w io.Writer) func(string) {
	begun := time.Now()
	return func(line string) { fmt.Fprintf(w, "%5.1fs  %s\n", time.Since(begun).Seconds(), line) }
}

func printLab(w io.Writer, s lab.Status) {
	if !s.Running {
		fmt.Fprintf(w, "The lab in %s does not run: its process %d does not answer.\n\n", s.Dir, s.PID)
	}
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "HOST\tRUNS\tSSH\tBROKER\tRAFT\tINSTALLATION")
	for _, h := range s.Hosts {
		name := h.Name
		if h.Fault != "" {
			name += " (" + string(h.Fault) + ")"
		}
		var runs []string
		for _, p := range h.Processes {
			switch p.Kind {
			case "broker":
				runs = append(runs, fmt.Sprintf("%s (pid %d)", brokerAs(s, h), p.PID))
			case "name server":
				runs = append(runs, fmt.Sprintf("name server %s (pid %d)", h.NameServer, p.PID))
			}
		}
		if len(runs) == 0 {
			runs = []string{"nothing"}
		}
		for i, what := range runs {
			if i > 0 {
				fmt.Fprintf(table, "\t%s\t\t\t\t\n", what)
				continue
			}
			fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%s\n", name, what, h.SSHPort, h.ListenPort, h.RaftPort, h.InstallDir)
		}
	}
	table.Flush()
	fmt.Fprintln(w)
	for _, ns := range s.NameServers {
		if s.Running && !ns.Answers {
			fmt.Fprintf(w, "Name server %s does not answer.\n", ns.Address)
		}
	}
	fmt.Fprintf(w, "RocketMQ %s, topology %s\n", s.Release, s.Topology)
}

// brokerAs is a host's broker with the brokerId under which the name servers know it: 0 is the master
// or leader.
func brokerAs(s lab.Status, h lab.HostStatus) string {
	for _, ns := range s.NameServers {
		switch id, ok := ns.Brokers[h.BrokerAddr()]; {
		case ok && id == 0:
			return "broker 0, master"
		case ok:
			return fmt.Sprintf("broker %d", id)
		}
	}
	return "broker, not registered"
}

func printNext(w io.Writer, s lab.Status, dir string) {
	if dir != "" {
		dir = " --dir " + s.Dir
	}
	fmt.Fprintf(w, `
Next:
  mqlift plan -t %[1]s       what an upgrade would do
  mqlift apply -t %[1]s      do it
  mqlift lab status%[2]s     what runs
  mqlift lab down%[2]s       end it
`, s.Topology, dir)
}

// bytesFlag is a number of bytes, written like 64MiB.
type bytesFlag int64

func (b *bytesFlag) Type() string { return "size" }

func (b *bytesFlag) String() string {
	n := int64(*b)
	switch {
	case n > 0 && n%(1<<30) == 0:
		return fmt.Sprintf("%dGiB", n>>30)
	case n > 0 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	}
	return strconv.FormatInt(n, 10)
}

func (b *bytesFlag) Set(text string) error {
	unit := int64(1)
	digits := text
	for suffix, size := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if before, ok := strings.CutSuffix(text, suffix); ok {
			digits, unit = before, size
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return fmt.Errorf("write a number of bytes, such as 64MiB")
	}
	*b = bytesFlag(n * unit)
	return nil
}
