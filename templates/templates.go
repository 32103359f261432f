// Package templates holds the files that mqlift writes or prints for operators, as they are read.
package templates

import "embed"

//go:embed topology.yaml broker.conf
var files embed.FS

// Topology is the commented example of a topology, for `mqlift init`.
func Topology() []byte { return read("topology.yaml") }

// BrokerConf is the commented block of what mqlift sets in broker.conf, and why.
func BrokerConf() []byte { return read("broker.conf") }

func read(name string) []byte {
	data, err := files.ReadFile(name)
	if err != nil {
		panic(err) // it is in the binary, or the binary does not build
	}
	return data
}
