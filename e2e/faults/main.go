// Command faults runs the fault matrix: `mqlift apply` on real brokers, a fault injected at a certain
// moment, and then everything that was acknowledged looked up on every node of the group that came of it.
// Independent producers send keyed messages throughout.
//
// Every row must end verified or cleanly back, with no message missing; otherwise the exit status is 1.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"mqlift/e2e/netlab"
	"mqlift/internal/lab"
)

func main() {
	lab.KeeperMain()
	if netlab.Entered() || inNetwork() {
		if err := netlab.Enter(netlab.DefaultRelease); err != nil {
			fmt.Fprintln(os.Stderr, "NOT RUN:", err)
			os.Exit(1)
		}
	}
	o := options{place: loopback}
	flag.StringVar(&o.binary, "mqlift", "bin/mqlift", "the mqlift to test")
	flag.StringVar(&o.pattern, "rows", "", "only rows whose name and step match this regular expression")
	flag.IntVar(&o.labs, "labs", 1, "how many labs run rows side by side")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of all that is random")
	flag.StringVar(&o.json, "json", "", "write the results to this file")
	flag.IntVar(&o.rate, "rate", 40, "messages per second of each of the two producers; fewer for a machine that has other work")
	overNetwork := flag.Bool("network", false, "run on the network lab (root) instead of loopback")
	list := flag.Bool("list", false, "list the rows and end")
	flag.Parse()
	if *overNetwork {
		o.place, o.labs = network, 1 // its addresses are the case's, once
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	chosen, err := choose(o.pattern, o.place)
	if err == nil && *list {
		for _, r := range chosen {
			fmt.Println(r.title())
		}
		return
	}
	if err == nil {
		err = o.matrix(ctx, chosen, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		stop()
		os.Exit(1)
	}
}

// inNetwork tells whether the network lab is asked for: it is entered before anything else is done.
func inNetwork() bool {
	return slices.ContainsFunc(os.Args[1:], func(a string) bool { return strings.TrimLeft(a, "-") == "network" })
}

type options struct {
	place                 place
	binary, pattern, json string
	labs, rate            int
	seed                  uint64
}

func (r row) title() string { return strings.TrimSpace(r.name + " " + r.step) }

func choose(pattern string, at place) ([]row, error) {
	all, err := rows()
	if err != nil {
		return nil, err
	}
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	var chosen []row
	for _, r := range all {
		if !match.MatchString(r.title()) {
			continue
		}
		if r.only != "" && r.only != at {
			continue
		}
		if r.root && os.Geteuid() != 0 {
			fmt.Fprintf(os.Stderr, "NOT RUN, since it needs root: %s\n", r.title())
			continue
		}
		chosen = append(chosen, r)
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no row matches %q", pattern)
	}
	return chosen, nil
}

// matrix runs rows, prints each as it ends and all of them in the end. The error says that not every row
// was good.
func (o options) matrix(ctx context.Context, todo []row, out io.Writer) (err error) {
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "f")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintf(out, "%d rows, seed %d\n", len(todo), o.seed)
	began := time.Now()
	var (
		mu      sync.Mutex
		labs    sync.WaitGroup
		results = make([]*result, len(todo))
		next    int
		failed  error
	)
	for i := range min(o.labs, len(todo)) {
		labs.Go(func() {
			err := o.lab(ctx, filepath.Join(dir, fmt.Sprint(i)), binary, todo, func() int {
				mu.Lock()
				defer mu.Unlock()
				if failed != nil || next == len(todo) {
					return -1
				}
				next++
				return next - 1
			}, func(at int, r *result) {
				mu.Lock()
				defer mu.Unlock()
				results[at] = r
				r.print(out)
			})
			mu.Lock()
			defer mu.Unlock()
			if failed == nil {
				failed = err
			}
		})
	}
	labs.Wait()
	bad := table(out, results)
	fmt.Fprintf(out, "%d rows in %s\n", len(todo), time.Since(began).Round(time.Second))
	if o.json != "" {
		data, err := json.MarshalIndent(results, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	if failed != nil {
		return failed
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d rows are red", bad, len(todo))
	}
	return nil
}

// lab runs rows on one lab until there are no more.
func (o options) lab(ctx context.Context, dir, binary string, todo []row, next func() int, done func(int, *result)) (err error) {
	var on cluster
	if o.place == network {
		on, err = newNetwork(ctx)
	} else {
		on, err = newLocal(ctx, dir)
	}
	if err != nil {
		return err
	}
	g, err := newGround(ctx, on, dir, binary, o.rate)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := g.end(); err == nil {
			err = cerr
		}
	}()
	for at := next(); at >= 0; at = next() {
		// By its title: a row does the same whichever others are run.
		random := rand.New(rand.NewPCG(o.seed, hash(todo[at].title())))
		r, err := g.run(ctx, todo[at], random)
		if err != nil {
			return fmt.Errorf("%s: %w", todo[at].title(), err)
		}
		done(at, r)
	}
	return nil
}

func hash(s string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, s)
	return h.Sum64()
}

func (r *result) print(out io.Writer) {
	fmt.Fprintf(out, "%-13s %s %s (%s), exit codes %v: %s; acknowledged %d, found %d, not by key %d, missing %d; %s\n", r.End, r.Fault, r.Step, r.At, r.Codes, short(r.Said, 200),
		r.Acknowledged, r.Found, r.NotByKey, r.Missing, r.Took.Round(time.Second))
	if r.End == red {
		fmt.Fprintf(out, "  %s\n", strings.ReplaceAll(r.Problem, "\n", "\n  "))
		for i, text := range r.Output {
			fmt.Fprintf(out, "  what apply %d said:\n    %s\n", i+1, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    "))
		}
	}
}

// table prints all results and returns how many rows are not good.
func table(out io.Writer, results []*result) (bad int) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nfault\tstep\tinjected\tmqlift said\tend\tacknowledged\tfound\tnot by key\tmissing\ttook\n")
	for _, r := range results {
		if r == nil {
			bad++ // not run
			continue
		}
		if !r.good() {
			bad++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", r.Fault, r.Step, r.At, short(r.Said, 110), r.End, r.Acknowledged, r.Found, r.NotByKey, r.Missing, r.Took.Round(time.Second))
	}
	t.Flush()
	return bad
}

// short leaves the middle of a long text out: it begins with where, and ends with why.
func short(s string, most int) string {
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	head := most / 3
	return string(runes[:head]) + " … " + string(runes[len(runes)-(most-head-3):])
}
