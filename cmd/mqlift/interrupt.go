package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// interrupts is what Ctrl-C, SIGTERM and the loss of the terminal do. The first one stops the work at
// its next safe place; Ctrl-C or SIGTERM once more ends the program at once. The loss of the terminal
// counts as neither: it comes together with a SIGTERM when a session ends.
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
		stopped, asked := false, false
		for {
			var s os.Signal
			select {
			case <-done:
				return
			case s = <-signals:
			}
			stopping, abandoned := i.words()
			if asked && s != syscall.SIGHUP {
				leave(stderr, abandoned)
			}
			asked = asked || s != syscall.SIGHUP
			if stopped {
				continue
			}
			stopped = true
			stop()
			if stopping != nil {
				go stopping() // a terminal that takes nothing must not keep the second one from being heard
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// leave ends the program, and says before, as far as somebody reads it, what is left.
func leave(stderr io.Writer, abandoned func() string) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		if abandoned != nil {
			fmt.Fprintf(stderr, "\nmqlift: %s\n", abandoned())
		}
	}()
	select {
	case <-said:
	case <-time.After(time.Second):
	}
	os.Exit(exitStopped)
}
