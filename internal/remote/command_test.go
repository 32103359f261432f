package remote

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// words are what a shell may trip over, far more often than chance would have it.
func words() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.StringOf(rapid.RuneFrom([]rune("a '\"\\$`!*?[]{}~#&|;<>()=%-\n\t\r\x1b\u00e9\u2028"))),
		rapid.SampledFrom([]string{"", "-n", "--", "if", "$HOME", "~", "a b", "'", "''", `\`, "\n", "*", "=ls", "!!", "\xff\xfe"}),
	).Filter(func(s string) bool { return !strings.ContainsRune(s, 0) })
}

func TestArgumentsEnvironmentAndDirectoryArriveUnchanged(t *testing.T) {
	root := t.TempDir()
	sudo := filepath.Join(root, "sudo")
	if err := os.WriteFile(sudo, []byte("#!/bin/sh\n[ \"$1 $2\" = '-n --' ] || exit 99\nshift 2\nexec \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		args := rapid.SliceOfN(words(), 0, 6).Draw(rt, "arguments")
		value := words().Draw(rt, "value")
		dir, err := os.MkdirTemp(root, "dir")
		if err != nil {
			rt.Fatal(err)
		}
		name := words().Filter(func(s string) bool {
			return s != "" && s != "." && s != ".." && len(s) < 200 && !strings.Contains(s, "/") && !strings.HasSuffix(s, "\n")
		}).Draw(rt, "directory")
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			rt.Fatal(err)
		}
		c := Cmd{
			Argv: append([]string{"sh", "-c", `pwd; printf '%s\0' "$V" "$@"`, "sh"}, args...),
			Dir:  dir, Env: map[string]string{"V": value},
		}
		line, err := c.line(rapid.Bool().Draw(rt, "sudo"))
		if err != nil {
			rt.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", line)
		cmd.Env = append(os.Environ(), "PATH="+root+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			rt.Fatalf("%s: %v: %s", line, err, out)
		}
		where, rest, _ := strings.Cut(string(out), dir+"\n")
		want := append([]string{value}, args...)
		if got := strings.Split(strings.TrimSuffix(rest, "\x00"), "\x00"); where != "" || !slices.Equal(got, want) {
			rt.Fatalf("%s\ngave %q\nwant %q in %q", line, out, want, dir)
		}
	})
}

func TestCommandLines(t *testing.T) {
	env := map[string]string{"B": "two words", "A": "1"}
	for _, c := range []struct {
		name string
		cmd  Cmd
		sudo bool
		want string
	}{
		{"plain", Cmd{Argv: []string{"ls", "-l", "/a b"}}, false, `exec ls -l '/a b'`},
		{"shell line", Cmd{Shell: "a && b"}, false, `exec sh -c 'a && b'`},
		{"environment", Cmd{Argv: []string{"x"}, Env: env}, false, `exec env 'A=1' 'B=two words' x`},
		{"directory", Cmd{Argv: []string{"x"}, Dir: "/d"}, false, `cd /d && exec x`},
		{"directory like an option", Cmd{Argv: []string{"x"}, Dir: "-"}, false, `cd ./- && exec x`},
		{"sudo", Cmd{Argv: []string{"x"}, Env: env}, true, `exec sudo -n -- env 'A=1' 'B=two words' x`},
		{"sudo in a directory", Cmd{Argv: []string{"x"}, Dir: "/d"}, true, `exec sudo -n -- sh -c 'cd /d && exec x'`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.cmd.line(c.sudo)
			if err != nil || got != c.want {
				t.Errorf("got %s, %v\nwant %s", got, err, c.want)
			}
		})
	}
}

func TestCommandsThatCannotBeMeantAreRefused(t *testing.T) {
	for name, c := range map[string]Cmd{
		"nothing":            {},
		"empty program":      {Argv: []string{"", "a"}},
		"both":               {Argv: []string{"a"}, Shell: "b"},
		"an option":          {Argv: []string{"-n"}},
		"an assignment":      {Argv: []string{"A=b"}},
		"a NUL byte":         {Argv: []string{"a", "b\x00c"}},
		"too long":           {Argv: []string{"a", strings.Repeat("b", 1<<17)}},
		"no variable's name": {Argv: []string{"a"}, Env: map[string]string{"A B": ""}},
	} {
		if line, err := c.line(false); err == nil {
			t.Errorf("%s: accepted as %.100s", name, line)
		}
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	alphabet := rapid.StringOfN(rapid.RuneFrom([]rune("xyz'")), 3, 20, -1)
	rapid.Check(t, func(rt *rapid.T) {
		secrets := rapid.SliceOfN(alphabet, 1, 3).Draw(rt, "secrets")
		c := Cmd{Argv: []string{"login", "--password=" + secrets[0], "A" + secrets[len(secrets)-1] + "B"}, Secrets: secrets}
		tail := &tail{most: rapid.IntRange(1, 60).Draw(rt, "kept") + c.longestSecret()}
		said := ""
		for range rapid.IntRange(1, 5).Draw(rt, "times") {
			said += rapid.SampledFrom(secrets).Draw(rt, "said") + rapid.SampledFrom([]string{" ", "", "Q"}).Draw(rt, "gap")
		}
		for i := 0; i < len(said); i += 7 {
			io.WriteString(tail, said[i:min(len(said), i+7)])
		}
		for _, shown := range []string{c.String(), tail.text(c)} {
			for _, s := range secrets {
				if strings.Contains(shown, s) {
					rt.Fatalf("%q is in %q", s, shown)
				}
			}
		}
	})
}

func TestTheEndOfASecretIsNotShownWhereItsBeginningWasCutOff(t *testing.T) {
	c := Cmd{Secrets: []string{"correct-horse-battery"}}
	tail := &tail{most: 10 + c.longestSecret()}
	io.WriteString(tail, "xxxxxxxxxxxcorrect-horse-battery end of line")
	if got := tail.text(c); strings.Contains(got, "tter") || !strings.HasSuffix(got, "line") {
		t.Errorf("shown: %q", got)
	}
}

func FuzzProxyJump(f *testing.F) {
	for _, s := range []string{"a", "u@a:22", "ssh://u@[::1]:22/", "::1", "@", "a:0", "u@v@a", "[", "a:99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		hop, err := parseHop(s)
		if err == nil && (hop.Address == "" || hop.Port < 0 || hop.Port > 65535) {
			t.Errorf("%q read as %+v", s, hop)
		}
	})
}

func TestErrorsSayWhatMayBeTriedAgain(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&TransientError{Err: io.EOF}, true},
		{&UnreachableError{Err: io.EOF}, true},
		{&AuthError{}, false},
		{&HostKeyError{Problem: ErrHostKeyChanged}, false},
		{&ExitError{}, false},
		{errors.New("else"), false},
	} {
		if got := Transient(c.err); got != c.want {
			t.Errorf("%T: %v", c.err, got)
		}
	}
}
