package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// queueEntry is the size of a consume queue entry: offset 8, size 4, hash of the tag 8.
const queueEntry = 20

// MaxConsumeQueueOffset is the highest physical offset that the consume queues under a store's root
// reach: one past the last message that any of them refers to; -1 when they refer to none. A broker
// computes it at its start (ConsumeQueue.recover): queues that reach past the log's end are cut, and
// dispatch goes on from there.
func MaxConsumeQueueOffset(ctx context.Context, root string) (int64, error) {
	dir := filepath.Join(root, "consumequeue")
	topics, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("consume queues: %w", err)
	}
	reach := int64(-1)
	for _, topic := range topics {
		queues, err := os.ReadDir(filepath.Join(dir, topic.Name()))
		if err != nil {
			return 0, fmt.Errorf("consume queues: %w", err)
		}
		for _, queue := range queues {
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			end, err := consumeQueueReach(filepath.Join(dir, topic.Name(), queue.Name()))
			if err != nil {
				return 0, fmt.Errorf("consume queue of %s, queue %s: %w", topic.Name(), queue.Name(), err)
			}
			reach = max(reach, end)
		}
	}
	return reach, nil
}

// consumeQueueReach looks at one queue's last entry. Entries are written one after another into
// files that are zero beyond them, so the last one is found by halving.
func consumeQueueReach(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range slices.Backward(entries) { // ReadDir sorts by name
		if _, ok := ParseFileName(e.Name()); !ok {
			continue
		}
		end, err := lastEntry(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || end >= 0 {
			return end, err
		}
	}
	return -1, nil
}

func lastEntry(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	var failed error
	entry := func(i int) (offset int64, size int32) {
		var b [queueEntry]byte
		if _, err := f.ReadAt(b[:], int64(i)*queueEntry); err != nil {
			failed = errors.Join(failed, err)
		}
		return int64(binary.BigEndian.Uint64(b[:])), int32(binary.BigEndian.Uint32(b[8:]))
	}
	used := sort.Search(int(info.Size()/queueEntry), func(i int) bool {
		offset, size := entry(i)
		return offset < 0 || size <= 0 || failed != nil
	})
	if failed != nil || used == 0 {
		return -1, failed
	}
	offset, size := entry(used - 1)
	if offset == 0 && size == math.MaxInt32 {
		return -1, failed // filler before the first entry of a queue that does not begin at 0 (fillPreBlank)
	}
	return offset + int64(size), failed
}

// IndexFile is what the header of an index file says.
type IndexFile struct {
	Name        string    `json:"name"`
	Begin       time.Time `json:"begin"` // when the first message in it was stored
	End         time.Time `json:"end"`   // and the last one
	BeginOffset int64     `json:"beginOffset"`
	EndOffset   int64     `json:"endOffset"` // where the last message in it begins
	Slots       int32     `json:"slots"`     // hash slots in use
	Count       int32     `json:"count"`     // entries, plus one
}

// indexHeader is the size of an index file's header (IndexHeader).
const indexHeader = 40

// IndexFiles reads the headers of the index files under a store's root, by name. Without an index
// folder there are none. A file too short for a header is an error.
func IndexFiles(ctx context.Context, root string) ([]IndexFile, error) {
	dir := filepath.Join(root, "index")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	var files []IndexFile
	for _, e := range entries {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// Named by the time they were made, such as 20200101120000123; 5.x has other folders beside.
		if !e.Type().IsRegular() || len(e.Name()) != 17 || strings.Trim(e.Name(), "0123456789") != "" {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("index: %w", err)
		}
		var b [indexHeader]byte
		_, err = io.ReadFull(f, b[:])
		f.Close()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("index file %s: %w", f.Name(), errShortIndex)
		}
		if err != nil {
			return nil, fmt.Errorf("index: %w", err)
		}
		u64 := func(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }
		u32 := func(at int) int32 { return int32(binary.BigEndian.Uint32(b[at:])) }
		files = append(files, IndexFile{Name: e.Name(), Begin: time.UnixMilli(u64(0)), End: time.UnixMilli(u64(8)),
			BeginOffset: u64(16), EndOffset: u64(24), Slots: u32(32), Count: u32(36)})
	}
	return files, nil
}
