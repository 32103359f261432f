package remote

import (
	"os"
	"path/filepath"
	"testing"
)

func FuzzClientConfigGivesAStationOrAnError(f *testing.F) {
	for _, s := range []string{
		"Host mq1\n  HostName 10.0.0.1\n  Port 2222\n  User rk\n  IdentityFile ~/.ssh/%h\n  ProxyJump b@bastion:22\n",
		"Host *\n Port x\n", "Match host mq1\n Port 1\n", "Host mq1\n ProxyJump mq1\n", "Include config\n", "\x00", "Host \"\n UserKnownHostsFile ~\n",
	} {
		f.Add([]byte(s))
	}
	home := f.TempDir()
	file := filepath.Join(home, "config")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := readClientConfig(file, home)
		if err != nil {
			return
		}
		st, err := c.station("mq1", Hop{Address: "mq1"}, Target{Name: "mq1"}, false)
		if err == nil && (st.Addr == "" || st.user == "") {
			t.Fatalf("a station without address or user: %+v", st)
		}
		if hops, err := c.jumps("mq1"); err == nil {
			for _, h := range hops {
				if h.Address == "" || h.Port < 0 || h.Port > 65535 {
					t.Fatalf("hop %+v", h)
				}
			}
		}
	})
}

func FuzzKnownHostsLetNobodyInByDamage(f *testing.F) {
	other, _ := newKey(f)
	f.Add([]byte("[10.0.0.1]:22 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE4/Qj4bUoZvHXgZ1zbV4pXo2v2Bz1kK9mJ6Zy3Yx8aB\n"))
	f.Add([]byte("@cert-authority * ssh-rsa AAAA\n"))
	f.Add([]byte("|1|a|b ssh-ed25519 x\n@revoked\n"))
	f.Add([]byte("\x00\xff"))
	file := filepath.Join(f.TempDir(), "known_hosts")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := station{Place: Place{Addr: "10.0.0.1:22"}, knownHosts: []string{file}}.hostKeys()
		if err != nil {
			return
		}
		k.algorithms()
		if err := k.check("10.0.0.1:22", addr("10.0.0.1:22"), other.PublicKey()); err == nil {
			t.Fatalf("a key that was made just now is known by %q", data)
		}
	})
}

type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }
