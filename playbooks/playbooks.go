// Package playbooks holds the orders of work that are built into the binary.
package playbooks

import "embed"

// FS holds *.yaml, one playbook each, named after its file.
//
//go:embed *.yaml
var FS embed.FS
