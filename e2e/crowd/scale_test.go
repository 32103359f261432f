// Package crowd runs the built mqlift on broker groups that servers in this process play: a hundred of three hosts
// each, and hosts that are other machines than this one.
package crowd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mqlift/internal/fleet"
	"mqlift/internal/plan"
)

// binaryVariable names the mqlift to test; without it one is built.
const binaryVariable = "MQLIFT_BINARY"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(binaryVariable) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "crowd")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "mqlift")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "mqlift/cmd/mqlift") // as make build
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building mqlift: %v\n%s", err, out)
		return 1
	}
	os.Setenv(binaryVariable, binary)
	return m.Run()
}

// outcome is what a run of mqlift did and took.
type outcome struct {
	code     int
	out, err string
	took     time.Duration
	memory   int64 // VmHWM, the most that was resident, in bytes
}

// mqlift runs the binary as a process of its own.
func (c *crowd) mqlift(t testing.TB, args ...string) outcome {
	t.Helper()
	return c.run(t, os.Getenv(binaryVariable), args...)
}

func (c *crowd) run(t testing.TB, binary string, args ...string) outcome {
	t.Helper()
	var o outcome
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.site.Home, &out, &errOut
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// Not what wait4 says (ru_maxrss): that counts this process in, which it was forked from.
			if most, err := peak(cmd.Process.Pid); err == nil {
				o.memory = most
			}
			continue
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
		}
		o.code, o.took, o.out, o.err = cmd.ProcessState.ExitCode(), time.Since(began), out.String(), errOut.String()
		return o
	}
}

// peak is a process's VmHWM.
func peak(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("it is ending")
}

// maxMemory is the most that mqlift may have resident.
const maxMemory = 128 << 20

// within checks what must hold however many groups there are.
func (c *crowd) within(t testing.TB, o outcome) {
	t.Helper()
	limits, most := fleet.DefaultLimits(), c.count.Most()
	if most.Starting > limits.Starting || most.Open > limits.Open+limits.Starting { // a server learns of an end a moment later
		t.Errorf("at most %d connections were being started and %d were open at once, and the limits are %d and %d", most.Starting, most.Open, limits.Starting, limits.Open)
	}
	if o.memory == 0 || o.memory > maxMemory {
		t.Errorf("%d bytes were resident, and it may be %d", o.memory, maxMemory)
	}
}

func TestAHundredGroupsAreCheckedAndPlannedWithinTheLimits(t *testing.T) {
	c := newCrowd(t, 100)
	check := c.mqlift(t, "check")
	if check.code != 0 || check.err != "" {
		t.Fatalf("check: exit code %d\n%s\n%s", check.code, tail(check.out), check.err)
	}
	for _, g := range c.groups {
		if !strings.Contains(check.out, "── broker group "+g+"\n") || !strings.Contains(check.out, "\n"+g+"  3 ") {
			t.Errorf("check says nothing of %s", g)
		}
	}
	if last := lastLine(check.out); !strings.HasPrefix(last, "100 groups: ") || !strings.HasSuffix(last, ", 0 failed") {
		t.Errorf("check ends with %q", last)
	}
	if all := c.count.LoggedIn(); all != 300 {
		t.Errorf("%d connections to 300 hosts", all)
	}
	c.within(t, check)

	plans := filepath.Join(t.TempDir(), "plans")
	made := c.mqlift(t, "plan", "-o", plans)
	if made.code != 0 || made.err != "" {
		t.Fatalf("plan: exit code %d\n%s\n%s", made.code, tail(made.out), made.err)
	}
	for _, g := range c.groups {
		file := filepath.Join(plans, g+".json")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
			continue
		}
		p, err := plan.Decode(file, data)
		if err != nil {
			t.Error(err)
			continue
		}
		host := "host-" + strings.TrimPrefix(g, "broker-")
		if p.Group != g || len(p.Members) != 3 || p.Member(host+"-a").Kind != plan.Master || p.Member(host+"-b").Kind != plan.Slave || p.Member(host+"-c").Kind != plan.Fresh {
			t.Errorf("%s is not the plan of %s", file, g)
		}
	}
	if all := c.count.LoggedIn(); all != 600 {
		t.Errorf("%d connections to 300 hosts, twice", all)
	}
	c.within(t, made)
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

func lastLine(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return lines[len(lines)-1]
}

// BenchmarkHosts measures one check and one plan of all groups, on this machine's processors, which also play the
// hosts.
func BenchmarkHosts(b *testing.B) {
	for _, command := range []string{"check", "plan"} {
		for _, groups := range []int{1, 10, 100} {
			b.Run(fmt.Sprintf("%s/hosts=%d", command, 3*groups), func(b *testing.B) {
				c := newCrowd(b, groups)
				var memory int64
				for b.Loop() {
					o := c.mqlift(b, command)
					if o.code != 0 {
						b.Fatalf("exit code %d\n%s\n%s", o.code, tail(o.out), o.err)
					}
					memory = max(memory, o.memory)
				}
				b.ReportMetric(float64(b.Elapsed().Milliseconds())/1000/float64(b.N), "s/run")
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(memory)/(1<<20), "MiB-peak")
				b.ReportMetric(float64(c.count.Most().Open), "open-at-once")
				b.ReportMetric(float64(c.count.Most().Starting), "starting-at-once")
			})
		}
	}
}
