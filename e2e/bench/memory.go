package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"
)

// peaks is the most memory, in bytes, that the processes of a copy had resident: VmHWM of proc(5).
type peaks struct {
	Source       int64 `json:"source,omitempty"` // its agent
	Target       int64 `json:"target,omitempty"`
	Orchestrator int64 `json:"orchestrator,omitempty"` // this process, which does here what mqlift does
}

// watchMemory looks at the agents whose programs are in two folders, and at this process, until the function
// that it returns is called. An agent lives for one copy; it is looked at ten times a second.
func watchMemory(source, target string) func() (peaks, error) {
	debug.FreeOSMemory()
	reset := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // VmHWM begins anew
	var p peaks
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			programs, _ := filepath.Glob("/proc/[0-9]*/exe")
			for _, link := range programs {
				program, err := os.Readlink(link)
				if err != nil {
					continue // it has ended
				}
				for dir, most := range map[string]*int64{source: &p.Source, target: &p.Target} {
					if strings.HasPrefix(program, dir+"/") {
						if n, err := peakOf(filepath.Dir(link)); err == nil {
							*most = max(*most, n)
						}
					}
				}
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	return func() (peaks, error) {
		close(stop)
		<-done
		var err error
		p.Orchestrator, err = peakOf("/proc/self")
		return p, errors.Join(reset, err)
	}
}

// peakOf reads VmHWM of a process's folder in /proc.
func peakOf(proc string) (int64, error) {
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return 0, err
	}
	_, rest, found := bytes.Cut(status, []byte("\nVmHWM:"))
	var kib int64
	if _, err := fmt.Sscan(string(rest), &kib); !found || err != nil {
		return 0, fmt.Errorf("%s says nothing of VmHWM: %w", proc, err)
	}
	return kib << 10, nil
}
