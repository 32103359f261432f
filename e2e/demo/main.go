// Command demo shows the whole case on real brokers on this machine: a master/slave group with
// messages and traffic on it, moved to DLedger, and every promise held against what was measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"mqlift/e2e/refcase"
)

func main() {
	binary := flag.String("mqlift", "bin/mqlift", "the mqlift to use")
	keep := flag.Bool("keep", false, "leave the lab up")
	release := flag.String("release", "4.5.2", "RocketMQ release")
	dir := flag.String("dir", "", "folder for the lab and all files (default: a temporary one)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := demo(ctx, *binary, *dir, *release, *keep)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\nNOT ALL PROMISES HELD:\n%v\n", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, binary, dir, release string, keep bool) (err error) {
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "mqlift-demo-"); err != nil {
			return err
		}
		if !keep {
			defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		}
	}
	c, err := refcase.Up(ctx, refcase.Options{Binary: binary, Dir: dir, Release: release, Keep: keep, Out: os.Stdout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	r, err := c.Upgrade(ctx)
	if err != nil {
		return err
	}
	r.Print(os.Stdout)
	if err := r.Err(); err != nil {
		return err
	}
	fmt.Println("\nEvery promise held.")
	if keep {
		fmt.Printf("\nThe lab is still up. Play with it:\n  %[1]s status -t %[2]s\n  %[1]s failover -t %[2]s\n  %[1]s lab down --dir %[3]s\n", binary, c.Topology(), filepath.Join(dir, "lab"))
	}
	return nil
}
