package main

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/diag"
	"mqlift/internal/fleet"
	"mqlift/internal/topology"
)

// groupsAtOnce is how many broker groups are looked at side by side: of three hosts each, they fill a fleet.
const groupsAtOnce = 16

// groups are the broker groups that a command which only looks is asked about: the one that is named, or all.
func (t *target) groups(d declared) ([]*topology.Group, error) {
	if t.Group != "" {
		g, err := d.topology.Group(t.Group)
		if err != nil {
			return nil, &usageError{err}
		}
		return []*topology.Group{g}, nil
	}
	var all []*topology.Group
	for i := range d.topology.Groups {
		all = append(all, &d.topology.Groups[i])
	}
	return all, nil
}

// seen is what came of looking at one group. Findings that are its error bear the group's name.
type seen[T any] struct {
	group *topology.Group
	value T
	err   error
}

// lookAt connects to one group after the other, as many side by side as a fleet has room for, and closes each
// when it has been looked at. What was seen comes in the groups' order.
func lookAt[T any](ctx context.Context, d declared, groups []*topology.Group, look func(*session, context.Context) (T, error)) iter.Seq[seen[T]] {
	return func(yield func(seen[T]) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var names [][]string
		results := make([]chan seen[T], len(groups))
		for i, g := range groups {
			names = append(names, hostsOf(g))
			results[i] = make(chan seen[T], 1)
		}
		hosts := fleet.New(fleet.DefaultLimits(), names...)
		done := make(chan struct{})
		go func() {
			defer close(done)
			var eg errgroup.Group
			eg.SetLimit(groupsAtOnce)
			for i, g := range groups {
				eg.Go(func() error {
					v, err := lookAtOne(ctx, d, hosts, g, look)
					results[i] <- seen[T]{g, v, err}
					return nil
				})
			}
			_ = eg.Wait()     // errors are the groups' own
			_ = hosts.Close() // what is left after Ctrl-C; its agents go with the connections in any case
		}()
		defer func() { cancel(); <-done }()
		for _, r := range results {
			if !yield(<-r) {
				return
			}
		}
	}
}

func lookAtOne[T any](ctx context.Context, d declared, hosts *fleet.Fleet, g *topology.Group, look func(*session, context.Context) (T, error)) (v T, err error) {
	s, err := d.connect(ctx, hosts, g, nil)
	if err == nil {
		v, err = look(s, ctx)
		err = errors.Join(err, s.Close())
	}
	var found *diag.Error
	if errors.As(err, &found) {
		of(g, found.Findings)
	}
	return v, err
}

// of writes the group's name into findings.
func of(g *topology.Group, found diag.Findings) {
	for i := range found {
		found[i].Group = g.Name
	}
}

// failures are what went wrong in several groups.
type failures []error

// add takes an error of one group of several, unless it is nil.
func (l *failures) add(g *topology.Group, err error) {
	var shown *shownError
	if err != nil && !errors.As(err, &shown) {
		err = fmt.Errorf("broker group %s: %w", g.Name, err)
	}
	if err != nil {
		*l = append(*l, err)
	}
}

// err is one error for all: those that have not been shown, if there are any.
func (l failures) err(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var unseen []error
	for _, err := range l {
		if shown := (*shownError)(nil); !errors.As(err, &shown) {
			unseen = append(unseen, err)
		}
	}
	if len(unseen) == 0 && len(l) > 0 {
		return l[0]
	}
	return errors.Join(unseen...)
}
