package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"mqlift/internal/agent"
	"mqlift/internal/diag"
	"mqlift/internal/event"
	"mqlift/internal/store"
	"mqlift/internal/view"
)

type storeOptions struct {
	target
	FileSize int64
	Root     string
	LogOnly  bool
}

func (o *storeOptions) flags(cmd *cobra.Command) {
	o.addFlags(cmd)
	cmd.Flags().Int64Var(&o.FileSize, "file-size", 0, "mappedFileSizeCommitLog in `bytes`, for stores on this machine (default: the length that most files have)")
	cmd.Flags().BoolVar(&o.LogOnly, "log-only", false, "leave consume queues, index and config/*.json out")
}

func newStoreCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "store", Short: "Look into broker stores and compare copies, on the hosts or on this machine", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newStoreInspectCommand(), newStoreCompareCommand())
	return cmd
}

func newStoreInspectCommand() *cobra.Command {
	var o storeOptions
	cmd := &cobra.Command{
		Use:   "inspect [DIR]",
		Short: "Walk a commit log to its end, and check consume queues, index and config against it",
		Long: `inspect walks the commit log of every host in the topology the way a starting broker does: first offset,
valid end, files, messages, a digest of the valid bytes; and compares every entry of the consume queues and
of the index with it. It changes nothing, and works beside a running broker as well as on a stopped one.

With DIR, a store (or a commit log folder) on this machine is looked at instead; no topology, no broker.

Exit code 6 when something is damaged.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runStore(cmd.Context(), o, args, false, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&o.Root, "root", "", "storePathRootDir, with consumequeue, index and config, where that is not the `folder` that DIR is in")
	return cmd
}

func newStoreCompareCommand() *cobra.Command {
	var o storeOptions
	cmd := &cobra.Command{
		Use:   "compare [DIR DIR…]",
		Short: "Compare copies of a store byte by byte, and name the first byte that differs",
		Long: `compare walks and hashes the commit logs of all hosts in the topology side by side and says whether they
agree: same files, same first offset, same end, same valid bytes. Where they do not, it names the first byte
that differs, the message it lies in, what each copy has there, and which copy is ahead. Bytes after a log's
end do not count. Consume queues and index are compared with their own log, config/*.json by meaning.

Logs that are being written (their abort file is there) are compared up to the smallest common end, unless
a stopped copy reaches further.
It changes nothing. With DIR DIR…, stores on this machine are compared; no topology, no broker.

Exit code 6 when they differ, or one is damaged.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return &usageError{errors.New("one store cannot be compared: give at least two, or none to compare those of the topology")}
			}
			return runStore(cmd.Context(), o, args, true, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.flags(cmd)
	return cmd
}

// storeCopy is one store to look at, here or on a host.
type storeCopy struct {
	Name      string `json:"name"`
	CommitLog string `json:"commitLog"`
	Root      string `json:"root"`
	Running   bool   `json:"running"` // a broker runs on it
	fileSize  int64
	agent     *agent.Agent // nil: on this machine
}

func (c *storeCopy) inspect(ctx context.Context, o store.Options) (*store.Inspection, error) {
	o.Root = c.Root
	if o.FileSize == 0 {
		o.FileSize = c.fileSize
	}
	if c.agent != nil {
		return c.agent.Inspect(ctx, c.CommitLog, o)
	}
	return store.Inspect(ctx, c.CommitLog, o)
}

func (c *storeCopy) metadata(ctx context.Context) (*store.Metadata, error) {
	if c.agent != nil {
		return c.agent.Metadata(ctx, c.Root)
	}
	return store.ReadMetadata(c.Root)
}

func (c *storeCopy) log(fileSize int64) store.Copy {
	if c.agent != nil {
		return c.agent.CommitLog(c.CommitLog, fileSize)
	}
	return store.Local{Dir: c.CommitLog, FileSize: fileSize}
}

// storeReport is what the store commands say with --json.
type storeReport struct {
	Copies      []*storeCopy                 `json:"copies"`
	Stores      map[string]*store.Inspection `json:"stores"` // by copy
	Metadata    map[string]*store.Metadata   `json:"-"`
	Certificate *store.Certificate           `json:"certificate,omitempty"`
	CommonEnd   int64                        `json:"commonEnd,omitempty"` // moving logs were compared up to it
	Differences []store.MetadataDifference   `json:"metadataDifferences,omitempty"`
	Findings    diag.Findings                `json:"findings"`
}

func runStore(ctx context.Context, o storeOptions, dirs []string, compare bool, out, errOut io.Writer) (err error) {
	r := &storeReport{Stores: map[string]*store.Inspection{}, Metadata: map[string]*store.Metadata{}, Findings: diag.Findings{}}
	if o.FileSize < 0 {
		return &usageError{fmt.Errorf("--file-size %d: a file has no such length", o.FileSize)}
	}
	if len(dirs) > 0 {
		for _, dir := range dirs {
			c, err := localStore(dir, o)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(r.Copies, func(x *storeCopy) bool { return x.CommitLog == c.CommitLog }) {
				return &usageError{fmt.Errorf("%s is given twice", dir)}
			}
			r.Copies = append(r.Copies, c)
		}
	} else {
		if o.FileSize > 0 || o.Root != "" {
			return &usageError{errors.New("--file-size and --root go with DIR; of hosts, broker.conf says it")}
		}
		s, err := o.open(ctx)
		if err != nil {
			return shownFindings(errOut, o.target, err)
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		if r.Copies, err = s.stores(ctx); err != nil {
			return err
		}
	}
	if err := r.look(ctx, o, lines(errOut)); err != nil {
		return err
	}
	if compare {
		if err := r.compare(ctx); err != nil {
			return err
		}
	}
	if o.JSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		r.print(out)
	}
	if err != nil {
		return err
	}
	if failed := r.Findings.Err(); failed != nil {
		return &shownError{exitUnproven, failed}
	}
	return nil
}

// localStore finds out what of a store a folder on this machine is.
func localStore(dir string, o storeOptions) (*storeCopy, error) {
	c := &storeCopy{Name: filepath.Clean(dir), fileSize: o.FileSize}
	for _, folder := range []string{dir, o.Root} {
		if info, err := os.Stat(folder); folder == dir || folder != "" {
			if err != nil {
				return nil, &usageError{err}
			}
			if !info.IsDir() {
				return nil, &usageError{fmt.Errorf("%s is no folder", folder)}
			}
		}
	}
	for _, log := range []string{filepath.Join(dir, "commitlog"), dir} {
		entries, err := os.ReadDir(log)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, &usageError{err}
		}
		if log == dir && !slices.ContainsFunc(entries, func(e os.DirEntry) bool { _, ok := store.ParseFileName(e.Name()); return ok }) {
			break
		}
		abs, err := filepath.Abs(log)
		if err != nil {
			return nil, err
		}
		c.CommitLog, c.Root = abs, filepath.Dir(abs)
		if o.Root != "" {
			c.Root = o.Root
		}
		return c, nil
	}
	return nil, &usageError{fmt.Errorf("%s is no store: neither it nor a folder commitlog in it holds commit log files (20 digits)", dir)}
}

// stores are those of the topology's hosts that have one.
func (s *session) stores(ctx context.Context) ([]*storeCopy, error) {
	facts, err := s.observe(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.running(facts)
	if err != nil {
		return nil, err
	}
	var l []*storeCopy
	for i, m := range p.Members {
		if m.CommitLog == "" || facts.Members[i].Conf == nil && len(facts.Members[i].Log) == 0 {
			continue // nothing there yet
		}
		l = append(l, &storeCopy{Name: m.Host, CommitLog: m.CommitLog, Root: m.OldRoot, fileSize: m.LogFileSize,
			Running: facts.Members[i].Process != nil, agent: s.agents[m.Host]})
	}
	if len(l) == 0 {
		return nil, &shownError{exitRefused, errors.New("no host of the group has a store")}
	}
	return l, nil
}

// look inspects all copies side by side.
func (r *storeReport) look(ctx context.Context, o storeOptions, screen *view.Lines) error {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range r.Copies {
		group.Go(func() error {
			last := time.Now()
			in, err := c.inspect(ctx, store.Options{Derived: !o.LogOnly, Progress: func(done int64) {
				if now := time.Now(); now.Sub(last) > 250*time.Millisecond {
					last = now
					screen.Event(event.Event{Time: now, Kind: event.Progress, Step: "store", Host: c.Name, Text: "reading the commit log", Done: done})
				}
			}})
			if errors.Is(err, fs.ErrNotExist) {
				in, err = &store.Inspection{Dir: c.CommitLog}, nil
			}
			if err != nil {
				return fmt.Errorf("%s: %w", c.Name, err)
			}
			var meta *store.Metadata
			if !o.LogOnly {
				if meta, err = c.metadata(ctx); err != nil {
					return fmt.Errorf("%s: %w", c.Name, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			r.Stores[c.Name] = in
			if meta != nil {
				r.Metadata[c.Name] = meta
			}
			return nil
		})
	}
	err := group.Wait()
	if screen.TTY {
		fmt.Fprint(screen.W, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	for _, c := range r.Copies {
		r.found(c.Name, r.Stores[c.Name].Findings)
		if d := r.Stores[c.Name].Derived; d != nil {
			r.found(c.Name, d.Findings)
		}
		if meta := r.Metadata[c.Name]; meta != nil {
			for _, file := range slices.Sorted(maps.Keys(meta.Broken)) {
				r.Findings.Add(diag.Finding{Check: "store.metadata", Severity: diag.Fail, Host: c.Name, Where: filepath.Join(meta.Dir, file),
					What: "the file cannot be read: " + meta.Broken[file], Do: "bring it from another copy, or from its .bak"})
			}
			for _, file := range slices.Sorted(maps.Keys(meta.Fallback)) {
				r.Findings.Add(diag.Finding{Check: "store.metadata", Severity: diag.Warn, Host: c.Name, Where: filepath.Join(meta.Dir, file),
					What: "the file cannot be read: " + meta.Fallback[file] + "; its .bak, the state before, is what was looked at and what a starting broker takes", Do: "see what the .bak lacks; the file is written anew at the next change of it"})
			}
		}
	}
	return nil
}

func (r *storeReport) found(name string, l diag.Findings) {
	for _, f := range l {
		f.Host = name
		r.Findings.Add(f)
	}
}

// moving tells that a log may be written to while it is read.
func (r *storeReport) moving() bool {
	return slices.ContainsFunc(r.Copies, func(c *storeCopy) bool { return c.Running || r.Stores[c.Name].Abort })
}

// compare certifies the copies and says how they differ.
func (r *storeReport) compare(ctx context.Context) error {
	members := map[string]*store.Inspection{}
	copies := map[string]store.Copy{}
	for _, c := range r.Copies {
		members[c.Name] = r.Stores[c.Name]
		copies[c.Name] = c.log(members[c.Name].FileSize)
	}
	moving := r.moving()
	if moving {
		if err := r.bound(ctx, members); err != nil {
			return err
		}
	}
	cert := store.Compare(members)
	if err := cert.Explain(ctx, members, copies); err != nil {
		return err
	}
	for i := range cert.Logs { // of the whole inspections
		if d := r.Stores[cert.Logs[i].Member].Derived; d != nil {
			cert.Logs[i].Queues, cert.Logs[i].Entries, cert.Logs[i].Keys = len(d.Queues), d.Entries, d.Keys
		}
	}
	r.Certificate = &cert
	for _, f := range cert.Findings() {
		if !slices.Contains(r.Findings, f) {
			r.Findings.Add(f)
		}
	}
	r.Differences = store.CompareMetadata(r.Metadata)
	const most = 20
	for i, d := range r.Differences {
		f := diag.Finding{Check: "store.metadata", Severity: diag.Fail, What: d.String(), Do: "take config/*.json from the master"}
		if moving {
			f.Severity, f.Do = diag.Warn, "nothing while brokers run: a slave fetches topics, groups and offsets every 10 s (never consumerFilter.json)"
		}
		if i == most {
			f.What = fmt.Sprintf("%d more values differ; --json lists all", len(r.Differences)-most)
		}
		r.Findings.Add(f)
		if i == most {
			break
		}
	}
	return nil
}

// bound cuts inspections of moving logs at their common end. Where that is no message boundary in one of
// them, they differ before it, which comparing them whole will show; and so will a stopped copy that
// reaches further than a moving one.
func (r *storeReport) bound(ctx context.Context, members map[string]*store.Inspection) error {
	end := store.CommonEnd(members)
	bounded := map[string]*store.Inspection{}
	for _, c := range r.Copies {
		if in := members[c.Name]; !c.Running && !in.Abort && in.End > end {
			return nil
		}
	}
	for _, c := range r.Copies {
		in := members[c.Name]
		if len(in.Files) == 0 || end <= in.First {
			return nil
		}
		tail, err := c.inspect(ctx, in.TailFor(end))
		var outside *store.RangeError
		if errors.As(err, &outside) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		bounded[c.Name] = in.Bound(tail)
	}
	maps.Copy(members, bounded)
	r.CommonEnd = end
	return nil
}

func (r *storeReport) print(out io.Writer) {
	for _, c := range r.Copies {
		in := r.Stores[c.Name]
		state := "stopped"
		switch {
		case c.Running:
			state = "a broker runs on it"
		case in.Abort:
			state = "its abort file is there: a broker runs on it, or did not stop cleanly"
		}
		fmt.Fprintf(out, "%s: %s (%s)\n", c.Name, c.CommitLog, state)
		if len(in.Files) == 0 {
			fmt.Fprintln(out, "  no commit log")
			continue
		}
		valid := int64(0)
		for _, chunk := range in.Chunks {
			valid += chunk.Length
		}
		fmt.Fprintf(out, "  log     first %d, end %d in %s, %s of %s, %s of data\n", in.First, in.End, lastFile(in), counted(len(in.Files), "file"), view.Bytes(in.FileSize), view.Bytes(valid))
		if in.Messages > 0 {
			fmt.Fprintf(out, "          %d messages, the last one stored %s\n", in.Messages, in.Last.UTC().Format("2006-01-02 15:04:05.000"))
		}
		if in.DividedBlank {
			fmt.Fprintln(out, "          closed by an end-of-file mark, as a first start as DLedger writes it")
		}
		if d := in.Derived; d != nil {
			if d.Reach < 0 {
				fmt.Fprintln(out, "  queues  none")
			} else {
				fmt.Fprintf(out, "  queues  %d in %s, %d entries, up to offset %d\n", len(d.Queues), counted(d.Topics, "topic"), d.Entries, d.Reach)
			}
			fmt.Fprintf(out, "  index   %s, %d entries\n", counted(len(d.Index), "file"), d.Keys)
		}
	}
	fmt.Fprintln(out)
	if c := r.Certificate; c != nil {
		rows := [][]string{{"copy", "first", "end", "messages", "digest"}}
		for _, l := range c.Logs {
			rows = append(rows, []string{l.Member, fmt.Sprint(l.First), fmt.Sprint(l.End), fmt.Sprint(l.Messages), l.Digest[:12]})
		}
		view.Table(out, terminal(out), rows)
		switch {
		case len(c.Differences) > 0:
			fmt.Fprintln(out, "The logs differ.")
		case r.CommonEnd > 0:
			fmt.Fprintf(out, "The logs are equal up to %d, the smallest common end: they are being written, and nothing is said about what follows.\n", r.CommonEnd)
		default:
			fmt.Fprintf(out, "The logs are equal, to their end: certificate %s, %s compared on each.\n", c.Short(), view.Bytes(c.Bytes))
		}
		if len(r.Metadata) > 0 && len(r.Differences) == 0 {
			fmt.Fprintln(out, "config/*.json mean the same on all.")
		}
	}
	if len(r.Findings) == 0 {
		fmt.Fprintln(out, "Nothing is wrong.")
		return
	}
	view.Findings(out, terminal(out), r.Findings)
}

// counted is a number with its thing.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// lastFile is the name of the file in which the log ends.
func lastFile(in *store.Inspection) string {
	name := ""
	for _, f := range in.Files {
		if f.Base < in.Divided {
			name = f.Name
		}
	}
	return name
}
