package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Ledger is a dledger-<selfId> folder below a store's root: what a peer keeps there, read from the
// files as they lie.
type Ledger struct {
	Path string `json:"path"`
	// Divided is the name of the first data file: where the peer believes the old commit log to end,
	// whatever that log says (DLedgerCommitLog.recover, 4.5.2). -1: there is no data file yet.
	Divided int64 `json:"divided"`
	// Entries counts what the peer has appended; each is a message that it has taken.
	Entries int64 `json:"entries"`
	// First and Last are when the first and the last of the messages were stored; zero: not known.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
}

// An index entry is magic 4, position 8, size 4, index 8, term 8; a data entry has 48 bytes before its
// body, which is a message (DLedgerEntryCoder, dledger 0.1 to 0.3).
const (
	ledgerIndexUnit  = 32
	ledgerBodyOffset = 48
	// storeTimestampOffset is where a stored message with IPv4 addresses has its time: magic, CRC, queue,
	// flag, both offsets, system flag, born time and host come before (CommitLog, 4.5.2).
	storeTimestampOffset = 56
	sysFlagOffset        = 36
	bornHostV6           = 0x10 // MessageSysFlag.BORNHOST_V6_FLAG, from 4.7.0 on
)

// readLedger looks at a dledger folder. What is not there yet counts as empty.
func readLedger(dir string) (Ledger, error) {
	l := Ledger{Path: dir, Divided: -1}
	data, err := numbered(filepath.Join(dir, "data"))
	if err != nil {
		return l, err
	}
	if len(data) > 0 {
		l.Divided = data[0]
	}
	index, err := numbered(filepath.Join(dir, "index"))
	if err != nil {
		return l, err
	}
	var first, last []byte
	for _, start := range index {
		f, head, tail, n, err := ledgerIndex(filepath.Join(dir, "index"), start)
		if err != nil {
			return l, err
		}
		f.Close()
		if n == 0 {
			break
		}
		if first == nil {
			first = head
		}
		last = tail
		l.Entries = start/ledgerIndexUnit + n // files of an index are named by their offset in it
	}
	if len(index) > 0 {
		l.Entries -= index[0] / ledgerIndexUnit
	}
	if l.Entries > 0 {
		l.First = ledgerTime(dir, data, first)
		l.Last = ledgerTime(dir, data, last)
	}
	return l, nil
}

// ledgerIndex finds by bisection how many entries an index file holds: they are written in order into
// a file of zeros, and no entry's magic is 0.
func ledgerIndex(dir string, start int64) (f *os.File, first, last []byte, n int64, err error) {
	f, err = os.Open(filepath.Join(dir, fmt.Sprintf("%020d", start)))
	if err != nil {
		return nil, nil, nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, nil, 0, err
	}
	entry := make([]byte, ledgerIndexUnit)
	written := func(i int64) bool {
		_, rerr := f.ReadAt(entry, i*ledgerIndexUnit)
		if rerr != nil && !errors.Is(rerr, io.EOF) {
			err = errors.Join(err, rerr)
		}
		return rerr == nil && binary.BigEndian.Uint32(entry) != 0
	}
	low, high := int64(0), st.Size()/ledgerIndexUnit
	for low < high {
		if mid := (low + high) / 2; written(mid) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low > 0 && written(0) {
		first = slices.Clone(entry)
	}
	if low > 0 && written(low-1) {
		last = slices.Clone(entry)
	}
	if err != nil {
		f.Close()
	}
	return f, first, last, low, err
}

// ledgerTime is when the message of an index entry was stored; zero when that cannot be read.
func ledgerTime(dir string, files []int64, entry []byte) time.Time {
	if entry == nil {
		return time.Time{}
	}
	pos := int64(binary.BigEndian.Uint64(entry[4:]))
	i, there := slices.BinarySearch(files, pos)
	if !there {
		i--
	}
	if i < 0 {
		return time.Time{}
	}
	f, err := os.Open(filepath.Join(dir, "data", fmt.Sprintf("%020d", files[i])))
	if err != nil {
		return time.Time{}
	}
	defer f.Close()
	message := make([]byte, 128)
	if n, _ := f.ReadAt(message, pos-files[i]+ledgerBodyOffset); n < len(message) {
		return time.Time{}
	}
	at := storeTimestampOffset
	if binary.BigEndian.Uint32(message[sysFlagOffset:])&bornHostV6 != 0 {
		at += 12
	}
	if ms := int64(binary.BigEndian.Uint64(message[at:])); ms > 0 {
		return time.UnixMilli(ms).UTC()
	}
	return time.Time{}
}

// numbered lists the files of a folder that are named by an offset, in order; none when there is no
// such folder.
func numbered(dir string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var l []int64
	for _, e := range entries {
		if name := e.Name(); len(name) == 20 && strings.Trim(name, "0123456789") == "" {
			n, err := strconv.ParseInt(name, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
			}
			l = append(l, n)
		}
	}
	return l, nil
}
