package view

import (
	"fmt"
	"io"

	"mqlift/internal/plan"
)

// DryRun prints what each step would do on which host.
func DryRun(w io.Writer, color bool, p *plan.Plan) {
	v := &Lines{W: w, Color: color}
	for _, s := range p.Stages {
		fmt.Fprintln(w, v.paint(bold, s.Name))
		for _, st := range s.Steps {
			for _, a := range st.Actions {
				host := a.Host
				if host == "" {
					host = "the group"
				}
				fmt.Fprintf(w, "  %-20s %-10s would %s\n", st.Name, host, a.Text)
			}
		}
	}
	fmt.Fprintln(w, "nothing was changed")
}
