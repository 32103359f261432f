// Command bench measures, on real brokers on loopback with traffic on them, for how long writes and reads
// are away when a broker group is moved to DLedger by hand, by a careful operator's script, and by mqlift;
// and on files alone how fast stores are copied. In the same run, alternating, for stores of several sizes.
//
// The exit status is 1 when a run of mqlift failed or an acknowledged message was missing after it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mqlift/e2e/javaclient"
	"mqlift/internal/lab"
)

type options struct {
	binary, release, json, dir, keep string
	sizes                            string
	rounds, messageSize              int
	rate, limit                      float64
	logFileSize                      int64
	brokers, transfer                bool
	out                              io.Writer
}

func main() {
	lab.KeeperMain()
	o := options{out: os.Stdout}
	flag.StringVar(&o.binary, "mqlift", "bin/mqlift", "the mqlift to measure")
	flag.StringVar(&o.sizes, "sizes", "0.25,1,4", "sizes of the stores in GiB")
	flag.IntVar(&o.rounds, "rounds", 3, "runs of each procedure for each size")
	flag.StringVar(&o.json, "json", "", "write all samples and medians to this file")
	flag.StringVar(&o.dir, "dir", "", "where the stores are made, in a folder that is gone after the run (default: the temporary one)")
	flag.StringVar(&o.keep, "keep", "", "keep each run's plan, journal, report and output in this folder")
	flag.StringVar(&o.release, "release", lab.DefaultRelease, "RocketMQ release")
	flag.IntVar(&o.messageSize, "message-size", 4096, "bytes of the messages that fill the stores")
	flag.Int64Var(&o.logFileSize, "log-file-size", lab.DefaultLogFileSize, "bytes of a commit log file")
	flag.Float64Var(&o.rate, "rate", 250, "messages per second of the application")
	flag.Float64Var(&o.limit, "limit-rate", 20, "MiB per second to which further runs of mqlift on the largest store are bound while the group serves, to see what the copy does to sends; 0: no such runs")
	flag.BoolVar(&o.brokers, "brokers", true, "measure outages, on brokers")
	flag.BoolVar(&o.transfer, "transfer", true, "measure copying, on files")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := o.bench(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (o options) say(line string) {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), line)
}

// result is what is written as JSON.
type result struct {
	Begun    time.Time `json:"begun"`
	CPUs     int       `json:"cpus"`
	Release  string    `json:"release"`
	Samples  []sample  `json:"samples,omitempty"`
	Outages  []outage  `json:"outages,omitempty"`
	Copies   []copied  `json:"copies,omitempty"`
	Transfer []speed   `json:"transfer,omitempty"`
}

func (o options) bench(ctx context.Context) (err error) {
	sizes, err := parseSizes(o.sizes)
	if err != nil {
		return err
	}
	if o.rounds < 1 {
		return fmt.Errorf("-rounds %d: there must be one at least", o.rounds)
	}
	if err := missingTools(map[string]string{sshdPath: "openssh-server", "ssh": "openssh-client", "scp": "openssh-client",
		"ssh-keygen": "openssh-client", "rsync": "rsync"}); err != nil {
		return err
	}
	if o.limit < 0 || o.limit > 0 && o.limit < 0.01 {
		return fmt.Errorf("-limit-rate %g: give MiB per second, or 0", o.limit)
	}
	if _, err := javaclient.FindJDK(ctx); err != nil {
		return err
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	if o.keep != "" {
		if o.keep, err = filepath.Abs(o.keep); err != nil {
			return err
		}
	}
	if _, err := os.Stat(o.binary); err != nil {
		return fmt.Errorf("the mqlift to measure: %w", err)
	}
	dir, err := os.MkdirTemp(o.dir, "b")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := o.roomIn(dir, sizes); err != nil {
		return err
	}
	r := result{Begun: time.Now(), CPUs: runtime.NumCPU(), Release: o.release}
	if o.brokers {
		err = o.outages(ctx, dir, sizes, &r)
	}
	if o.transfer && err == nil {
		err = o.copies(ctx, dir, sizes, &r)
	}
	// Also what was measured before an error is worth having.
	r.summarise()
	r.print(o.out)
	if o.json != "" {
		err = errors.Join(err, r.write(o.json))
	}
	return errors.Join(err, r.err())
}

// outages measures the procedures on brokers. Rounds are outermost and every round begins with another
// procedure, so that a machine that gets slower or faster does it to all alike.
func (o options) outages(ctx context.Context, dir string, sizes []float64, r *result) (err error) {
	o.say("starting the lab")
	g, err := newGround(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.end()) }()
	for i, size := range sizes {
		if i > 0 {
			if _, err := g.begin(ctx, storeName(sizes[i-1])); err != nil {
				return err
			}
		}
		began := time.Now()
		if err := g.fill(ctx, storeName(size), int64(size*(1<<30))); err != nil {
			return fmt.Errorf("filling a store of %s GiB: %w", storeName(size), err)
		}
		o.say(fmt.Sprintf("filled a store of %s GiB, %d messages so far, in %s", storeName(size), g.filled, time.Since(began).Round(time.Second)))
	}
	for round := range o.rounds {
		for i, size := range sizes {
			all := []procedure{byHand{}, careful{}, apply{}}
			if i == len(sizes)-1 && o.limit > 0 {
				all = append(all, apply{limit: o.limit})
			}
			for i := range all {
				p := all[(i+round)%len(all)]
				s, err := g.run(ctx, o, storeName(size), p, round+1)
				if err != nil {
					return fmt.Errorf("%s, %s GiB: %w", p.name(), storeName(size), err)
				}
				r.Samples = append(r.Samples, s)
				o.say(s.line())
			}
		}
	}
	return nil
}

// parseSizes reads sizes in GiB; each is larger than the one before.
func parseSizes(text string) (sizes []float64, err error) {
	for field := range strings.SplitSeq(text, ",") {
		size, err := strconv.ParseFloat(strings.TrimSpace(field), 64)
		if err != nil || size < 0.01 || size > 1024 || len(sizes) > 0 && size <= sizes[len(sizes)-1] {
			return nil, fmt.Errorf("-sizes %q: give GiB in rising order, such as 0.25,1,4", text)
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
}

func storeName(size float64) string { return strconv.FormatFloat(size, 'g', -1, 64) }

// roomIn refuses a disk that is too small: every store is kept twice, and the largest is at work on three
// hosts, with an index that a host's copy may have without holes.
func (o options) roomIn(dir string, sizes []float64) error {
	need := 4.0
	for _, size := range sizes {
		need += 2 * size
	}
	need += 3 * sizes[len(sizes)-1]
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if free := float64(st.Bavail) * float64(st.Bsize) / (1 << 30); free < need {
		return fmt.Errorf("%s has %.1f GiB free, and stores of %s GiB want %.1f: choose another place with -dir, or smaller -sizes", filepath.Dir(dir), free, o.sizes, need)
	}
	return nil
}

func (r *result) write(name string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(data, '\n'), 0o644)
}
