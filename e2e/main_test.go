// Package e2e runs the built mqlift against real brokers: what it refuses, what it undoes, and how it
// goes on after it was killed. Every lab is made for its test and is gone after it.
package e2e

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

	"mqlift/internal/lab"
)

// binaryVariable names the mqlift to test; without it one is built.
const binaryVariable = "MQLIFT_BINARY"

func TestMain(m *testing.M) {
	lab.KeeperMain()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := errors.Join(nothingLeft(dir), os.RemoveAll(dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	binary := os.Getenv(binaryVariable)
	if binary == "" {
		binary = filepath.Join(dir, "mqlift")
		build := exec.Command("go", "build", "-o", binary, "mqlift/cmd/mqlift")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // it runs on the hosts, too
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building mqlift: %v\n%s", err, out)
			return 1
		}
	}
	if binary, err = filepath.Abs(binary); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Everything that any test or lab makes is below dir, by which its processes are known as well.
	for name, value := range map[string]string{binaryVariable: binary, "TMPDIR": dir} {
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// nothingLeft looks for processes of labs below dir: by the lab's marker, or, for the programs around
// it, by their command line. A process that is just ending gets a moment.
func nothingLeft(dir string) error {
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		left, err := processesBelow(dir)
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("the tests have left %d processes:\n%s", len(left), strings.Join(left, "\n"))
		}
	}
}

func processesBelow(dir string) ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		environ, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil {
			continue // gone, or another user's
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		marked := bytes.Contains(environ, []byte("MQLIFT_LAB=")) && bytes.Contains(environ, []byte(dir))
		if marked || bytes.Contains(cmdline, []byte(dir)) {
			found = append(found, fmt.Sprintf("%d: %s", pid, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	return found, nil
}
