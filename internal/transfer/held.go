package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/store"
)

// Held is what a target has of a file already: a digest for each stretch of it, so that the source sends only
// what differs. Times and lengths alone would not do, since a broker writes to mapped files, whose times lag.
type Held struct {
	Path string `json:"path"` // below the root
	Size int64  `json:"size"` // of the file
	// From and To are the positions that the digests are of; stretches end where a multiple of stretch does.
	From    int64    `json:"from,omitempty"`
	To      int64    `json:"to"`
	Digests [][]byte `json:"digests"`
}

// stretch is what is sent whole when anything in it differs, in bytes.
const stretch = 1 << 20

// Holds looks at what root has of trees and commit log ranges, for Spec.Held. Holes are not read, and what is not
// there is left out.
func Holds(ctx context.Context, root string, trees []string, logs []LogRange) ([]Held, error) {
	var all []Held
	for _, tree := range trees {
		if !filepath.IsLocal(tree) {
			return nil, fmt.Errorf("%q is no path below the root", tree)
		}
		top := filepath.Join(root, tree)
		if resolved, err := filepath.EvalSymlinks(top); err == nil { // as extraInTree has it
			top = resolved
		}
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(top, path)
			if err == nil {
				all = append(all, Held{Path: filepath.Join(tree, rel), Size: info.Size(), To: info.Size()})
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, l := range logs {
		if !filepath.IsLocal(l.Dir) {
			return nil, fmt.Errorf("%q is no path below the root", l.Dir)
		}
		entries, err := os.ReadDir(filepath.Join(root, l.Dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			base, ok := store.ParseFileName(e.Name())
			info, err := e.Info()
			if !ok || err != nil || !info.Mode().IsRegular() {
				continue
			}
			size := info.Size()
			from, to := min(max(l.From-base, 0), size), min(max(l.To-base, 0), size)
			if from < to {
				all = append(all, Held{Path: filepath.Join(l.Dir, e.Name()), Size: size, From: from, To: to})
			}
		}
	}
	group, alive := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range all {
		group.Go(func() error { return all[i].read(alive, root) })
	}
	if err := group.Wait(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("what is in %s already: %w", root, err)
	}
	slices.SortFunc(all, func(a, b Held) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

func (h *Held) read(ctx context.Context, root string) error {
	f, err := os.Open(filepath.Join(root, h.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, maxData)
	for from, to := range stretches(h.From, h.To) {
		sum, err := digestOf(ctx, f, from, to, buf)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		h.Digests = append(h.Digests, sum)
	}
	return nil
}

// stretches are those of from..to, in their order.
func stretches(from, to int64) func(yield func(from, to int64) bool) {
	return func(yield func(from, to int64) bool) {
		for from < to {
			end := min(to, (from/stretch+1)*stretch)
			if !yield(from, end) {
				return
			}
			from = end
		}
	}
}

// digestOf is one of the pages that are not zero, each with its place: whatever holes there are, and however
// they are read.
func digestOf(ctx context.Context, f *os.File, from, to int64, buf []byte) ([]byte, error) {
	sum := sha256.New()
	var place [8]byte
	err := eachData(ctx, f, from, to, buf, func(at int64, b []byte) error {
		for len(b) > 0 {
			n := min(len(b), page-int(at%page))
			if !bytes.Equal(b[:n], zeros[:n]) {
				binary.BigEndian.PutUint64(place[:], uint64(at))
				sum.Write(place[:])
				sum.Write(b[:n])
			}
			at, b = at+int64(n), b[n:]
		}
		return nil
	})
	return sum.Sum(nil)[:16], err
}

// held is what the target has of a file, as far as it is about the same positions; nil: nothing.
func (s *sender) held(path string, size, from, to int64) *Held {
	i, ok := slices.BinarySearchFunc(s.Held, path, func(h Held, path string) int { return strings.Compare(h.Path, path) })
	if !ok {
		return nil
	}
	if h := &s.Held[i]; h.Size == size && h.From == from && h.To == to {
		return h
	}
	return nil
}

// sendDiffering is sendData for a part of a file that the target has: stretches that are the same there stay.
func (s *sender) sendDiffering(f *os.File, from, to int64, h *Held) error {
	i := 0
	for from, to := range stretches(from, to) {
		same, err := s.same(f, from, to, h, i)
		if i++; err != nil {
			return err
		}
		if same {
			s.stats.Kept += to - from
			err = s.out.write(frameKeep, binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(from)), uint64(to)))
		} else {
			err = s.sendRuns(f, from, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) same(f *os.File, from, to int64, h *Held, i int) (bool, error) {
	if i >= len(h.Digests) {
		return false, nil
	}
	sum, err := digestOf(s.ctx, f, from, to, s.buf)
	return bytes.Equal(sum, h.Digests[i]), err
}

// whole tells whether the target has all of a file.
func (s *sender) whole(f *os.File, size int64, h *Held) (bool, error) {
	i := 0
	for from, to := range stretches(0, size) {
		if same, err := s.same(f, from, to, h, i); !same || err != nil {
			return false, err
		}
		i++
	}
	return true, nil
}
