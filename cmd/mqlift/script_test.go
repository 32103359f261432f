package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"mqlift/internal/lab/sshhost"
	"mqlift/internal/message"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mqlift": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			// Nothing of the machine that the tests run on: no keys, no ~/.ssh/config, no earlier runs.
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_STATE_HOME", e.WorkDir+"/state")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "fill": fill, "closedports": closedPorts, "sshhosts": sshHosts,
			"makestore": makeStore, "turnbyte": turnByte,
		},
	})
}

// exits CODE COMMAND… runs a command that must end with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// fill FILE replaces $NAME in a file by the script's variables.
func fill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fill FILE")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
}

// closedports NAME… sets each variable to a port of 127.0.0.1 on which nothing listens.
func closedPorts(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		defer l.Close() // all at once, so that no port is given twice
		ts.Setenv(name, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
}

// sshhosts NAME… starts hosts that let user operator in with the key file id, writes that and a key
// file stranger, known_hosts with all of them, and sets NAME to each one's port. Their homes are
// folders of that name.
func sshHosts(ts *testscript.TestScript, neg bool, args []string) {
	operator := newKeyFile(ts, "id")
	newKeyFile(ts, "stranger")
	var known strings.Builder
	for _, name := range args {
		hostKey := newKeyFile(ts, name+".hostkey")
		home := ts.MkAbs(name + ".home")
		ts.Check(os.Mkdir(home, 0o700))
		h, err := sshhost.Listen(sshhost.Config{
			Name: name, Address: "127.0.0.1:0", User: "operator", Authorized: operator.PublicKey(), HostKey: hostKey,
			Home: home, Env: []string{"PATH=/usr/bin:/bin", "HOME=" + home, "TMPDIR=" + home},
		})
		ts.Check(err)
		ts.Defer(func() { h.Close() })
		ts.Setenv(name, strconv.Itoa(h.Port()))
		known.WriteString(knownhosts.Line([]string{h.Address()}, hostKey.PublicKey()) + "\n")
	}
	ts.Check(os.WriteFile(ts.MkAbs("known_hosts"), []byte(known.String()), 0o600))
}

func newKeyFile(ts *testscript.TestScript, name string) ssh.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	block, err := ssh.MarshalPrivateKey(key, name)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(name), pem.EncodeToMemory(block), 0o600))
	signer, err := ssh.NewSignerFromKey(key)
	ts.Check(err)
	return signer
}

// makestore DIR COUNT writes a store with that many messages of topic orders, keyed k0, k1, …, in one
// queue, as a stopped broker leaves it.
func makeStore(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: makestore DIR COUNT")
	}
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	var log, queue []byte
	for i := range count {
		at := len(log)
		log = message.Append(log, message.Message{
			Topic: "orders", QueueOffset: int64(i), PhysicalOffset: int64(at), Body: []byte("body"),
			Born: time.UnixMilli(1577836800000), Stored: time.UnixMilli(1577836800000 + int64(i)),
			BornHost: netip.MustParseAddrPort("10.0.0.9:5000"), StoreHost: netip.MustParseAddrPort("10.0.0.1:10911"),
			Properties: map[string]string{message.PropertyKeys: fmt.Sprintf("k%d", i)},
		})
		queue = binary.BigEndian.AppendUint64(queue, uint64(at))
		queue = binary.BigEndian.AppendUint32(queue, uint32(len(log)-at))
		queue = binary.BigEndian.AppendUint64(queue, 0)
	}
	for name, data := range map[string][]byte{
		"commitlog/00000000000000000000":             append(log, make([]byte, 64<<10-len(log))...),
		"consumequeue/orders/0/00000000000000000000": append(queue, make([]byte, 20_000-len(queue))...),
		"config/topics.json":                         []byte(`{"dataVersion":{"counter":1},"topicConfigTable":{"orders":{"perm":6}}}`),
	} {
		path := filepath.Join(ts.MkAbs(args[0]), name)
		ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
		ts.Check(os.WriteFile(path, data, 0o644))
	}
}

// turnbyte FILE OFFSET turns all bits of one byte.
func turnByte(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: turnbyte FILE OFFSET")
	}
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	data[at] ^= 0xff
	ts.Check(os.WriteFile(path, data, 0o644))
}
