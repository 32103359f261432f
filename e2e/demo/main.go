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
	logFileSize := flag.String("log-file-size", "", "size of a commit log file (default: the lab's)")
	bodySize := flag.Int("body-size", 0, "bytes of the application's messages (default: as short as their keys)")
	java := flag.Bool("java", false, "an application in Java sends and consumes beside the one in Go")
	dir := flag.String("dir", "", "folder for the lab and all files (default: a temporary one)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := demo(ctx, *dir, refcase.Options{Binary: *binary, Release: *release, LogFileSize: *logFileSize, BodySize: *bodySize, Java: *java, Keep: *keep, Out: os.Stdout})
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\nNOT ALL PROMISES HELD:\n%v\n", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, dir string, o refcase.Options) (err error) {
	if o.Binary, err = filepath.Abs(o.Binary); err != nil {
		return err
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "mqlift-demo-"); err != nil {
			return err
		}
		if !o.Keep {
			defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		}
	}
	o.Dir = dir
	on, err := refcase.Loopback(ctx, o)
	if err != nil {
		return err
	}
	c, err := refcase.Up(ctx, on, o)
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
	if o.Keep {
		fmt.Printf("\nThe lab is still up. Play with it:\n  %[1]s status -t %[2]s\n  %[1]s failover -t %[2]s\n  %[1]s lab down --dir %[3]s\n", o.Binary, c.Topology, filepath.Join(dir, "lab"))
	}
	return nil
}
