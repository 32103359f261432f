package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"mqlift/internal/store"
)

// withSpace adds to a full disk's error how much room there is and how much more is needed, which is need
// or more, in bytes. Any other error is returned as it is.
func withSpace(err error, root string, need int64) error {
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	if failed := (*fs.PathError)(nil); errors.As(err, &failed) {
		root = failed.Path
	}
	free := "an unknown number of"
	if st := (unix.Statfs_t{}); unix.Statfs(root, &st) == nil || unix.Statfs(filepath.Dir(root), &st) == nil {
		free = fmt.Sprint(int64(st.Bavail) * int64(st.Bsize)) //nolint:unconvert // 32 bits wide elsewhere than on Linux
	}
	if need <= 0 {
		return fmt.Errorf("%w: %s bytes are free there; make room", err, free)
	}
	return fmt.Errorf("%w: %s bytes are free there and at least %d more are needed; make room", err, free, need)
}

// left is how much of what was announced has not been written yet, in bytes; holes count.
func (u *receiver) left() int64 {
	pending := u.pending.Load()
	switch {
	case u.file == nil:
		return pending
	case !u.logOn:
		return pending + u.to - u.at
	}
	base, _ := store.ParseFileName(u.part)
	return pending + u.log.To - base - u.at
}
