// Package agenttest stands in for hosts that agents are put on, in this process: for tests of many hosts, or of
// hosts that this machine is not.
package agenttest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"mqlift/internal/agent"
)

// Host answers the command lines by which an agent is put in place and asked, as Run of an sshhost.Config. A
// line that it does not know fails.
type Host struct {
	Machine string // as `uname -m` says; empty: x86_64
	NoExec  bool   // nothing can be executed in its temporary folder
	// Programs tells programs apart; hosts may share one.
	Programs *Programs
	// Answer is what the agent answers to other verbs than hello and reach, as a value for JSON. It reaches
	// whatever it is asked to.
	Answer func(verb string, request json.RawMessage) (any, error)

	mu     sync.Mutex
	pushed string // SHA-256 of the program that was put here, in hex
}

// Programs remembers what SHA-256, in hex, the content of packed data has: to unpack 20 MB for each of hundreds of
// hosts takes longer than what is tested.
type Programs struct {
	mu      sync.Mutex
	content map[[sha256.Size]byte]string
}

// sum is the SHA-256 of what is packed.
func (p *Programs) sum(packed []byte) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := sha256.Sum256(packed)
	if sum, ok := p.content[key]; ok {
		return sum, nil
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	if p.content == nil {
		p.content = map[[sha256.Size]byte]string{}
	}
	p.content[key] = hex.EncodeToString(h.Sum(nil))
	return p.content[key], nil
}

// Pushed is the SHA-256, in hex, of the program that was put here last; empty for none.
func (h *Host) Pushed() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pushed
}

var verbOf = regexp.MustCompile(`/mqlift agent ([a-z-]+)$`)

// Run is a command's line with its input and outputs; it returns the exit status.
func (h *Host) Run(_ context.Context, line string, stdin io.Reader, stdout, stderr io.Writer) int {
	verb := verbOf.FindStringSubmatch(line)
	var err error
	switch {
	case strings.Contains(line, "uname -s; uname -m; command -v gzip"):
		machine := h.Machine
		if machine == "" {
			machine = "x86_64"
		}
		fmt.Fprintf(stdout, "Linux\n%s\n/usr/bin/gzip\n", machine)
	case strings.Contains(line, "mktemp -d"):
		status := 7
		if h.NoExec {
			status = 126
		}
		fmt.Fprintf(stdout, "guard %d /tmp/mqlift.stand-in\n", status)
		_, err = io.Copy(io.Discard, stdin)
	case strings.Contains(line, "gzip -dc >"):
		err = h.take(stdin)
	case verb != nil:
		var result any
		in := bufio.NewReader(stdin)
		if result, err = h.answer(verb[1], in, stdout); err == nil {
			err = json.NewEncoder(stdout).Encode(map[string]any{"result": result})
		}
	default:
		err = fmt.Errorf("an unexpected command: %s", line)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func (h *Host) take(packed io.Reader) error {
	data, err := io.ReadAll(packed)
	if err != nil {
		return err
	}
	sum, err := h.Programs.sum(data)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pushed = sum
	return nil
}

func (h *Host) answer(verb string, in *bufio.Reader, stdout io.Writer) (any, error) {
	request, err := in.ReadBytes('\n')
	if err != nil && verb != "hello" {
		return nil, fmt.Errorf("the request: %w", err)
	}
	switch verb {
	case "hello":
		return agent.Hello{SHA256: h.Pushed(), Clock: time.Now()}, nil
	case "reach":
		if err := json.NewEncoder(stdout).Encode(map[string]any{"meet": map[string]string{"pin": "stand-in"}}); err != nil {
			return nil, err
		}
		var peers []struct{ Host string }
		if err := json.NewDecoder(in).Decode(&peers); err != nil {
			return nil, err
		}
		reached := map[string]string{}
		for _, p := range peers {
			reached[p.Host] = ""
		}
		return reached, nil
	}
	return h.Answer(verb, request)
}
