package remote

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Linux refuses a single argument of more than 128 KiB (MAX_ARG_STRLEN), and the whole line is one
// argument of the login shell.
const maxLine = 128<<10 - 1

// Cmd is a command as a value; quoting happens in one place, when it is run. Exactly one of Argv
// and Shell is set.
//
// The command line, Env included, can be seen in the host's process list: give secrets to a
// command through Stdin.
type Cmd struct {
	Argv  []string          // the program and its arguments, passed on unchanged
	Shell string            // a shell line that the operator gave, run by `sh -c`
	Dir   string            // where it runs; relative to the login directory; empty: there
	Env   map[string]string // set in front of the command by env(1)

	Stdin  io.Reader // nil: empty
	Stdout io.Writer // nil: collected in the Result, up to 16 MiB

	// Secrets are blanked out wherever the command or its standard error is shown.
	Secrets []string
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// line is the command for the host's login shell, of which no more is asked than cd, && and exec.
// exec leaves no shell between sshd and the program, so that signals reach it.
func (c Cmd) line(sudo bool) (string, error) {
	argv := c.Argv
	switch {
	case len(argv) > 0 && c.Shell != "":
		return "", fmt.Errorf("both an argument list and a shell line are given")
	case c.Shell != "":
		argv = []string{"sh", "-c", c.Shell}
	case len(argv) == 0 || argv[0] == "":
		return "", fmt.Errorf("no program is given")
	case strings.HasPrefix(argv[0], "-") || strings.Contains(argv[0], "="):
		// sudo and env take the first for an option and the second for an assignment.
		return "", fmt.Errorf("program name %q starts with - or contains =", argv[0])
	}
	if len(c.Env) > 0 {
		env := []string{"env"}
		for _, k := range slices.Sorted(maps.Keys(c.Env)) {
			if !envName.MatchString(k) {
				return "", fmt.Errorf("%q is not a name for an environment variable", k)
			}
			env = append(env, k+"="+c.Env[k])
		}
		argv = append(env, argv...)
	}
	dir := c.Dir
	if dir != "" && !strings.HasPrefix(dir, "/") {
		dir = "./" + dir // cd - and CDPATH have other ideas
	}
	line := "exec " + shellQuote(argv...)
	if dir != "" {
		line = "cd " + shellQuote(dir) + " && " + line
	}
	if sudo {
		if dir != "" { // root may enter where the user may not
			argv = []string{"sh", "-c", line}
		}
		line = "exec sudo -n -- " + shellQuote(argv...)
	}
	if strings.ContainsRune(line, 0) {
		return "", fmt.Errorf("a command cannot hold a NUL byte")
	}
	if len(line) > maxLine {
		return "", fmt.Errorf("the command is %d bytes long, more than %d: give data through Stdin", len(line), maxLine)
	}
	return line, nil
}

// String is the command as people see it: secrets blanked, long ones shortened.
func (c Cmd) String() string {
	const most = 400
	shown := c.Shell
	if shown == "" {
		blanked := make([]string, len(c.Argv))
		for i, a := range c.Argv {
			blanked[i] = c.blank(a)
		}
		shown = shellQuote(blanked...)
	}
	shown = c.blank(shown)
	if len(shown) > most {
		shown = strings.ToValidUTF8(shown[:most], "") + "…"
	}
	return "`" + shown + "`"
}

const blanked = "[secret]"

// blank replaces the secrets in s, also where a shell shows them quoted.
func (c Cmd) blank(s string) string {
	secrets := slices.Clone(c.Secrets)
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) }) // one may hold another
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		if q := strings.ReplaceAll(secret, "'", `'\''`); q != secret {
			s = strings.ReplaceAll(s, q, blanked)
		}
		s = strings.ReplaceAll(s, secret, blanked)
	}
	return s
}

// longestSecret is the length in bytes of the longest form that blank looks for.
func (c Cmd) longestSecret() int {
	n := 0
	for _, s := range c.Secrets {
		n = max(n, len(strings.ReplaceAll(s, "'", `'\''`)))
	}
	return n
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:,@+-]+$`)

// shellQuote writes words so that a POSIX shell reads exactly them.
func shellQuote(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if plainWord.MatchString(w) {
			quoted[i] = w
		} else {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
