package plan

import (
	"fmt"
	"strings"

	"mqlift/internal/diag"
)

// rebuild is what is to be known of building consume queues and index from the log instead of carrying them;
// nothing where that was not asked for.
func (p *Plan) rebuild() diag.Findings {
	var found diag.Findings
	switch {
	case !p.RebuildIndex:
	case strings.HasPrefix(p.Release, "4."):
		found.Add(diag.Finding{Check: "plan.rebuild", Severity: diag.Warn,
			What: "consume queues and index are built from the whole log while sends are refused, so that the outage grows with the store",
			Do:   "leave --rebuild-index out unless you do not trust those that are there: carried ones are compared with the log first"})
	default:
		found.Add(diag.Finding{Check: "plan.rebuild", Severity: diag.Fail,
			What: fmt.Sprintf("a broker of %s does not build consume queues from the log (recheckReputOffsetFromCq): its messages would be in no queue", p.Release),
			Do:   "leave --rebuild-index out"})
	}
	return found
}
