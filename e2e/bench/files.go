package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
)

const commitLog = "commitlog"

// files is a folder that looks like a broker's store to whoever copies it.
type files struct {
	dir                 string
	trees               []string // beside the commit log
	logFileSize, logEnd int64
	apparent, allocated int64
}

// writeFiles writes a store of a size in bytes. A dense one is commit log files full of messages. A sparse
// one is what a broker with default settings has at 4 GiB (files of 1 GiB, the last but one half full and
// the last only prepared; consume queues of 6 MB, a tenth of each in use; an index file of 420 MB with a
// fifth of its entries), and smaller in proportion. The contents are random.
func writeFiles(dir, kind string, size int64) (files, error) {
	s := files{dir: dir, logFileSize: min(size/4, 1<<30)}
	count := size / s.logFileSize
	s.logEnd = count * s.logFileSize
	if kind == "sparse" {
		s.logEnd -= s.logFileSize * 3 / 2
		s.trees = []string{"consumequeue", "index"}
		for queue := range max(8*size>>30, 1) {
			if err := writeFile(filepath.Join(dir, "consumequeue/orders", fmt.Sprint(queue), fmt.Sprintf("%020d", 0)), 6_000_000, 600_000); err != nil {
				return s, err
			}
		}
		index := 420_000_000 * size >> 32
		if err := writeFile(filepath.Join(dir, "index/20260101000000000"), index, index/20+index/5); err != nil {
			return s, err
		}
	}
	for i := range count {
		base := i * s.logFileSize
		if err := writeFile(filepath.Join(dir, commitLog, fmt.Sprintf("%020d", base)), s.logFileSize, min(max(s.logEnd-base, 0), s.logFileSize)); err != nil {
			return s, err
		}
	}
	syscall.Sync() // before it is known how much is allocated
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			s.apparent += info.Size()
			s.allocated += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	return s, err
}

// writeFile writes a file that begins with so many random bytes and goes on as a hole.
func writeFile(name string, size, used int64) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%32.32s", filepath.Base(name))))), used); err != nil {
		return err
	}
	return f.Close()
}

// compare reads a copy against the store. What holds nothing, as a prepared commit log file, need not be there.
func (s files) compare(ctx context.Context, copied string) error {
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	return filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(s.dir, name)
		if err != nil {
			return err
		}
		source, err := os.Open(name)
		if err != nil {
			return err
		}
		defer source.Close()
		target, err := os.Open(filepath.Join(copied, rel))
		if errors.Is(err, fs.ErrNotExist) {
			if info, err := d.Info(); err == nil && info.Sys().(*syscall.Stat_t).Blocks == 0 {
				return nil
			}
		}
		if err != nil {
			return err
		}
		defer target.Close()
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := io.ReadFull(source, a)
			m, _ := io.ReadFull(target, b)
			if !bytes.Equal(a[:n], b[:m]) {
				return fmt.Errorf("the copy of %s differs", rel)
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
}
