package topology

import (
	"testing"

	"mqlift/internal/corpus"
	"mqlift/internal/diag"
)

func TestEachFaultIsSaidWithItsPosition(t *testing.T) {
	corpus.Run(t, "testdata/*.yaml", func(t *testing.T, input []byte) string {
		return corpus.Findings(t, input, findingsOf("topology.yaml", input))
	})
}

// findingsOf are all findings, where Parse has warnings only when nothing failed.
func findingsOf(name string, text []byte) diag.Findings {
	l := &loader{reader: reader{file: name}}
	l.topology(text)
	return l.findings()
}
