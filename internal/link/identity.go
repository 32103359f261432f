package link

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// Identity is a one-time key. It never leaves the process.
type Identity struct {
	certificate tls.Certificate
	pin         string
}

// NewIdentity makes a key and its certificate, which nobody else has signed.
func NewIdentity() (*Identity, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	// Without names or times, which nobody looks at: clocks may differ.
	form := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, public, private)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	return &Identity{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, pinOf(der)}, nil
}

// Pin is what the other end has to be told: the SHA-256 of the certificate, in hex.
func (i *Identity) Pin() string { return i.pin }

func pinOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

var errStranger = errors.New("its certificate is not the one announced for this copy")

// config takes the peers with these pins and nobody else.
func (i *Identity) config(pins []string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{i.certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // no authority, no name: VerifyConnection looks at the pin
		SessionTicketsDisabled: true, // Plain leaves TLS after the handshake: nothing of it may come later
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !slices.Contains(pins, pinOf(s.PeerCertificates[0].Raw)) {
				return errStranger
			}
			return nil
		},
		// Whole records from the first byte on.
		DynamicRecordSizingDisabled: true,
	}
}

// whose is the index of the peer's pin.
func whose(t *tls.Conn, pins []string) int {
	return slices.Index(pins, pinOf(t.ConnectionState().PeerCertificates[0].Raw))
}
