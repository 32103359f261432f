package agent

import (
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"mqlift/internal/diag"
	"mqlift/internal/remote"
)

// machines are the platforms that there are builds for, as `uname -m` and ELF call them.
var machines = map[string]struct {
	uname string
	elf   elf.Machine
}{
	"amd64": {"x86_64", elf.EM_X86_64},
	"arm64": {"aarch64", elf.EM_AARCH64},
}

// otherMachine is the one of them that this test does not run on.
func otherMachine() string {
	if runtime.GOARCH == "amd64" {
		return "arm64"
	}
	return "amd64"
}

// program is a main package under version control, of which builds are made in a folder beside.
type program struct {
	t        *testing.T
	src, bin string
}

func newProgram(t *testing.T) program {
	t.Helper()
	p := program{t, t.TempDir(), t.TempDir()}
	for name, text := range map[string]string{"go.mod": "module program\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(p.src, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.run("git", "init", "-q")
	p.commit()
	return p
}

func (p program) run(name string, args ...string) {
	p.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = p.src
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func (p program) commit() {
	p.t.Helper()
	p.run("git", "add", ".")
	p.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "--allow-empty", "-m", "t")
}

// build makes a build for an architecture under that name.
func (p program) build(arch, name string) string {
	p.t.Helper()
	file := filepath.Join(p.bin, name)
	p.run("env", "GOOS=linux", "GOARCH="+arch, "go", "build", "-o", file, ".")
	return file
}

// like is a host that uname calls so, and says what it is given to run.
func like(system, machine string, pushed func(file string)) *localHost {
	return &localHost{name: "b1", rewrite: func(c *remote.Cmd) {
		switch {
		case strings.Contains(strings.Join(c.Argv, " "), "uname -s"):
			*c = remote.Cmd{Argv: []string{"printf", system + `\n` + machine + `\n/bin/gzip\n`}}
		case len(c.Argv) == 3 && c.Argv[1] == "agent" && pushed != nil:
			pushed(c.Argv[0])
		}
	}}
}

func TestAHostGetsTheBuildForItsMachine(t *testing.T) {
	p := newProgram(t)
	builds := &Builds{Executable: p.build(runtime.GOARCH, "mqlift")}
	p.build(otherMachine(), "mqlift-linux-"+otherMachine())
	for arch, m := range machines {
		var got elf.Machine
		host := like("Linux", m.uname, func(file string) {
			f, err := elf.Open(file)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			got = f.Machine
		})
		if _, err := Push(t.Context(), host, From(builds), WithParent(t.TempDir())); err == nil {
			t.Errorf("%s: it is no agent, and answered", arch)
		}
		if got != m.elf {
			t.Errorf("a host that is %s got a program for %v", m.uname, got)
		}
	}
}

func TestAHostWithoutABuildIsRefusedWithWhatToDo(t *testing.T) {
	p := newProgram(t)
	builds := func() *Builds { return &Builds{Executable: filepath.Join(p.bin, "mqlift")} }
	p.build(runtime.GOARCH, "mqlift")
	other := otherMachine()
	beside := filepath.Join(p.bin, "mqlift-linux-"+other)
	refused := func(name string, host *localHost, file string, said ...string) *PlatformError {
		t.Helper()
		parent := t.TempDir()
		_, err := Push(t.Context(), host, From(builds()), WithParent(parent))
		var platform *PlatformError
		if !errors.As(err, &platform) {
			t.Fatalf("%s: %v", name, err)
		}
		f := platform.Finding()
		t.Log(f)
		if f.Check != "host.platform" || f.Severity != diag.Fail || f.Host != "b1" || f.Where != file {
			t.Errorf("%s: %+v", name, f)
		}
		for _, text := range said {
			if !strings.Contains(f.What+"; "+f.Do, text) {
				t.Errorf("%s: %s\nit does not say %q", name, f, text)
			}
		}
		if left, _ := os.ReadDir(parent); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
		return platform
	}
	arch := like("Linux", machines[other].uname, nil)

	e := refused("no build", arch, beside, "the host is linux/"+other, "this mqlift is built for linux/"+runtime.GOARCH,
		"there is no build for the host", "GOARCH="+other+" go build")
	if !errors.Is(e, fs.ErrNotExist) {
		t.Errorf("%v is not that there is no file", e.Err)
	}
	refused("an unknown machine", like("Linux", "s390x", nil), filepath.Join(p.bin, "mqlift-linux-s390x"), "GOARCH=s390x")
	refused("a machine that Go calls otherwise", like("Linux", "armv7l", nil), filepath.Join(p.bin, "mqlift-linux-arm"), "GOARCH=arm ")
	refused("not Linux", like("Darwin", "arm64", nil), "", "the host is darwin/arm64, and mqlift works on Linux hosts only")

	p.build(runtime.GOARCH, filepath.Base(beside))
	refused("the wrong machine's", arch, beside, "it is built for linux/"+runtime.GOARCH)

	p.commit()
	p.build(other, filepath.Base(beside))
	refused("another version", arch, beside, "it is mqlift ", "and this one is ", "from the same source")
}
