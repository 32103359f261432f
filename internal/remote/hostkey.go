package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// hostKeys checks the host key of one station against its known_hosts files.
type hostKeys struct {
	at    station
	files []string // those that exist
	db    *knownhosts.HostKeyDB
	// verdict is kept beside the error that x/crypto returns, because a refused key comes back
	// through the handshake, wrapped or not.
	verdict *HostKeyError
}

func (s station) hostKeys() (*hostKeys, error) {
	k := &hostKeys{at: s}
	for _, f := range s.knownHosts {
		switch _, err := os.Stat(f); {
		case err == nil:
			k.files = append(k.files, f)
		case s.mustExist && errors.Is(err, fs.ErrNotExist):
			return nil, k.refuse(ErrKnownHostsInvalid, nil, fmt.Sprintf("there is no %s, which the topology names as known_hosts file", f),
				"name the right file, or put the host keys that you have compared into that one")
		case s.mustExist:
			return nil, k.refuse(ErrKnownHostsInvalid, nil, fmt.Sprintf("read known_hosts: %v", err),
				"make the file one that you may read, or name the right one in the topology")
		}
	}
	var err error
	if k.db, err = knownhosts.NewDB(k.files...); err != nil {
		return nil, k.refuse(ErrKnownHostsInvalid, nil, fmt.Sprintf("read known_hosts: %v", err),
			"mend or remove the line")
	}
	return k, nil
}

// algorithms are the key types that known_hosts has for the station, so that the host shows one of
// the keys that can be checked and not another one it also has. None when it is not known.
func (k *hostKeys) algorithms() []string { return k.db.HostKeyAlgorithms(k.at.Addr) }

func (k *hostKeys) check(hostname string, remote net.Addr, key ssh.PublicKey) error {
	err := k.db.HostKeyCallback()(hostname, remote, key)
	if err == nil {
		return nil
	}
	var revoked *xknownhosts.RevokedError
	var other *xknownhosts.KeyError
	shown := "it shows " + fingerprint(key)
	switch {
	case errors.As(err, &revoked):
		k.verdict = k.refuse(ErrHostKeyRevoked, key,
			fmt.Sprintf("host key is revoked in %s:%d; %s", revoked.Revoked.Filename, revoked.Revoked.Line, shown),
			"do not go on: whoever revoked the key knows why; the host needs a new one")
	case errors.As(err, &other) && len(other.Want) > 0:
		k.verdict = k.changed(key, shown)
	case errors.As(err, &other):
		k.verdict = k.refuse(ErrHostKeyUnknown, key, "host key is not known; "+shown,
			fmt.Sprintf("compare it with `ssh-keygen -lf` of /etc/ssh/ssh_host_*_key.pub on the host, then add it to %s: %s",
				k.writeTo(), k.line(key)))
	default: // a host certificate that does not hold, for instance
		k.verdict = k.refuse(ErrHostKeyChanged, key, fmt.Sprintf("host key is not accepted: %v; %s", err, shown),
			"check the host's certificate and the @cert-authority lines in "+strings.Join(k.files, ", "))
	}
	return k.verdict
}

// changed is the verdict on a host that is known by other keys.
func (k *hostKeys) changed(key ssh.PublicKey, shown string) *HostKeyError {
	known := k.known()
	return k.refuse(ErrHostKeyChanged, key,
		fmt.Sprintf("host key is not the one in %s; %s", strings.Join(known, ", "), shown),
		fmt.Sprintf("find out why before going on (host set up anew, address moved, or somebody in between); "+
			"when it is right, `ssh-keygen -R %s -f %s` and add the new key",
			shellQuote(xknownhosts.Normalize(k.at.Addr)), fileOf(known[0])))
}

// noCommonKey is the verdict when the host offers no key of the types known for it: it is known, and
// by what it shows now it is not the same.
func (k *hostKeys) noCommonKey(offered []string) *HostKeyError {
	return k.changed(nil, "it has none of that type, only "+strings.Join(offered, ", "))
}

func (k *hostKeys) refuse(problem error, key ssh.PublicKey, what, do string) *HostKeyError {
	e := &HostKeyError{Place: k.at.Place, Problem: problem, Files: k.at.knownHosts, What: what, Do: do}
	if key != nil {
		e.Fingerprint = fingerprint(key)
	}
	if k.db != nil {
		e.Known = k.known()
	}
	return e
}

// known are the station's entries, file:line.
func (k *hostKeys) known() []string {
	var places []string
	err := k.db.HostKeyCallback()(k.at.Addr, &net.TCPAddr{IP: net.IPv4zero}, noKey{})
	if other := (*xknownhosts.KeyError)(nil); errors.As(err, &other) {
		for _, w := range other.Want {
			places = append(places, fmt.Sprintf("%s:%d", w.Filename, w.Line))
		}
	}
	return places
}

// writeTo is the file to which a new key belongs.
func (k *hostKeys) writeTo() string {
	if len(k.at.knownHosts) > 0 {
		return k.at.knownHosts[0]
	}
	return "known_hosts"
}

func (k *hostKeys) line(key ssh.PublicKey) string {
	return knownhosts.Line([]string{k.at.Addr}, key)
}

func fingerprint(key ssh.PublicKey) string { return key.Type() + " " + ssh.FingerprintSHA256(key) }

func fileOf(place string) string { return place[:strings.LastIndex(place, ":")] }

// noKey is no host's key: asking about it lists the keys that are known.
type noKey struct{}

func (noKey) Type() string                            { return "none" }
func (noKey) Marshal() []byte                         { return []byte("none") }
func (noKey) Verify(_ []byte, _ *ssh.Signature) error { return errors.New("not a key") }
