package transfer

import (
	"os"

	"golang.org/x/sys/unix"
)

// clone makes dst share the blocks of src, on file systems that can.
func clone(dst, src *os.File) error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }

// copyInKernel copies up to n bytes at one place of both files, without a buffer here.
func copyInKernel(dst, src *os.File, at int64, n int) (int, error) {
	in, out := at, at
	return unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, n, 0)
}

// pastCache opens a file so that its data goes to disk past the page cache.
const pastCache = unix.O_DIRECT

// beginWriting has the disk begin with what was written, and does not wait.
func beginWriting(f *os.File, at, length int64) {
	unix.SyncFileRange(int(f.Fd()), at, length, unix.SYNC_FILE_RANGE_WRITE)
}
