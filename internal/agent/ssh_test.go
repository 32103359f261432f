package agent

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"mqlift/internal/hostinfo"
	"mqlift/internal/lab/sshhost/sshhosttest"
	"mqlift/internal/link"
	"mqlift/internal/remote"
)

func TestOverSSHAnAgentWorksAndABrokerOutlivesTheConnection(t *testing.T) {
	_, host, home := sshhosttest.Dial(t, "b1")
	a, err := Push(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	b := newBroker(t, "")
	started, err := a.StartBroker(t.Context(), b.start())
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the agent's directory to be removed", func() bool {
		left, err := filepath.Glob(filepath.Join(home, "mqlift.*"))
		return err == nil && len(left) == 0
	})
	if alive, err := hostinfo.Alive(started.Process.ProcessID); !alive || err != nil {
		t.Errorf("the broker is alive: %v, %v", alive, err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("closing after the connection: %v", err)
	}
}

func TestOverSSHACopyIsMadeAndSurvivesNothingOfALostHost(t *testing.T) {
	_, from, _ := sshhosttest.Dial(t, "b1")
	cutServer, to, cutHome := sshhosttest.Dial(t, "b2")
	a, err := Push(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Push(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	source, target := t.TempDir(), t.TempDir()
	spec := storeSpec(source, target, newStore(t, source))
	if _, err := Copy(t.Context(), a, b, spec, nil); err != nil {
		t.Fatal(err)
	}
	same(t, source, target)

	spec.ToRoot, spec.BytesPerSecond = t.TempDir(), 300<<10
	began := time.Now()
	_, err = Copy(t.Context(), a, b, spec, func(Progress) { cutServer.Cut() })
	var failed *CopyError
	var lost *remote.TransientError
	if !errors.As(err, &failed) || failed.Source != nil || !errors.As(failed.Target, &lost) {
		t.Errorf("the target's connection was cut: %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	cutHostTidy(t, cutHome, spec.ToRoot)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestOverSSHADirectCopyIsMadeAndEndsWithItsConnection(t *testing.T) {
	_, from, _ := sshhosttest.Dial(t, "b1")
	cutServer, to, cutHome := sshhosttest.Dial(t, "b2")
	a, err := Push(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Push(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	source, target := t.TempDir(), t.TempDir()
	spec := directly(t, storeSpec(source, target, newStore(t, source)), link.Encrypted)
	all, err := Reach(t.Context(), []Station{{a, local(freePort(t)), freePort(t)}, {b, spec.Direct.Address, spec.Direct.Port}})
	if err != nil || len(all) != 2 || all[0].Err != nil || all[1].Err == nil {
		t.Fatalf("%+v, %v", all, err)
	}
	if r, err := Copy(t.Context(), a, b, spec, nil); err != nil || r.Wire < r.Bytes {
		t.Fatalf("%+v, %v", r, err)
	}
	same(t, source, target)

	// The data would go on: it is the lost connection to the target that ends it.
	spec.ToRoot, spec.BytesPerSecond = t.TempDir(), 300<<10
	_, err = Copy(t.Context(), a, b, spec, func(Progress) { cutServer.Cut() })
	var failed *CopyError
	var lost *remote.TransientError
	if !errors.As(err, &failed) || failed.Source != nil || failed.Between != nil || !errors.As(failed.Target, &lost) {
		t.Errorf("the target's connection was cut: %v", err)
	}
	released(t, spec.Direct.Port)
	cutHostTidy(t, cutHome, spec.ToRoot)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// cutHostTidy waits until a host whose connection was cut has no agent any more, and nothing half done below
// the root of a copy.
func cutHostTidy(t *testing.T, home, root string) {
	t.Helper()
	eventually(t, "the cut host to be tidy", func() bool {
		left, err := filepath.Glob(filepath.Join(home, "mqlift.*"))
		entries, listErr := listTree(t.Context(), ListRequest{Dir: root}, nil)
		clean := err == nil && listErr == nil && len(left) == 0
		for _, e := range entries {
			clean = clean && filepath.Base(e.Path)[0] != '.'
		}
		return clean
	})
	tidy(t, root)
}
