package netlab_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"mqlift/e2e/netlab"
)

// unable says why there is no network lab here.
var unable error

func TestMain(m *testing.M) {
	unable = netlab.Enter(netlab.DefaultRelease)
	if unable != nil && !errors.Is(unable, netlab.ErrUnprivileged) {
		fmt.Fprintln(os.Stderr, unable)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// inside skips a test where there can be no network lab.
func inside(t *testing.T) {
	t.Helper()
	if unable != nil {
		t.Skipf("NOT RUN: %v", unable)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
