//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// newLabCommand says that there is no lab here: it keeps hold of its processes as only Linux lets it.
func newLabCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "lab",
		Short: "Run a real RocketMQ group to try an upgrade on (on Linux)",
		RunE: func(*cobra.Command, []string) error {
			return &usageError{errors.New("a lab runs on Linux only")}
		},
	}
}
