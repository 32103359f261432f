package brokerconf

import (
	"errors"
	"strings"
	"testing"

	"mqlift/internal/corpus"
)

// What is said about the files of testdata/faulty on a host at 10.0.0.1 that is to run 4.5.2, or what
// the first line says (# release 5.3.3).
func TestEachFaultOfABrokerConfIsSaidWithItsPlace(t *testing.T) {
	corpus.Run(t, "testdata/faulty/*.conf", func(t *testing.T, input []byte) string {
		data := corpus.Expand(t, input)
		f, err := Parse("broker.conf", data)
		var syntax *SyntaxError
		if errors.As(err, &syntax) {
			return err.Error()
		}
		if err != nil {
			t.Fatal(err)
		}
		release := "4.5.2"
		if first, _, _ := strings.Cut(string(data), "\n"); strings.HasPrefix(first, "# release ") {
			release = strings.TrimPrefix(first, "# release ")
		}
		found := f.Findings(Site{Host: "mq1", Release: release, Home: "/root", Addresses: []string{"10.0.0.1"}})
		if strings.Contains(list(found), "sword") {
			t.Error("a secret is shown")
		}
		return corpus.Findings(t, data, found)
	})
}
