package agent

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"mqlift/internal/diag"
)

// Builds are the builds of this mqlift for the platforms of the hosts: the running program for hosts like this
// machine, and for others the file mqlift-GOOS-GOARCH that lies beside it, as `make build` leaves it. Each is
// read and packed once, however many hosts get it. The zero value is ready, and safe for concurrent use.
type Builds struct {
	// Executable is the mqlift for this machine; empty: the running program.
	Executable string

	mu    sync.Mutex
	known map[string]*build // by platform
}

// build is one mqlift, as it is sent to hosts.
type build struct {
	once   sync.Once
	err    error // a *PlatformError without its host, or why the file cannot be read
	file   string
	sum    string // SHA-256 in hex
	packed []byte // by gzip
}

// PlatformError says that no mqlift is here that runs on the host.
type PlatformError struct {
	Host string
	Have string // what the host calls itself, GOOS/GOARCH
	File string // where the build for it was looked for; empty where there can be none
	Err  error  // what is wrong with that file
}

// Finding is the error for check. Check "host.platform".
func (e *PlatformError) Finding() diag.Finding {
	f := diag.Finding{Check: "host.platform", Severity: diag.Fail, Host: e.Host, Where: e.File,
		What: fmt.Sprintf("the host is %s, and mqlift works on Linux hosts only", e.Have), Do: "name another host in the topology"}
	if e.File == "" {
		return f
	}
	why := "there is no build for the host beside it"
	if !errors.Is(e.Err, fs.ErrNotExist) {
		why = "the build for the host cannot be used: " + e.Err.Error()
	}
	f.What = fmt.Sprintf("the host is %s, this mqlift is built for %s, and %s", e.Have, own(), why)
	system, machine, _ := strings.Cut(e.Have, "/")
	f.Do = fmt.Sprintf("put it there: `make build` does for amd64 and arm64, `CGO_ENABLED=0 GOOS=%s GOARCH=%s go build -trimpath -o %s ./cmd/mqlift` for any machine, from the same source", system, machine, filepath.Base(e.File))
	return f
}

func (e *PlatformError) Error() string { return e.Finding().String() }
func (e *PlatformError) Unwrap() error { return e.Err }

func own() string { return runtime.GOOS + "/" + runtime.GOARCH }

// executable is the path of the mqlift for this machine, beside which the other builds lie.
func (b *Builds) executable() (string, error) {
	if b.Executable != "" {
		return b.Executable, nil
	}
	file, err := os.Executable()
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(file); err == nil { // of Linux it is the file itself
		return real, nil
	}
	return file, nil
}

// find returns the build for a platform. Its error is a *PlatformError where none runs there.
func (b *Builds) find(platform string) (*build, error) {
	b.mu.Lock()
	found := b.known[platform]
	if found == nil {
		found = &build{}
		if b.known == nil {
			b.known = map[string]*build{}
		}
		b.known[platform] = found
	}
	b.mu.Unlock()
	found.once.Do(func() { found.err = b.load(found, platform) })
	return found, found.err
}

func (b *Builds) load(to *build, platform string) error {
	if !strings.HasPrefix(platform, "linux/") {
		return &PlatformError{Have: platform}
	}
	executable, err := b.executable()
	if err != nil {
		return err
	}
	if to.file = executable; platform != own() {
		to.file = filepath.Join(filepath.Dir(executable), "mqlift-"+strings.ReplaceAll(platform, "/", "-"))
		if err := sameSource(to.file, platform, executable); err != nil {
			return &PlatformError{Have: platform, File: to.file, Err: err}
		}
	}
	return to.pack()
}

// sameSource refuses a build for another platform than that one, or of another version than the running one:
// both ends of the protocol have to be the same program.
func sameSource(file, platform, executable string) error {
	theirs, err := buildinfo.ReadFile(file)
	if err != nil {
		return err
	}
	ours, err := buildinfo.ReadFile(executable)
	if err != nil {
		return err
	}
	setting := func(i *buildinfo.BuildInfo, key string) string {
		for _, s := range i.Settings {
			if s.Key == key {
				return s.Value
			}
		}
		return ""
	}
	if is := setting(theirs, "GOOS") + "/" + setting(theirs, "GOARCH"); is != platform {
		return fmt.Errorf("it is built for %s", is)
	}
	if theirs.Main.Version != ours.Main.Version { // with the commit, and whether there were changes
		return fmt.Errorf("it is mqlift %s, and this one is %s", theirs.Main.Version, ours.Main.Version)
	}
	return nil
}

func (b *build) pack() error {
	f, err := os.Open(b.file)
	if err != nil {
		return err
	}
	defer f.Close()
	var packed bytes.Buffer
	// The fastest level: the binary shrinks to half in a fraction of a second.
	w, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, sum), f); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	b.sum, b.packed = hex.EncodeToString(sum.Sum(nil)), bytes.Clone(packed.Bytes())
	return nil
}

// body is the build as it goes to a host, packed or as it is.
func (b *build) body(packed bool) (io.ReadCloser, error) {
	if packed {
		return io.NopCloser(bytes.NewReader(b.packed)), nil
	}
	return os.Open(b.file)
}
