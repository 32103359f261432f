package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAFullDiskSaysWhatIsFreeAndWhatIsMissing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "00000000000000000000")
	full := fmt.Errorf("receive: %w", &fs.PathError{Op: "write", Path: file, Err: syscall.ENOSPC})
	err := withSpace(full, "/", 4096)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the cause is lost: %v", err)
	}
	for _, want := range []string{file, "bytes are free there", "at least 4096 more are needed"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not said: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "unknown") {
		t.Errorf("the file is not there, its folder is: %v", err)
	}
	if other := errors.New("other"); withSpace(other, "/", 1) != other || withSpace(nil, "/", 1) != nil {
		t.Error("another error is changed")
	}
	u := receiver{logOn: true, log: logList{To: 5000}, part: "00000000000000004096", at: 100}
	if u.left() != 0 {
		t.Error("nothing is being received, and something is left")
	}
}
