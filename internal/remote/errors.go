package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"mqlift/internal/diag"
)

// Place is the machine that a message is about.
type Place struct {
	Host string // the topology's name of the host that is to be reached
	Addr string // address:port of the machine in question
	Jump bool   // that machine is a jump host on the way, not the host itself
}

func (p Place) String() string {
	if p.Jump {
		return fmt.Sprintf("%s: jump host (%s)", p.Host, p.Addr)
	}
	return fmt.Sprintf("%s (%s)", p.Host, p.Addr)
}

func (p Place) finding(check, what, do string) diag.Finding {
	where := p.Addr
	if p.Jump {
		where = "jump host " + p.Addr
	}
	return diag.Finding{Check: check, Severity: diag.Fail, Host: p.Host, Where: where, What: what, Do: do}
}

// UnreachableError: no connection came about: refused, no answer in time, name unknown, cut before
// the login. Check "ssh.connect".
type UnreachableError struct {
	Place
	Doing string // what was being done
	Do    string // what to do about it
	Err   error
}

func (e *UnreachableError) Finding() diag.Finding {
	return e.finding("ssh.connect", e.Doing+": "+e.Err.Error(), e.Do)
}
func (e *UnreachableError) Error() string { return e.Finding().String() }
func (e *UnreachableError) Unwrap() error { return e.Err }

// The ways in which a host key is not accepted, for errors.Is.
var (
	ErrHostKeyUnknown    = errors.New("host key is not known")
	ErrHostKeyChanged    = errors.New("host key is not the known one")
	ErrHostKeyRevoked    = errors.New("host key is revoked")
	ErrKnownHostsInvalid = errors.New("known_hosts cannot be read")
)

// HostKeyError: the machine did not prove to be the one that known_hosts knows. Check "ssh.hostkey".
type HostKeyError struct {
	Place
	Problem     error    // ErrHostKeyUnknown, ErrHostKeyChanged, ErrHostKeyRevoked or ErrKnownHostsInvalid
	Fingerprint string   // what the host showed, "ssh-ed25519 SHA256:…"; empty when it showed nothing
	Known       []string // the entries for the host, file:line
	Files       []string // the known_hosts files in use
	What, Do    string
}

func (e *HostKeyError) Finding() diag.Finding { return e.finding("ssh.hostkey", e.What, e.Do) }
func (e *HostKeyError) Error() string         { return e.Finding().String() }
func (e *HostKeyError) Unwrap() error         { return e.Problem }

// ErrPassphrase: a private key is protected by a passphrase and ssh-agent does not hold it.
var ErrPassphrase = errors.New("private key is protected by a passphrase")

// AuthError: the machine did not let the user in, or no key could be used. Check "ssh.auth".
type AuthError struct {
	Place
	User  string
	Tried []string // the keys offered, with where they came from
	What  string
	Do    string
	Err   error // may be ErrPassphrase
}

func (e *AuthError) Finding() diag.Finding { return e.finding("ssh.auth", e.What, e.Do) }
func (e *AuthError) Error() string         { return e.Finding().String() }
func (e *AuthError) Unwrap() error         { return e.Err }

// SFTPError: commands may run on the host, but its SFTP server could not be started. Check "ssh.sftp".
type SFTPError struct {
	Place
	Sudo   bool
	Stderr string // what starting it said
	Do     string
	Err    error
}

func (e *SFTPError) Finding() diag.Finding {
	what := "start SFTP"
	if e.Sudo {
		what += " through sudo"
	}
	what += ": " + e.Err.Error()
	if e.Stderr != "" {
		what += ": " + lastLines(e.Stderr)
	}
	return e.finding("ssh.sftp", what, e.Do)
}
func (e *SFTPError) Error() string { return e.Finding().String() }
func (e *SFTPError) Unwrap() error { return e.Err }

// TransientError: the connection was lost, or the host had no room for another session, in the
// middle of something. It is not known how much of that happened.
type TransientError struct {
	Place
	Doing string
	Err   error
}

func (e *TransientError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Place, e.Doing, e.Err) }
func (e *TransientError) Unwrap() error { return e.Err }

// Transient tells whether trying again may help: a lost connection, or a host that does not answer
// (yet). An unknown name, a host key or a refused login do not change by themselves.
func Transient(err error) bool {
	var name *net.DNSError
	if errors.As(err, &name) && name.IsNotFound {
		return false
	}
	var lost *TransientError
	var unreachable *UnreachableError
	return errors.As(err, &lost) || errors.As(err, &unreachable)
}

// ExitError: the command ran and failed.
type ExitError struct {
	Host   string
	Addr   string
	Cmd    string // as shown: secrets blanked, long ones shortened
	Status int    // -1 when a signal ended it
	Signal string // without SIG, such as KILL
	Stderr string // the last 64 KiB, secrets blanked
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Status)
	if e.Signal != "" {
		how = "ended by signal " + e.Signal
	}
	s := fmt.Sprintf("%s (%s): %s: %s", e.Host, e.Addr, e.Cmd, how)
	if e.Stderr != "" {
		s += ": " + lastLines(e.Stderr)
	}
	return s
}

// lastLines is the end of what a program said, short enough for an error message.
func lastLines(s string) string {
	const lines, size = 4, 1024
	s = strings.TrimSpace(strings.ReplaceAll(s, "\r", ""))
	if len(s) > size {
		s = "…" + strings.ToValidUTF8(s[len(s)-size:], "")
	}
	all := strings.Split(s, "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, " | ")
}

// ended is why ctx ended: always its Err, with the cause where one was given.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(ctx.Err(), cause) {
		return fmt.Errorf("%w: %w", ctx.Err(), cause)
	}
	return ctx.Err()
}
