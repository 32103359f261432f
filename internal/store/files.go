package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mqlift/internal/diag"
)

// LogFile is one file of a commit log. Bytes unless said otherwise.
type LogFile struct {
	Name      string    `json:"name"`      // 20 digits: the physical offset of its first byte
	Base      int64     `json:"base"`      // the name as a number
	Size      int64     `json:"size"`      // its length, holes included
	Allocated int64     `json:"allocated"` // what it takes on disk
	Modified  time.Time `json:"modified"`  // retention goes by it
	Empty     bool      `json:"empty"`     // nothing but zeros: prepared for later by the broker
	Messages  int64     `json:"messages"`  // found by Inspect in the walked range
}

// FileName is the name of the commit log or consume queue file that begins at that offset.
func FileName(offset int64) string { return fmt.Sprintf("%020d", offset) }

// ParseFileName is the reverse of FileName; false for any other name.
func ParseFileName(name string) (int64, bool) {
	if len(name) != 20 {
		return 0, false
	}
	for _, c := range []byte(name) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	base, err := strconv.ParseInt(name, 10, 64)
	return base, err == nil
}

// List reads which files a commit log folder holds, by name, without reading them. fileSize is the
// length that each must have (mappedFileSizeCommitLog); 0 takes the length that most of them have.
// What a broker would stumble over at its start becomes a finding, and is not in the list; the
// length that was used is returned. A missing folder is fs.ErrNotExist.
func List(dir string, fileSize int64) ([]LogFile, int64, diag.Findings, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("commit log: %w", err)
	}
	var files []LogFile
	var findings diag.Findings
	fail := func(check, name, what, do string) {
		findings.Add(diag.Finding{Check: check, Severity: diag.Fail, Where: filepath.Join(dir, name), What: what, Do: do})
	}
	lengths := map[int64]int{}
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted by retention since ReadDir
		}
		if err != nil {
			return nil, 0, nil, fmt.Errorf("commit log: %w", err)
		}
		base, ok := ParseFileName(entry.Name())
		if ok && beingMade(info) {
			continue
		}
		if !ok || !info.Mode().IsRegular() {
			fail("store.junk", entry.Name(), "this is no commit log file, and a broker does not start with it in the folder",
				"move it out of the folder")
			continue
		}
		f := LogFile{Name: entry.Name(), Base: base, Size: info.Size(), Modified: info.ModTime()}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			f.Allocated = st.Blocks * 512
		}
		files = append(files, f)
		if f.Size > 0 {
			lengths[f.Size]++
		}
	}
	if fileSize == 0 {
		for length, n := range lengths {
			if n > lengths[fileSize] || n == lengths[fileSize] && length > fileSize {
				fileSize = length
			}
		}
	}

	// MappedFileQueue.load (4.5.2, 4.9.7, 5.3.3): one file of another length and the broker does not
	// start (exit 253). A gap is only logged there, and reading across it fails.
	kept := files[:0]
	for _, f := range files {
		switch {
		case f.Size != fileSize || f.Size == 0:
			fail("store.length", f.Name, fmt.Sprintf("this file has %d bytes, a commit log file has %d here, and a broker does not start with it", f.Size, fileSize),
				"compare mappedFileSizeCommitLog in broker.conf; if that is right, bring the file from another copy, or move it away when no message is in it")
			continue
		case f.Base%fileSize != 0:
			fail("store.alignment", f.Name, fmt.Sprintf("the file's offset is no multiple of its length %d", fileSize),
				"find out whether mappedFileSizeCommitLog was changed; such a log cannot be upgraded")
		case len(kept) > 0 && kept[len(kept)-1].Base+fileSize != f.Base:
			fail("store.gap", f.Name, fmt.Sprintf("the file before it is %s: files are missing between them", kept[len(kept)-1].Name),
				"bring the missing files back from another copy")
		}
		kept = append(kept, f)
	}
	return kept, fileSize, findings, nil
}

// beingMade tells a file that a running broker has just created and not yet given its length
// (MappedFile.init, 4.5.2, maps it a moment later).
func beingMade(info fs.FileInfo) bool {
	return info.Size() == 0 && info.Mode().IsRegular() && time.Since(info.ModTime()) < justNow
}

// dataFrom is where the first data at or after pos stands according to the file system; size when
// there is none. Everything before it is a hole. File systems that know of no holes report pos.
func dataFrom(f *os.File, pos, size int64) (int64, error) {
	if pos >= size {
		return size, nil
	}
	at, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, nil
	}
	if errors.Is(err, unix.EINVAL) { // not supported
		return pos, nil
	}
	if err != nil {
		return 0, &fs.PathError{Op: "seek data", Path: f.Name(), Err: err}
	}
	return min(at, size), nil
}

// holeFrom is where the data that stands at pos ends.
func holeFrom(f *os.File, pos, size int64) (int64, error) {
	at, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_HOLE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENXIO) {
		return size, nil
	}
	if err != nil {
		return 0, &fs.PathError{Op: "seek hole", Path: f.Name(), Err: err}
	}
	return min(at, size), nil
}
