package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// snapshot is everything on the hosts and in the cluster that mqlift might change, as text by name.
type snapshot map[string]string

func (b *bench) snapshot(t *testing.T) snapshot {
	t.Helper()
	s := snapshot{}
	for _, h := range b.Hosts() {
		must(t, s.files(h.Name, h.Dir))
	}
	status, err := b.Status(t.Context())
	must(t, err)
	for _, h := range status.Hosts {
		for _, p := range h.Processes {
			s[fmt.Sprintf("%s process %d", h.Name, p.PID)] = p.Kind
		}
	}
	for _, h := range []string{"host-a", "host-b"} {
		s[h+" configuration"] = said(b.broker(h).Config(t.Context()))
	}
	for _, ns := range b.NameServers() {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		s["name server "+ns] = said(b.client.NameServers([]string{ns}).ClusterInfoAt(ctx, ns))
		cancel()
	}
	return s
}

// said is an answer as text, or that there was none.
func said(v any, err error) string {
	if err != nil {
		return "no answer"
	}
	return fmt.Sprint(v) // maps are printed in order
}

// files notes every path below a host's folder. What running brokers write, their stores and logs, is
// passed over, but for what no broker in the old mode makes there.
func (s snapshot) files(host, dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a broker replaces its config/*.json now and then
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if live(name) && !strings.Contains(name, "dledger") && !strings.Contains(name, "mqlift") {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		if info.Mode().IsRegular() {
			sum, err := hash(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %d %x", info.Size(), sum)
		}
		s[host+" "+name] = what
		return nil
	})
}

// live tells what running brokers and name servers write to: opt/RELEASE/store, opt/RELEASE/logs and
// home/logs.
func live(name string) bool {
	parts := strings.Split(name, string(filepath.Separator))
	switch {
	case len(parts) > 3 && parts[0] == "opt":
		return parts[2] == "store" || parts[2] == "logs"
	case len(parts) > 2 && parts[0] == "home":
		return parts[1] == "logs"
	}
	return false
}

func hash(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// unchanged runs f and fails the test when anything on the hosts or in the cluster is different
// afterwards. mqlift's helper programs end with its connections, which may be a moment after it.
func (b *bench) unchanged(t *testing.T, f func()) {
	t.Helper()
	before := b.snapshot(t)
	f()
	eventually(t, 5*time.Second, "the hosts to be as before (-before +after)", func(context.Context) error {
		if diff := cmp.Diff(before, b.snapshot(t)); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}
