package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// interrupts is what Ctrl-C, SIGTERM and the loss of the terminal do. The first one stops the work at
// its next safe place; Ctrl-C or SIGTERM once more ends the program at once.
type interrupts struct {
	mu sync.Mutex
	// stopping says where the work stops, abandoned what is left of it when it is ended at once.
	stopping  func()
	abandoned func() string
}

// during makes f's the words for what is going on, until the function returned is called.
func (i *interrupts) during(stopping func(), abandoned func() string) (over func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopping, i.abandoned = stopping, abandoned
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.stopping, i.abandoned = nil, nil
	}
}

func (i *interrupts) words() (func(), func() string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.stopping, i.abandoned
}

// watch takes signals until the function returned is called.
func (i *interrupts) watch(stop func(), stderr io.Writer) (over func()) {
	signal.Ignore(syscall.SIGPIPE) // a closed terminal must not end an upgrade in the middle
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		stopped := false
		for {
			var s os.Signal
			select {
			case <-done:
				return
			case s = <-signals:
			}
			stopping, abandoned := i.words()
			switch {
			case !stopped:
				stopped = true
				stop()
				if stopping != nil {
					stopping()
				}
			case s == syscall.SIGHUP: // the terminal's end comes with, or after, another signal
			default:
				if abandoned != nil {
					fmt.Fprintf(stderr, "\nmqlift: %s\n", abandoned())
				}
				os.Exit(exitStopped)
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}
