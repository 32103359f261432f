package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"mqlift/e2e/wait"
	"mqlift/internal/rocketmq"
)

// oldGroup is what the old group must be again after everything was undone: files, settings, roles.
func (g *ground) oldGroup(ctx context.Context) (map[string]string, error) {
	m := map[string]string{}
	for _, h := range []role{master, slave} {
		data, err := os.ReadFile(g.conf(h))
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(g.conf(h))
		if err != nil {
			return nil, err
		}
		m[g.conf(h)] = info.Mode().String() + "\n" + string(data)
		live, err := g.broker(h).Config(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.member(h).Name, err)
		}
		m[g.member(h).Name+" configuration"] = fmt.Sprint(live) // maps are printed in order
	}
	for _, ns := range g.NameServers() {
		info, err := g.client.NameServers([]string{ns}).ClusterInfoAt(ctx, ns)
		if err != nil {
			return nil, err
		}
		m["name server "+ns] = fmt.Sprint(info)
	}
	return m, nil
}

// isBack expects the old group as it was: files, roles, routes that allow sends, a slave that follows,
// and nothing on the empty host.
func (t *trial) isBack(ctx context.Context) error {
	err := wait.Until(ctx, time.Minute, "files, settings and roles to be as before", func(ctx context.Context) error {
		now, err := t.oldGroup(ctx)
		if err != nil {
			return err
		}
		for name, was := range t.keep {
			if now[name] != was {
				return fmt.Errorf("%s was\n%s\nand is\n%s", name, was, now[name])
			}
		}
		for _, ns := range t.NameServers() {
			route, err := t.client.NameServers([]string{ns}).RouteAt(ctx, ns, topic)
			if err != nil {
				return err
			}
			for _, q := range route.Queues {
				if q.Perm&rocketmq.PermWrite == 0 {
					return fmt.Errorf("name server %s gives %+v", ns, q)
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for r := range roles {
		// A broker that is told to change its settings leaves one; the lab begins without.
		if _, err := os.Stat(t.conf(r) + ".bak"); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is left with a broker.conf.bak (%v)", t.member(r).Name, err)
		}
	}
	if err := t.slaveFollows(ctx); err != nil {
		return err
	}
	pids, err := t.pids(empty, "broker")
	if err == nil && len(pids) > 0 {
		err = fmt.Errorf("a broker runs on %s: process %d", t.member(empty).Name, pids[0])
	}
	return err
}

// unlocked looks for what a run must not leave on a host.
func (t *trial) unlocked(ctx context.Context) error {
	for r := range roles {
		h := t.member(r)
		if _, err := os.Stat(filepath.Join(h.InstallDir, ".mqlift", group+".lock")); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is still locked (%v)", h.Name, err)
		}
		// A host learns of a connection that a pulled cable took when it sends, as late again as the cable was out.
		err := wait.Until(ctx, time.Minute, "helper programs to be gone from "+h.Name, func(context.Context) error {
			left, err := filepath.Glob(filepath.Join(h.Tmp, "mqlift.*"))
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("its temporary folder holds %v", left)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
