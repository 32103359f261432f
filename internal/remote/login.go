package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// login offers a station's keys: those of its identity files (from ssh-agent where it holds them),
// then the agent's others.
type login struct {
	at       station
	signers  []ssh.Signer
	tried    []string // parallel to signers
	locked   []string // identity files with a passphrase that the agent does not hold
	problems []string // what else could not be used
	agent    net.Conn // nil: none

	began   bool     // the host key was accepted and the host asked for a login
	methods []string // what the host takes
	partial []string // what it has accepted and wants more than
}

func (s station) login(ctx context.Context) (*login, error) {
	l := &login{at: s}
	held := l.openAgent(ctx)
	used := make([]bool, len(held))
	fromAgent := func(key ssh.PublicKey) ssh.Signer {
		i := slices.IndexFunc(held, func(s ssh.Signer) bool {
			return string(s.PublicKey().Marshal()) == string(key.Marshal())
		})
		if i < 0 {
			return nil
		}
		used[i] = true
		return held[i]
	}
	for _, id := range s.identities {
		data, err := os.ReadFile(id.file)
		if err != nil {
			if id.declared {
				l.close()
				return nil, l.refuse(fmt.Errorf("read the private key: %w", err), "name a private key that can be read")
			}
			if !errors.Is(err, fs.ErrNotExist) {
				l.problems = append(l.problems, err.Error())
			}
			continue
		}
		signer, err := ssh.ParsePrivateKey(data)
		var locked *ssh.PassphraseMissingError
		switch {
		case errors.As(err, &locked):
			key := locked.PublicKey
			if key == nil { // PEM has no public half inside: ssh keeps it beside
				if pub, err := os.ReadFile(id.file + ".pub"); err == nil {
					key, _, _, _, _ = ssh.ParseAuthorizedKey(pub)
				}
			}
			if key != nil {
				if signer = fromAgent(key); signer != nil {
					l.offer(signer, id.file+" in ssh-agent")
					continue
				}
			}
			l.locked = append(l.locked, id.file)
		case err != nil:
			err = fmt.Errorf("%s is no private key: %w", id.file, err)
			if id.declared {
				l.close()
				return nil, l.refuse(err, "name a private key (not the .pub beside it)")
			}
			l.problems = append(l.problems, err.Error())
		default:
			fromAgent(signer.PublicKey()) // not twice: hosts count attempts (MaxAuthTries)
			l.offer(signer, id.file)
		}
	}
	if !s.onlyThese {
		for i, signer := range held {
			if !used[i] {
				l.offer(signer, "ssh-agent")
			}
		}
	}
	if len(l.signers) == 0 {
		l.close()
		return nil, l.refused(errors.New("no private key to offer"))
	}
	return l, nil
}

func (l *login) openAgent(ctx context.Context) []ssh.Signer {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		l.problems = append(l.problems, "no ssh-agent (SSH_AUTH_SOCK is not set)")
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		l.problems = append(l.problems, fmt.Sprintf("ssh-agent does not answer: %v", err))
		return nil
	}
	l.agent = conn
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	held, err := agent.NewClient(conn).Signers()
	if err != nil {
		l.problems = append(l.problems, fmt.Sprintf("ssh-agent gives no keys: %v", err))
	}
	return held
}

func (l *login) offer(s ssh.Signer, from string) {
	l.signers = append(l.signers, s)
	l.tried = append(l.tried, fmt.Sprintf("%s (%s)", fingerprint(s.PublicKey()), from))
}

func (l *login) close() {
	if l.agent != nil {
		l.agent.Close()
	}
}

// progress is called by x/crypto before each attempt and tells what the host takes, which its error
// texts do not.
func (l *login) progress(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	l.began, l.methods, l.partial = true, c.AllowedMethods, c.PartialSuccessMethods
	return nil, nil
}

// refused is the error for a login that did not come about.
func (l *login) refused(err error) *AuthError {
	if len(l.locked) > 0 {
		files := strings.Join(l.locked, " ")
		e := l.refuse(fmt.Errorf("%w: %s", ErrPassphrase, files),
			"run ssh-agent in this shell and `ssh-add "+files+"`")
		return e
	}
	switch {
	case len(l.partial) > 0:
		return l.refuse(fmt.Errorf("the host wants %s after the key", strings.Join(l.methods, " or ")),
			"allow key logins alone for this user on the host")
	case l.began && !slices.Contains(l.methods, "publickey"):
		return l.refuse(fmt.Errorf("the host takes only %s, and only keys are supported", strings.Join(l.methods, ", ")),
			"allow PubkeyAuthentication for this user on the host")
	case len(l.signers) == 0:
		return l.refuse(err, "name an identity file, or run ssh-agent and `ssh-add` the key")
	}
	return l.refuse(err, fmt.Sprintf("put the public key into %s's authorized_keys on the host, or name another user or key", l.at.user))
}

func (l *login) refuse(err error, do string) *AuthError {
	what := fmt.Sprintf("log in as %s: %v", l.at.user, err)
	if len(l.tried) > 0 {
		what += "; offered " + strings.Join(l.tried, ", ")
	}
	if len(l.problems) > 0 {
		what += "; " + strings.Join(l.problems, ", ")
	}
	return &AuthError{Place: l.at.Place, User: l.at.user, Tried: l.tried, What: what, Do: do, Err: err}
}
