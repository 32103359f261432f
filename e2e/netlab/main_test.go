package netlab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"mqlift/e2e/netlab"
)

// unable says why there is no network lab here.
var unable error

// victimVariable makes this program start a lab, tell of it, and wait to be killed.
const victimVariable = "MQLIFT_NETLAB_VICTIM"

func TestMain(m *testing.M) {
	unable = netlab.Enter(netlab.DefaultRelease)
	if unable != nil && !errors.Is(unable, netlab.ErrUnprivileged) {
		fmt.Fprintln(os.Stderr, unable)
		os.Exit(1)
	}
	if os.Getenv(victimVariable) != "" {
		victim()
	}
	code := m.Run()
	if unable != nil {
		line := strings.Repeat("*", 100)
		fmt.Printf("\n%s\nTHE NETWORK LAB WAS NOT RUN: %v.\n"+
			"Not tested here: the reference case on hosts with addresses, disks and SSH servers of their own, and what\n"+
			"happens when links are cut, slow or stalled, disks are full, and hosts are killed. Run as root: sudo make test\n%[1]s\n", line, unable)
	}
	os.Exit(code)
}

func victim() {
	l, err := netlab.Up(context.Background(), netlab.Options{Empty: true}, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Dir())
	select {}
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
