package crowd

import (
	"crypto/sha256"
	"debug/elf"
	"debug/macho"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestEachHostGetsWhatMakeBuildsForItsMachine(t *testing.T) {
	bin, other := t.TempDir(), "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	if out, err := exec.CommandContext(t.Context(), "make", "-C", "../..", "build", "BIN="+bin).CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	files := map[string]string{runtime.GOARCH: filepath.Join(bin, "mqlift"), other: filepath.Join(bin, "mqlift-linux-"+other)}
	sums := map[string]string{}
	for arch, file := range files {
		sums[arch] = program(t, file, map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch])
	}

	c := newCrowd(t, 1)
	c.hosts[1].Machine = machines[other]
	if o := c.run(t, files[runtime.GOARCH], "check"); o.code != 0 {
		t.Fatalf("exit code %d\n%s%s", o.code, o.out, o.err)
	}
	for i, arch := range []string{runtime.GOARCH, other, runtime.GOARCH} {
		if c.hosts[i].Pushed() != sums[arch] {
			t.Errorf("a host that is %s did not get %s", arch, files[arch])
		}
	}

	// Every host that cannot run it is named at once, with what to do.
	if err := os.Remove(files[other]); err != nil {
		t.Fatal(err)
	}
	c.hosts[2].NoExec = true
	o := c.run(t, files[runtime.GOARCH], "check")
	if o.code != 3 || o.err != "" {
		t.Errorf("exit code %d\n%s", o.code, o.err)
	}
	for _, text := range []string{
		"host-000-b\n  FAIL  host.platform          the host is linux/" + other + ", this mqlift is built for linux/" + runtime.GOARCH + ", and there is no build for the host beside it (" + files[other] + ")\n",
		"→ put it there: `make build` does",
		"host-000-c\n  FAIL  host.noexec ", "→ mount it without noexec, or set TMPDIR",
		"0 passed, 0 to read, 2 failed",
	} {
		if !strings.Contains(o.out, text) {
			t.Errorf("it does not say %q:\n%s", text, o.out)
		}
	}
}

// program checks that a file is a program for the machine that needs nothing of the host, and returns its SHA-256.
func program(t *testing.T, file string, machine elf.Machine) string {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != machine || f.Type != elf.ET_EXEC {
		t.Errorf("%s is %v for %v", file, f.Type, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s needs a dynamic loader", file)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func TestABastionOfAnotherSystemHasTheBuildsForBothMachines(t *testing.T) {
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "make", "-C", "../..", "build", "BIN="+bin)
	build.Env = append(os.Environ(), "GOOS=darwin", "GOARCH=arm64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	f, err := macho.Open(filepath.Join(bin, "mqlift"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Cpu != macho.CpuArm64 {
		t.Errorf("mqlift is for %v", f.Cpu)
	}
	program(t, filepath.Join(bin, "mqlift-linux-amd64"), elf.EM_X86_64)
	program(t, filepath.Join(bin, "mqlift-linux-arm64"), elf.EM_AARCH64)
}
