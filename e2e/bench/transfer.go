package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"mqlift/internal/agent"
	"mqlift/internal/link"
	"mqlift/internal/remote"
	"mqlift/internal/transfer"
)

// copied is one copy of a store. Took is in seconds, the rest in bytes.
type copied struct {
	Store     string  `json:"store"` // GiB
	Kind      string  `json:"kind"`  // dense or sparse
	Method    string  `json:"method"`
	Round     int     `json:"round"`
	Took      float64 `json:"took"`
	Wire      int64   `json:"wire"` // what the loopback interface carried meanwhile, all ways together
	Apparent  int64   `json:"apparent"`
	Allocated int64   `json:"allocated"`
	// Of mqlift only: what the interface carried for a copy onto the one just made, and memory.
	Again int64 `json:"wireOfSecondPass,omitempty"`
	Peak  peaks `json:"peakResident,omitzero"`
}

// speed is the medians of a method's copies of one store; of memory the most.
type speed struct {
	Store     string  `json:"store"`
	Kind      string  `json:"kind"`
	Method    string  `json:"method"`
	Took      float64 `json:"took"`
	Rate      float64 `json:"apparentBytesPerSecond"`
	Wire      float64 `json:"wire"`
	Apparent  int64   `json:"apparent"`
	Allocated int64   `json:"allocated"`
	Again     float64 `json:"wireOfSecondPass,omitempty"`
	Peak      peaks   `json:"peakResident,omitzero"`
}

// method is one way to copy a store's folder to one that is not there.
type method struct {
	name  string
	copy  func(ctx context.Context, s files, to string) error
	watch func() func() (peaks, error) // its memory; nil: not asked for
	twice bool                         // once more, onto the copy
}

const (
	viaSCP, viaRsync, viaTCP = "scp -r", "rsync -a --sparse", "plain TCP"
	viaMqlift, viaPlain      = "mqlift", "mqlift --transfer plain"
	viaBastion               = "mqlift --transfer bastion"
)

// copies measures the methods on files: a dense store and a typical sparse one for each size. The files
// are in the page cache, as far as it holds them, and the targets are written as each method writes them:
// mqlift's are on disk when it ends.
func (o options) copies(ctx context.Context, dir string, sizes []float64, r *result) (err error) {
	op, err := newOperator(ctx, filepath.Join(dir, "copying"), map[string][]string{"source": nil, "target": nil})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, op.close()) }()
	source, err := op.agent(ctx, "source", o.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.close()) }()
	target, err := op.agent(ctx, "target", o.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.close()) }()

	all := []method{
		{name: viaSCP, copy: func(ctx context.Context, s files, to string) error {
			return op.script(ctx, "scp.sh", `exec scp -F "$SSH_CONFIG" -q -r "$FROM" "target:$TO"`, map[string]string{"FROM": s.dir, "TO": to})
		}},
		{name: viaRsync, copy: func(ctx context.Context, s files, to string) error {
			return op.script(ctx, "rsync.sh", `RSYNC_RSH="ssh -F $SSH_CONFIG" exec rsync -a --sparse "$FROM/" "target:$TO/"`, map[string]string{"FROM": s.dir, "TO": to})
		}},
		{name: viaTCP, copy: func(ctx context.Context, s files, to string) error { return copyOverTCP(ctx, s.dir, to) }},
	}
	for _, way := range []struct {
		name string
		mode link.Mode // "": through this machine
	}{{viaMqlift, link.Encrypted}, {viaPlain, link.Plain}, {viaBastion, ""}} {
		watch := func() func() (peaks, error) { return watchMemory(source.Dir(), target.Dir()) }
		all = append(all, method{name: way.name, watch: watch, twice: way.mode == link.Encrypted, copy: func(ctx context.Context, s files, to string) error {
			spec := agent.CopySpec{FromRoot: s.dir, ToRoot: to, Trees: s.trees,
				Logs: []transfer.LogRange{{Dir: commitLog, FileSize: s.logFileSize, To: s.logEnd}}}
			if way.mode != "" {
				port, err := freePort()
				if err != nil {
					return err
				}
				spec.Direct = &agent.Direct{Address: fmt.Sprintf("127.0.0.1:%d", port), Port: port, Mode: way.mode}
			}
			_, err := agent.Copy(ctx, source.Agent, target.Agent, spec, nil)
			return err
		}})
	}
	for _, size := range sizes {
		for _, kind := range []string{"dense", "sparse"} {
			s, err := writeFiles(filepath.Join(dir, "files"), kind, int64(size*(1<<30)))
			if err != nil {
				return err
			}
			for round := range o.rounds {
				for i := range all {
					m := all[(i+round)%len(all)]
					c, err := s.copyWith(ctx, m, filepath.Join(dir, "copy"))
					if err != nil {
						return fmt.Errorf("copying a %s store of %s GiB with %s: %w", kind, storeName(size), m.name, err)
					}
					c.Store, c.Kind, c.Round = storeName(size), kind, round+1
					r.Copies = append(r.Copies, c)
				}
			}
			o.say(fmt.Sprintf("copied a %s store of %s GiB", kind, storeName(size)))
			if err := os.RemoveAll(s.dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// freePort is one that nothing listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// copyWith copies a store once, and compares the copy.
func (s files) copyWith(ctx context.Context, m method, to string) (c copied, err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(to)) }()
	syscall.Sync()
	before, err := carried()
	if err != nil {
		return c, err
	}
	var memory func() (peaks, error)
	if m.watch != nil {
		memory = m.watch()
	}
	began := time.Now()
	err = m.copy(ctx, s, to)
	took := time.Since(began)
	if memory != nil {
		peak, bad := memory()
		c.Peak, err = peak, errors.Join(err, bad)
	}
	if err != nil {
		return c, err
	}
	after, err := carried()
	if err != nil {
		return c, err
	}
	c.Method, c.Took, c.Wire, c.Apparent, c.Allocated = m.name, took.Seconds(), after-before, s.apparent, s.allocated
	if m.twice {
		if err := m.copy(ctx, s, to); err != nil {
			return c, fmt.Errorf("once more: %w", err)
		}
		again, err := carried()
		if err != nil {
			return c, err
		}
		c.Again = again - after
	}
	return c, s.compare(ctx, to)
}

// carried is how many bytes the loopback interface has carried so far, with the heads of TCP and IP.
func carried() (int64, error) {
	data, err := os.ReadFile("/sys/class/net/lo/statistics/rx_bytes")
	if err != nil {
		return 0, err
	}
	var n int64
	_, err = fmt.Sscan(string(data), &n)
	return n, err
}

// pushed is mqlift's agent on a host, with its connection.
type pushed struct {
	*agent.Agent
	host *remote.Host
}

func (o *operator) agent(ctx context.Context, name, binary string) (pushed, error) {
	h, err := remote.Dial(ctx, o.target(name))
	if err != nil {
		return pushed{}, err
	}
	a, err := agent.Push(ctx, h, agent.From(&agent.Builds{Executable: binary}))
	if err != nil {
		return pushed{}, errors.Join(err, h.Close())
	}
	return pushed{a, h}, nil
}

func (p pushed) close() error { return errors.Join(p.Agent.Close(), p.host.Close()) }

func speeds(all []copied) (l []speed) {
	for _, c := range all {
		if slices.ContainsFunc(l, func(s speed) bool { return s.Store == c.Store && s.Kind == c.Kind && s.Method == c.Method }) {
			continue
		}
		var runs []copied
		for _, other := range all {
			if other.Store == c.Store && other.Kind == c.Kind && other.Method == c.Method {
				runs = append(runs, other)
			}
		}
		s := speed{Store: c.Store, Kind: c.Kind, Method: c.Method, Apparent: c.Apparent, Allocated: c.Allocated,
			Took: medianOf(runs, func(c copied) float64 { return c.Took }), Wire: medianOf(runs, func(c copied) float64 { return float64(c.Wire) })}
		s.Rate = float64(s.Apparent) / s.Took
		s.Again = medianOf(runs, func(c copied) float64 { return float64(c.Again) })
		for _, c := range runs {
			s.Peak.Source, s.Peak.Target = max(s.Peak.Source, c.Peak.Source), max(s.Peak.Target, c.Peak.Target)
			s.Peak.Orchestrator = max(s.Peak.Orchestrator, c.Peak.Orchestrator)
		}
		l = append(l, s)
	}
	return l
}

// printSpeeds prints how fast each method was, and how much faster than each of the others mqlift was, encrypted
// and plain.
func printSpeeds(w io.Writer, all []speed) {
	if len(all) == 0 {
		return
	}
	const mega = 1e6
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nstore\tapparent\tallocated\tcopied with\ttook\tof apparent\ton the wire\tof allocated\tmqlift is faster\tplain is faster\n")
	for _, s := range all {
		faster := map[string]string{}
		for _, m := range all {
			if m.Store == s.Store && m.Kind == s.Kind && m.Method != s.Method {
				faster[m.Method] = fmt.Sprintf("%.2f times", s.Took/m.Took)
			}
		}
		fmt.Fprintf(t, "%s GiB %s\t%.0f MB\t%.0f MB\t%s\t%.2f s\t%.0f MB/s\t%.0f MB\t%.3f\t%s\t%s\n", s.Store, s.Kind, float64(s.Apparent)/mega, float64(s.Allocated)/mega, s.Method,
			s.Took, s.Rate/mega, s.Wire/mega, s.Wire/float64(s.Allocated), faster[viaMqlift], faster[viaPlain])
	}
	t.Flush()
}

// printWanted prints what is wanted of copies, and what is.
func printWanted(w io.Writer, all []speed) {
	if len(all) == 0 {
		return
	}
	const mib = 1 << 20
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nstore\tof mqlift\tis\twanted\n")
	for _, s := range all {
		row := func(what string, is float64, form, word string, wanted float64) {
			fmt.Fprintf(t, "%s GiB %s\t%s\t"+form+"\t%s "+form+"\n", s.Store, s.Kind, what, is, word, wanted)
		}
		against := map[string]float64{} // how many times as fast
		switch {
		case s.Method == viaMqlift && s.Kind == "dense":
			against = map[string]float64{viaSCP: 1.3, viaRsync: 1.3}
		case s.Method == viaMqlift:
			against = map[string]float64{viaSCP: 2, viaRsync: 2}
		case s.Method == viaPlain && s.Kind == "dense":
			against = map[string]float64{viaSCP: 3, viaRsync: 3, viaTCP: 0.7}
		}
		for _, other := range all {
			if least, ok := against[other.Method]; ok && other.Store == s.Store && other.Kind == s.Kind {
				row(fmt.Sprintf("%s, speed of that of %s", s.Method, other.Method), other.Took/s.Took, "%.2f", "at least", least)
			}
		}
		if s.Method == viaMqlift || s.Method == viaPlain {
			row(s.Method+", bytes on the wire of those allocated", s.Wire/float64(s.Allocated), "%.4f", "at most", 1.02)
		}
		if s.Again > 0 {
			row(s.Method+", the same for a second pass", s.Again/float64(s.Allocated), "%.4f", "under", 0.001)
		}
		for _, p := range []struct {
			who   string
			bytes int64
		}{{"source's agent", s.Peak.Source}, {"target's agent", s.Peak.Target}, {"orchestrator", s.Peak.Orchestrator}} {
			if p.bytes > 0 {
				row(fmt.Sprintf("%s, MiB resident of the %s", s.Method, p.who), float64(p.bytes)/mib, "%.0f", "under", 128)
			}
		}
	}
	t.Flush()
}
